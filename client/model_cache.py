"""A cache of models named `job:<id>` and `model:<id>`, fetched from the service.

A file is stored under its SHA-256, and hashed again at each use: if the disk has damaged it, it is fetched
anew.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from client.client import Client
from client.errors import ClientError
from client.names import find_job, find_resource
from jobs.resources import ResourceKind

PREFIXES = ("job:", "model:")
ROLES = ("student", "model")
"""The models that a job creates, as named in its report."""


def is_fetched(written: str) -> bool:
    """Return whether the text names a model of the service instead of a file."""
    return written.startswith(PREFIXES)


def fetch_model(client: Client, written: str, folder: Path | None = None) -> Path:
    """Return the file of a model, fetched unless it is cached.

    Args:
        client: A client of the service.
        written: `job:<id>` or `model:<id>`; the beginning of an id, or a name, will do.
        folder: The cache; None: the user's.

    Raises:
        ClientError: there is no such job or model, it has no file, or the received file has the wrong hash.
    """
    folder = folder or cache()
    if written.startswith("job:"):
        return _fetch_job_model(client, find_job(client, written), folder)
    return _fetch_registered_model(client, find_resource(client, ResourceKind.MODEL, written), folder)


def cache() -> Path:
    """Return the folder of fetched models: `gkd/models` in the user's cache."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "gkd" / "models"


def _fetch_job_model(client: Client, job_id: str, folder: Path) -> Path:
    """Return the student of a distill job, the model of a train job, the network of an export job.

    The best so far.
    """
    files = {file.name: file.sha256 for file in client.artifacts(job_id)}
    names = [*(f"{role}.safetensors" for role in ROLES), "model.onnx"]
    name = next((name for name in names if name in files), None)
    if name is None:
        job = client.job(job_id)
        message = f"job {job_id} has published no model: it is of kind {job.kind}, {job.state}"
        raise ClientError(message, f"See its files with gkd show {job_id}.")
    kept = folder / f"{files[name]}{Path(name).suffix}"
    if not _has_hash(kept, files[name]):
        kept.parent.mkdir(parents=True, exist_ok=True)
        client.download(job_id, name, kept)
    return kept


def _fetch_registered_model(client: Client, model_id: str, folder: Path) -> Path:
    """Return an uploaded model; of one under a data root, the file itself if this machine has it."""
    found = client.resource(ResourceKind.MODEL, model_id)
    if not found.sha256:
        raise ClientError(f"model {model_id} is {found.state}: {found.reason}")
    if found.path:
        if _has_hash(Path(found.path), found.sha256):
            return Path(found.path)
        hint = "Name a file of this machine, or upload the model: gkd models add FILE --upload."
        raise ClientError(f"model {model_id} lies at {found.path} where the service runs, not here", hint)
    kept = folder / f"{found.sha256}.safetensors"
    if not _has_hash(kept, found.sha256):
        kept.parent.mkdir(parents=True, exist_ok=True)
        client.download_model(model_id, kept)
    return kept


def _has_hash(file: Path, sha256: str) -> bool:
    """Return whether a file exists and has this hash."""
    try:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest() == sha256
    except OSError:
        return False
