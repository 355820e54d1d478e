"""Artifacts: published files, in a folder or on S3."""

from __future__ import annotations

from pathlib import Path

from jobs.artifacts.base import Artifacts
from jobs.artifacts.folder import FolderArtifacts
from jobs.errors import ArtifactsRefused


def open_artifacts(place: Path | str) -> Artifacts:
    """Return the artifacts at a place.

    Args:
        place: A folder, or `s3://BUCKET/PREFIX`; see `GKD_ARTIFACTS_URL`.

    Raises:
        ArtifactsRefused: S3 is asked for, and its library is not installed.
    """
    if isinstance(place, Path):
        return FolderArtifacts(place)
    try:
        from jobs.artifacts.s3 import S3Artifacts
    except ImportError as error:
        hint = "pip install 'gkd[s3]', or keep them in a folder (GKD_ARTIFACTS_URL)."
        raise ArtifactsRefused(f"files on S3 need a library that is missing ({error.name})", hint) from error
    return S3Artifacts(place)
