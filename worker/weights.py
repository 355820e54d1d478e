"""Replaces `job:<id>` in a config by the file that this job published, and `model:<id>` by the uploaded one.

The job has succeeded by then (the store does not hand out jobs that wait), so its report names the model.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from gkd_core.config import AnyRun
from gkd_core.errors import DataError, Problem, SpecError
from jobs.artifacts.base import Artifacts
from jobs.errors import ContentGone, UnknownArtifact, UnknownJob, UnknownResource, WrongContent
from jobs.resources import MODEL, ResourceKind
from jobs.store.store import Store
from jobs.sync.cancellation import NEVER

SECTIONS = ("teacher", "student", "model")
"""Sections of a config that may name weights."""
PREFIX = "job:"
_NO_MODEL = (UnknownJob, UnknownArtifact, UnknownResource, ContentGone, LookupError)
"""Errors that mean that there is no model."""
MAKE_MODELS = ("train", "distill")
"""Kinds of jobs that create a model."""


def find_weights(
    config: AnyRun,
    store: Store,
    artifacts: Artifacts,
    folder: Path,
    cancelled: threading.Event = NEVER,
) -> AnyRun:
    """Return the config with local files instead of jobs and uploaded models.

    Args:
        config: The engine's config.
        store: Knows what the jobs have published.
        artifacts: Has the files.
        folder: Where remote files are copied to.
        cancelled: Set to cancel.

    Raises:
        OperationCancelled: It was cancelled.
        SpecError: A job published no model, a model was deleted, or its file is gone.
        DataError: The file is damaged: a retry would find the same.
        ArtifactsUnavailable: The files cannot be reached now.
    """
    found: dict[str, Any] = {}
    for section in SECTIONS:
        part = getattr(config, section, None)
        if part is not None and part.weights and part.weights.startswith((PREFIX, MODEL)):
            try:
                sha256 = _content_of(part.weights, store)
                path = artifacts.fetch(sha256, folder, cancelled)
            except WrongContent as error:
                raise DataError([_missing(section, part.weights, error)]) from error
            except _NO_MODEL as error:
                raise SpecError([_missing(section, part.weights, error)]) from error
            found[section] = part.model_copy(update={"weights": str(path)})
    return config.model_copy(update=found)


def _content_of(weights: str, store: Store) -> str:
    """Return the SHA-256 of the file that a name stands for."""
    if weights.startswith(PREFIX):
        return _model_of(weights.removeprefix(PREFIX), store)
    return str(store.resources.get_resource(ResourceKind.MODEL, weights.removeprefix(MODEL)).sha256)


def _model_of(job_id: str, store: Store) -> str:
    """Return the SHA-256 of the model that a job creates: the student of a distill job, the model of a train job."""
    kind = store.reading.get(job_id).kind
    if kind not in MAKE_MODELS:
        raise LookupError(f"it is of kind {kind}, which makes none")
    models = (store.reading.report(job_id) or {}).get("models", {})
    file = (models.get("student") or models.get("model") or {}).get("file")
    if file is None:
        raise LookupError("its report names no file of a model")
    return store.reading.artifact(job_id, file).sha256


def _missing(section: str, weights: str, error: Exception) -> Problem:
    kind, _, name = weights.partition(":")
    hints = {
        "job": "Look at that job's artifacts, run it again, or name another checkpoint.",
        "model": "Upload the model again, and submit the job with the new id.",
    }
    message = f"{kind} {name} has no model to start from: {error}"
    return Problem(loc=(section, "weights"), message=message, hint=hints[kind])
