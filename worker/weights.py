"""Turns `job:<id>` in a config into the file that this job published.

The job has succeeded by then (the store does not hand out jobs that wait), so its report names the model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gkd_core.config import AnyRun
from gkd_core.errors import Problem, SpecError
from jobs.artifacts import Artifacts
from jobs.errors import UnknownArtifact, UnknownJob
from jobs.store import Store

SECTIONS = ("teacher", "student", "model")
"""Parts of a config that may name weights."""
PREFIX = "job:"
MAKE_MODELS = ("train", "distill")
"""Kinds of jobs that make a model."""


def find_weights(config: AnyRun, store: Store, artifacts: Artifacts) -> AnyRun:
    """The same config, with a file wherever it named a job.

    Raises:
        SpecError: A job published no model, or its file is gone.
    """
    found: dict[str, Any] = {}
    for section in SECTIONS:
        part = getattr(config, section, None)
        if part is not None and part.weights and part.weights.startswith(PREFIX):
            job_id = part.weights.removeprefix(PREFIX)
            try:
                path = model_of(job_id, store, artifacts)
            except (UnknownJob, UnknownArtifact, FileNotFoundError, LookupError) as error:
                raise SpecError([_missing(section, job_id, error)]) from error
            found[section] = part.model_copy(update={"weights": str(path)})
    return config.model_copy(update=found)


def model_of(job_id: str, store: Store, artifacts: Artifacts) -> Path:
    """The file of the model that a job is for: the student of a distill job, the model of a train job.

    Raises:
        UnknownJob: There is no such job.
        UnknownArtifact: It published no such model.
        FileNotFoundError: The file is gone.
        LookupError: It is of a kind that makes no model.
    """
    kind = store.get(job_id).kind
    if kind not in MAKE_MODELS:
        raise LookupError(f"it is of kind {kind}, which makes none")
    models = (store.report(job_id) or {}).get("models", {})
    model = models.get("student") or models.get("model") or {}
    path = artifacts.path(store.artifact(job_id, model.get("file") or "a model").sha256)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is gone")
    return path


def _missing(section: str, job_id: str, error: Exception) -> Problem:
    return Problem(
        loc=(section, "weights"),
        message=f"job {job_id} has no model to start from: {error}",
        hint="Look at that job's artifacts, run it again, or name another checkpoint.",
    )
