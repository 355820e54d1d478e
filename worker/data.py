"""Turns `dataset:<id>/...` in a config into paths of this machine, where an uploaded data set is unpacked once."""

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
from jobs.uploads.archives import BadArchive
from worker.weights import SECTIONS


def find_data(
    config: AnyRun, store: Store, dataset_cache: DatasetCache, cancelled: threading.Event = NEVER
) -> AnyRun:
    """The same config, with a folder wherever it named a data set that was uploaded.

    Args:
        config: What the engine is to do.
        store: Knows the data sets.
        dataset_cache: Where they are unpacked.
        cancelled: Set to break off.

    Raises:
        OperationCancelled: It was broken off.
        SpecError: The data set is gone, or can no longer be unpacked.
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
    """Refuse data and weights that lie elsewhere than jobs may read: a link may have been put there since they were
    checked. What goes by an id is the service's own.

    Args:
        roots: The data roots.
        config: What the engine is to do, as it was resolved.

    Raises:
        DataError: Something leads out of the roots.
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
    """The section of each model that starts from a file of this machine, and the path of that file."""
    for section in SECTIONS:
        weights = getattr(getattr(config, section, None), "weights", None)
        if weights and weights.startswith("/"):
            yield section, weights


def _named_in(data: DataConfig) -> str | None:
    """The data set whose files a resolved config names."""
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
