"""Replaces `dataset:<id>/...` in a config by local paths; an uploaded data set is unpacked once on each machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from gkd_core.config import AnyRun, DataConfig, Split
from gkd_core.errors import DataError, Problem, SpecError
from jobs.errors import ContentGone, UnknownResource, WrongContent
from jobs.paths.data_roots import DataRootError, DataRoots
from jobs.registry.dataset_cache import DatasetCache
from jobs.resources import DATASET, ResourceKind
from jobs.store.store import Store
from jobs.sync.cancellation import NEVER
from jobs.uploads.archive_members import BadArchive
from worker.weights import SECTIONS


def find_data(
    config: AnyRun, store: Store, dataset_cache: DatasetCache, cancelled: threading.Event = NEVER
) -> AnyRun:
    """Return the config with local folders instead of uploaded data sets.

    Args:
        config: The engine's config.
        store: Knows the data sets.
        dataset_cache: Where they are unpacked.
        cancelled: Set to cancel.

    Raises:
        OperationCancelled: It was cancelled.
        SpecError: The data set was deleted, or can no longer be unpacked.
        ArtifactsUnavailable: The archive cannot be reached now.
        OSError: The disk is full or failing.
    """
    dataset_id = _named_in(config.data)
    if dataset_id is None:
        return config
    try:
        dataset = store.resources.get_resource(ResourceKind.DATASET, dataset_id)
        folder = dataset_cache.folder(str(dataset.sha256), cancelled=cancelled)
    except (UnknownResource, ContentGone, WrongContent, BadArchive) as error:
        problem = Problem(
            loc=("data", "path"),
            message=f"data set {dataset_id} cannot be read: {error}",
            hint="Upload it again, and submit the job with the new id.",
        )
        raise SpecError([problem]) from error
    placed: dict[str, Split] = {
        name: _placed(split, dataset_id, folder) for name, split in config.data.splits.items()
    }
    return config.model_copy(update={"data": config.data.model_copy(update=placed)})


def must_lie_under(roots: Sequence[Path], config: AnyRun) -> None:
    """Check that data and weights lie under the data roots: a link may have been created since the submission.

    Data and weights named by id belong to the service and are not checked.

    Args:
        roots: The data roots.
        config: The resolved config.

    Raises:
        DataError: A path leads out of the roots.
    """
    places = DataRoots(roots)
    refused: list[tuple[tuple[str, ...], DataRootError]] = []
    if _named_in(config.data) is None:
        refused += [(("data",), error) for error in places.left_by(config.data)]
    for section, weights in named_weights(config):
        try:
            places.must_allow(Path(weights))
        except DataRootError as error:
            refused.append(((section, "weights"), error))
    if refused:
        raise DataError([Problem(loc=loc, message=error.message, hint=error.hint) for loc, error in refused])


def named_weights(config: AnyRun) -> Iterator[tuple[str, str]]:
    """Yield the section and path of each model that starts from a local file."""
    for section in SECTIONS:
        weights = getattr(getattr(config, section, None), "weights", None)
        if weights and weights.startswith("/"):
            yield section, weights


def _named_in(data: DataConfig) -> str | None:
    """Return the id of the uploaded data set that a resolved config names; None if there is none."""
    first = next(iter(data.splits.values()), None)
    if first is None or not first.images.startswith(DATASET):
        return None
    return first.images.removeprefix(DATASET).partition("/")[0]


def _placed(split: Split, dataset_id: str, folder: Path) -> Split:
    name = f"{DATASET}{dataset_id}"
    paths = {
        field: str(folder) + path.removeprefix(name)
        for field in ("images", "annotations", "names")
        if (path := getattr(split, field)) is not None
    }
    return split.model_copy(update=paths)
