"""Turns `job:<id>` in a config into the file that this job published.

The job has succeeded by then (the store does not hand out jobs that wait), so its report names the model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gkd_core.config import AnyRun
from gkd_core.errors import Problem, SpecError
from jobs.artifacts import Artifacts
from jobs.errors import ContentGone, UnknownArtifact, UnknownJob, WrongContent
from jobs.store import Store

SECTIONS = ("teacher", "student", "model")
"""Parts of a config that may name weights."""
PREFIX = "job:"
MAKE_MODELS = ("train", "distill")
"""Kinds of jobs that make a model."""


def find_weights(config: AnyRun, store: Store, artifacts: Artifacts, folder: Path) -> AnyRun:
    """The same config, with a file wherever it named a job.

    Args:
        config: What the engine is to do.
        store: Knows what the jobs have published.
        artifacts: Has the files.
        folder: Where copies are made of those that lie elsewhere.

    Raises:
        SpecError: A job published no model, or its file is gone or damaged.
        ArtifactsAway: The files cannot be reached now.
    """
    found: dict[str, Any] = {}
    for section in SECTIONS:
        part = getattr(config, section, None)
        if part is not None and part.weights and part.weights.startswith(PREFIX):
            job_id = part.weights.removeprefix(PREFIX)
            try:
                path = model_of(job_id, store, artifacts, folder)
            except (UnknownJob, UnknownArtifact, ContentGone, WrongContent, LookupError) as error:
                raise SpecError([_missing(section, job_id, error)]) from error
            found[section] = part.model_copy(update={"weights": str(path)})
    return config.model_copy(update=found)


def model_of(job_id: str, store: Store, artifacts: Artifacts, folder: Path) -> Path:
    """The file of the model that a job is for: the student of a distill job, the model of a train job.

    Raises:
        UnknownJob: There is no such job.
        UnknownArtifact: It published no such model.
        ContentGone: The file is gone.
        WrongContent: It is damaged.
        ArtifactsAway: It cannot be reached now.
        LookupError: It is of a kind that makes no model.
    """
    kind = store.get(job_id).kind
    if kind not in MAKE_MODELS:
        raise LookupError(f"it is of kind {kind}, which makes none")
    models = (store.report(job_id) or {}).get("models", {})
    model = models.get("student") or models.get("model") or {}
    return artifacts.fetch(store.artifact(job_id, model.get("file") or "a model").sha256, folder)


def _missing(section: str, job_id: str, error: Exception) -> Problem:
    return Problem(
        loc=(section, "weights"),
        message=f"job {job_id} has no model to start from: {error}",
        hint="Look at that job's artifacts, run it again, or name another checkpoint.",
    )
