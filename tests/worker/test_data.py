"""`dataset:<id>` and `model:<id>` become folders and files of this machine, for every store of uploads."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from gkd_core.config import DataConfig, EvaluateRun, Split, SplitName, TeacherConfig, TrainRun
from gkd_core.data.reading import load
from gkd_core.data.records import DataSet
from gkd_core.errors import SpecError
from jobs.artifacts.base import Artifacts
from jobs.registry.dataset_cache import DatasetCache
from jobs.resources import Layout, NewResource, ResourceKind, ResourceState, Verdict
from jobs.specs.resolve import resolve
from jobs.specs.spec import job_spec
from jobs.store.store import Store
from jobs.uploads.archives import Limits
from worker.data import find_data
from worker.weights import find_weights


@pytest.fixture
def dataset_cache(tmp_path: Path, artifacts: Artifacts) -> DatasetCache:
    return DatasetCache(tmp_path / "home" / "datasets", artifacts, Limits(total_bytes=10_000_000))


@pytest.fixture
def dataset_id(store: Store, artifacts: Artifacts, tmp_path: Path, draw: Callable[..., Path]) -> str:
    packed = pack(draw(tmp_path / "drawn" / "discs"), tmp_path)
    return upload(store, artifacts, packed, ResourceKind.DATASET)


def pack(folder: Path, place: Path) -> Path:
    """Pack what is in a folder into a zip file of its name."""
    packed = place / f"{folder.name}.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
    return packed


def upload(store: Store, artifacts: Artifacts, file: Path, kind: ResourceKind) -> str:
    blob = artifacts.put(file)
    new = NewResource(kind, file.name, layout=Layout(), size=blob.size, sha256=blob.sha256)
    return store.resources.add_resource(new, tenant="lab")[0].id


def unpacked(dataset_cache: DatasetCache) -> list[str]:
    return [path.name for path in dataset_cache.root.iterdir() if path.is_dir()]


def config_of(name: str) -> TrainRun:
    train, val = (split_of(name, split) for split in ("train", "val"))
    return TrainRun(data=DataConfig(format="coco", train=train, val=val, classes=("disc", "ring")))


def split_of(name: str, split: str) -> Split:
    return Split(images=f"{name}/images", annotations=f"{name}/annotations/instances_{split}.json")


def test_a_data_set_is_unpacked_where_it_is_needed(
    store: Store, dataset_cache: DatasetCache, dataset_id: str
) -> None:
    found = find_data(config_of(f"dataset:{dataset_id}"), store, dataset_cache).data
    assert found.train is not None
    assert found.val is not None
    assert Path(found.train.images, "train1.png").is_file()
    assert Path(found.val.annotations).is_file()
    assert found.classes == ("disc", "ring")
    assert unpacked(dataset_cache) == [store.resources.get_resource(ResourceKind.DATASET, dataset_id).sha256]


def test_a_test_split_is_unpacked_too_also_where_it_stands_alone(
    store: Store, dataset_cache: DatasetCache, dataset_id: str
) -> None:
    data = DataConfig(test=split_of(f"dataset:{dataset_id}", "val"))
    found = find_data(EvaluateRun(data=data, model=TeacherConfig(weights="x")), store, dataset_cache).data
    assert found.test is not None
    assert Path(found.test.images, "train1.png").is_file()
    assert Path(found.test.annotations).is_file()


def test_one_that_is_there_is_not_unpacked_again(
    store: Store, artifacts: Artifacts, dataset_cache: DatasetCache, dataset_id: str
) -> None:
    config = config_of(f"dataset:{dataset_id}")
    first = find_data(config, store, dataset_cache)
    artifacts.remove(str(store.resources.get_resource(ResourceKind.DATASET, dataset_id).sha256), -1)
    assert find_data(config, store, dataset_cache) == first


def test_the_only_split_of_an_upload_is_divided_as_in_a_folder(
    store: Store, artifacts: Artifacts, dataset_cache: DatasetCache, tmp_path: Path, draw: Callable[..., Path]
) -> None:
    folder = draw(tmp_path / "drawn" / "discs")
    (folder / "annotations" / "instances_val.json").unlink()
    (folder / "annotations" / "instances_train.json").rename(folder / "result.json")
    name = f"dataset:{ready(store, artifacts, pack(folder, tmp_path))}"
    set_aside = set()
    for seed in range(6):
        share = {"val_share": 0.3, "val_seed": seed}
        spec = job_spec.validate_python({"kind": "train", "data": {"path": name, **share}})
        answer = resolve(
            spec,
            roots=[],
            find_job=lambda _: None,
            find_resource=store.resources.get_resource,
            unpacked=lambda dataset: dataset_cache.folder(str(dataset.sha256)),
        )
        assert str(tmp_path) not in answer.model_dump_json()
        read = load(find_data(answer.config, store, dataset_cache).data)
        there = load(DataConfig(path=str(folder), **share))
        assert (names(read, "train"), names(read, "val")) == (names(there, "train"), names(there, "val"))
        set_aside |= set(names(read, "val"))
    assert len(set_aside) > 1  # the seed is passed on, too


def names(data: DataSet, split: SplitName) -> list[str]:
    return [record.path.name for record in data.splits[split].images]


def ready(store: Store, artifacts: Artifacts, archive: Path) -> str:
    dataset_id = upload(store, artifacts, archive, ResourceKind.DATASET)
    check = store.resources.next_check()
    assert check is not None
    store.resources.conclude_check(check, Verdict(state=ResourceState.READY, reason="as the test says"))
    return dataset_id


def test_paths_stay_as_they_are(store: Store, dataset_cache: DatasetCache) -> None:
    config = config_of("/data/discs")
    assert find_data(config, store, dataset_cache) == config


def test_a_data_set_that_is_gone_is_named(
    store: Store, artifacts: Artifacts, dataset_cache: DatasetCache, dataset_id: str
) -> None:
    artifacts.remove(str(store.resources.get_resource(ResourceKind.DATASET, dataset_id).sha256), -1)
    for name in (dataset_id, "nonsense"):
        with pytest.raises(SpecError, match=f"data set {name} cannot be read") as raised:
            find_data(config_of(f"dataset:{name}"), store, dataset_cache)
        assert raised.value.problems[0].loc == ("data", "path")
    assert unpacked(dataset_cache) == []


def test_an_uploaded_model_is_a_file(store: Store, artifacts: Artifacts, tmp_path: Path) -> None:
    (tmp_path / "model").write_text("weights")
    model_id = upload(store, artifacts, tmp_path / "model", ResourceKind.MODEL)
    data = DataConfig(path="/data")
    config = EvaluateRun(data=data, model=TeacherConfig(weights=f"model:{model_id}"))
    found = find_weights(config, store, artifacts, tmp_path / "fetched")
    assert Path(found.model.weights).read_text() == "weights"
    gone = EvaluateRun(data=data, model=TeacherConfig(weights="model:nonsense"))
    with pytest.raises(SpecError, match="model nonsense has no model to start from: there is no model"):
        find_weights(gone, store, artifacts, tmp_path / "fetched")
