"""Checks in a process of their own: with limits, and without harm however that process ends."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from jobs.artifacts import open_artifacts
from jobs.errors import OperationCancelled, StillUnpacking, StoreUnavailable, WrongContent
from jobs.registry import check_runner
from jobs.registry import dataset_cache as dataset_cache
from jobs.registry.check_runner import Checks
from jobs.registry.dataset_cache import DatasetCache
from jobs.resources import CheckedResource, Layout, NewResource, Resource, ResourceKind, ResourceState
from jobs.settings import Settings
from jobs.store.store import Check, Store
from jobs.uploads.archives import unpack

DATASET, MODEL = ResourceKind.DATASET, ResourceKind.MODEL


class Service:
    """A store with resources to check, and their checker."""

    def __init__(self, folder: Path, url: str, **settings: Any) -> None:
        about = {"home": folder / "home", "data_roots": (folder,), "database_url": url, "free_bytes": 0}
        self.settings = Settings(**(about | settings))
        self.store = Store(url)
        self.artifacts = open_artifacts(self.settings.artifacts_url)
        self.dataset_cache = DatasetCache.of(self.settings, self.artifacts)
        self.checks = Checks(self.store, self.dataset_cache, self.settings)

    def upload(self, file: Path, kind: ResourceKind = DATASET) -> Resource:
        blob = self.artifacts.put(file)
        new = NewResource(kind, file.name, layout=Layout(), size=blob.size, sha256=blob.sha256)
        return self.store.resources.add_resource(new, tenant="lab")[0]

    def register(self, path: Path, kind: ResourceKind = DATASET) -> Resource:
        return self.store.resources.add_resource(
            NewResource(kind, "mine", str(path), Layout()), tenant="lab"
        )[0]

    def checked(self, resource: Resource) -> CheckedResource:
        assert self.checks.check_next()
        return self.store.resources.get_resource(resource.kind, resource.id)

    def on_shelf(self) -> list[str]:
        return sorted(path.name for path in self.dataset_cache.root.glob("*") if path.is_dir())


@pytest.fixture
def service(tmp_path: Path, sqlite_url: str) -> Iterator[Service]:
    service = Service(tmp_path, sqlite_url)
    with closing(service.store):
        yield service


@pytest.fixture
def archive(tmp_path: Path, draw: Callable[..., Path]) -> Path:
    folder = draw(tmp_path / "discs")
    with tarfile.open(tmp_path / "discs.tar.gz", "w:gz") as packed:
        packed.add(folder, "discs")
    return tmp_path / "discs.tar.gz"


def test_an_uploaded_data_set_is_checked_and_stays_unpacked(service: Service, archive: Path) -> None:
    found = service.checked(service.upload(archive))
    assert (found.state, found.report and found.report["format"]) == ("ready", "coco")
    assert service.on_shelf() == [found.sha256]
    assert (service.dataset_cache.folder(str(found.sha256)) / "annotations").is_dir()


def test_what_was_refused_leaves_nothing_unpacked(service: Service, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "evil.tar", "w") as packed:
        packed.addfile(tarfile.TarInfo("fine"))
        packed.addfile(tarfile.TarInfo("../evil"))
    found = service.checked(service.upload(tmp_path / "evil.tar"))
    assert (found.state, found.reason) == ("refused", "'../evil' leads out of the archive")
    assert service.on_shelf() == []
    assert not (service.settings.home / "evil").exists()


def test_a_registered_data_set_is_checked_where_it_lies(
    service: Service, archive: Path, tmp_path: Path
) -> None:
    found = service.checked(service.register(tmp_path / "discs"))
    assert (found.state, found.uploaded, found.sha256) == ("ready", False, None)
    assert found.fingerprint is not None
    assert found.size > 0


def test_too_much_memory_is_refused(
    service: Service, monkeypatch: pytest.MonkeyPatch, archive: Path, tmp_path: Path
) -> None:
    greedy = (
        "import jobs.uploads.check_process as own; "
        "own.examine_layout = lambda *_, **__: bytearray(8 * 2**30); own.main()"
    )
    monkeypatch.setattr(check_runner, "COMMAND", ("-c", greedy))
    found = service.checked(service.register(tmp_path / "discs"))
    assert (found.state, found.reason) == ("refused", "to look into it takes more than 4.0 GiB of memory")


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make checks hang and ignore SIGTERM."""
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    monkeypatch.setattr(check_runner, "COMMAND", ("-c", code))


@pytest.mark.usefixtures("hanging")
def test_a_check_that_never_ends_is_ended(tmp_path: Path, sqlite_url: str, archive: Path) -> None:
    service = Service(tmp_path, sqlite_url, check_seconds=1)
    with closing(service.store):
        found = service.checked(service.upload(archive))
    assert (found.state, found.reason) == ("refused", "it cannot be checked: it took longer than 1 s")


@pytest.mark.usefixtures("hanging")
def test_a_check_is_given_back_when_its_service_ends(
    service: Service, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, start = threading.Event(), subprocess.Popen

    def noted(*command: Any, **options: Any) -> subprocess.Popen[bytes]:
        process = start(*command, **options)
        begun.set()
        return process

    monkeypatch.setattr(subprocess, "Popen", noted)
    resource = service.upload(archive)
    with service.checks:
        assert begun.wait(60)
    assert service.store.resources.get_resource(DATASET, resource.id).state is ResourceState.CHECKING
    again = service.store.resources.next_check()
    assert again is not None
    assert again.number == 1


def test_a_service_that_ends_does_not_wait_until_a_file_is_fetched(
    service: Service, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetching = threading.Event()

    def take_long(sha256: str, folder: Path, cancelled: threading.Event) -> Path:
        fetching.set()
        assert cancelled.wait(60)
        raise OperationCancelled

    monkeypatch.setattr(service.artifacts, "fetch", take_long)
    resource = service.upload(archive)
    with service.checks:
        assert fetching.wait(60)
    must_be_free_again(service, resource)
    assert service.on_shelf() == []


def test_a_service_that_ends_leaves_a_check_behind_that_hears_of_nothing(
    service: Service, archive: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(check_runner, "ENDING_SECONDS", 0.1)
    fetching, hangs = threading.Event(), threading.Event()

    def hang(*_: object) -> Path:
        fetching.set()
        assert hangs.wait(60)
        raise OperationCancelled

    monkeypatch.setattr(service.artifacts, "fetch", hang)
    resource = service.upload(archive)
    with service.checks:
        assert fetching.wait(60)
    assert "a check does not hear that the service ends" in caplog.text
    assert service.store.resources.next_check() is None, "it is not another one's before its lease is over"
    hangs.set()
    wait_until(lambda: not service.checks.is_alive())
    must_be_free_again(service, resource)


def must_be_free_again(service: Service, resource: Resource) -> None:
    assert service.store.resources.get_resource(DATASET, resource.id).state is ResourceState.CHECKING
    again = service.store.resources.next_check()
    assert again is not None
    assert again.resource.id == resource.id


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import os; os.kill(os.getpid(), 11)", "looking into it broke off (signal 11)"),
        ("raise SystemExit(3)", "looking into it broke off (exit code 3)"),
        ("print('nonsense')", "looking into it gave no answer"),
        ("while True: pass", "it took more than 60 s of computing"),
    ],
)
def test_a_process_that_breaks_harms_nobody(
    tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch, code: str, why: str
) -> None:
    limited = "import resource; resource.setrlimit(resource.RLIMIT_CPU, (1, 2));"
    monkeypatch.setattr(check_runner, "COMMAND", ("-c", limited + "\n" + code))
    service = Service(tmp_path, sqlite_url, check_seconds=60)
    (tmp_path / "model").write_bytes(b"")
    with closing(service.store):
        found = service.checked(service.register(tmp_path / "model", MODEL))
    assert found.state is ResourceState.REFUSED
    assert why in found.reason


def test_a_check_knows_no_secret(service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GKD_DATABASE_URL", "postgresql://user:secret@host/name")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    tell = "import json, os; print(json.dumps({'state': 'ready', 'reason': ' '.join(os.environ.values())}))"
    monkeypatch.setattr(check_runner, "COMMAND", ("-c", tell))
    (tmp_path / "model").write_bytes(b"")
    assert "secret" not in service.checked(service.register(tmp_path / "model", MODEL)).reason


def test_threads_check_what_comes_in(service: Service, archive: Path, tmp_path: Path) -> None:
    with service.checks:
        uploaded, registered = service.upload(archive), service.register(tmp_path / "discs")
        service.checks.hurry()
        service.checks.hurry()
        for resource in (uploaded, registered):
            wait_until(
                lambda id=resource.id: service.store.resources.get_resource(DATASET, id).state == "ready"
            )


def test_what_nobody_names_is_tidied_away(service: Service, archive: Path) -> None:
    resource = service.checked(service.upload(archive))
    (left := service.dataset_cache.root / ".unpacking-x").mkdir()
    make_old(left)
    service.dataset_cache.tidy(service.store)
    assert service.on_shelf() == [resource.sha256]
    service.store.resources.delete_resource(DATASET, resource.id)
    service.dataset_cache.tidy(service.store)
    assert service.on_shelf() == []


def test_a_shelf_of_another_database_is_left_alone(service: Service, archive: Path) -> None:
    resource = service.checked(service.upload(archive))
    (service.dataset_cache.root / ".owner").write_text("somebody")
    service.store.resources.delete_resource(DATASET, resource.id)
    service.dataset_cache.tidy(service.store)
    assert service.on_shelf() == [resource.sha256]


@pytest.fixture
def unpacked(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return the list of archives that are unpacked outside of checks, each slowly."""
    seen: list[Path] = []

    def slowly(archive: Path, *about: Any) -> None:
        seen.append(archive)
        time.sleep(0.2)
        unpack(archive, *about)

    monkeypatch.setattr(dataset_cache, "unpack", slowly)
    return seen


def test_a_data_set_that_was_tidied_away_is_unpacked_again_and_once(
    service: Service, archive: Path, unpacked: list[Path]
) -> None:
    sha256 = service.artifacts.put(archive).sha256
    folders: list[Path] = []
    threads = [
        threading.Thread(target=lambda: folders.append(service.dataset_cache.folder(sha256)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert folders == [service.dataset_cache.root / sha256 / "discs"] * 4
    assert service.on_shelf() == [sha256]
    assert len(unpacked) == 1


def test_who_cannot_wait_for_another_one_to_unpack_is_told(service: Service, archive: Path) -> None:
    sha256 = service.artifacts.put(archive).sha256
    with (
        service.dataset_cache._locked(sha256),
        pytest.raises(StillUnpacking, match="send the same again"),
    ):
        service.dataset_cache.folder(sha256, patience=0.2)
    assert service.dataset_cache.folder(sha256, patience=0.2).is_dir()


def test_what_is_unpacked_is_there_while_another_one_is_being_unpacked(
    service: Service, archive: Path
) -> None:
    sha256 = service.artifacts.put(archive).sha256
    folder = service.dataset_cache.folder(sha256)
    with service.dataset_cache._locked(sha256):  # as for any whose name begins like this one
        assert service.dataset_cache.folder(sha256, patience=0.0) == folder


def test_what_is_named_again_while_it_is_moved_aside_is_put_back(
    service: Service, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resource = service.checked(service.upload(archive))
    service.store.resources.delete_resource(DATASET, resource.id)
    rename = Path.rename

    def named_meanwhile(path: Path, target: Path) -> Path:
        if path.name == resource.sha256 and path.parent == service.dataset_cache.root:
            service.upload(archive)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", named_meanwhile)
    service.dataset_cache.tidy(service.store)
    assert service.on_shelf() == [resource.sha256]
    assert (service.dataset_cache.root / str(resource.sha256) / "discs").is_dir()


def test_who_waits_for_another_one_to_unpack_can_give_up(service: Service, archive: Path) -> None:
    sha256 = service.artifacts.put(archive).sha256
    cancelled = threading.Event()
    threading.Timer(0.2, cancelled.set).start()
    with service.dataset_cache._locked(sha256), pytest.raises(OperationCancelled):
        service.dataset_cache.folder(sha256, patience=60.0, cancelled=cancelled)


def test_who_unpacked_and_was_killed_holds_nobody_up(service: Service, archive: Path) -> None:
    sha256 = service.artifacts.put(archive).sha256
    service.dataset_cache.root.mkdir(parents=True)
    hang = (
        "import pathlib, sys, time; from jobs.sync.file_lock import alone\n"
        "with alone(pathlib.Path(sys.argv[1])): print(flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", hang, str(service.dataset_cache.root / f".lock-{sha256[:2]}")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        try:
            other.stdout.readline()
            with pytest.raises(StillUnpacking):
                service.dataset_cache.folder(sha256, patience=0.0)
        finally:
            other.kill()
            other.wait()
    assert service.dataset_cache.folder(sha256, patience=0.0).is_dir()


def test_a_data_set_that_is_named_again_while_it_is_tidied_away_stays(
    service: Service, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resource = service.checked(service.upload(archive))
    service.store.resources.delete_resource(DATASET, resource.id)
    uploads, asked = service.store.resources.uploads, []

    def named_meanwhile() -> frozenset[str]:
        found = uploads()
        if not asked:
            service.upload(archive)
        asked.append(found)
        return found

    monkeypatch.setattr(service.store.resources, "uploads", named_meanwhile)
    service.dataset_cache.tidy(service.store)
    assert asked[0] == frozenset()
    assert service.on_shelf() == [resource.sha256]


def test_a_verdict_outlives_a_database_that_is_away_just_then(
    service: Service, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_runner, "_RETRY_SECONDS", 0.01)
    conclude, tries = service.store.resources.conclude_check, []

    def away_at_first(*about: Any) -> None:
        tries.append(about)
        if len(tries) < 4:
            raise StoreUnavailable(OSError("gone"))
        conclude(*about)

    monkeypatch.setattr(service.store.resources, "conclude_check", away_at_first)
    assert service.checked(service.upload(archive)).state is ResourceState.READY
    assert len(tries) == 4


def test_a_model_is_checked(service: Service, tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    (tmp_path / "model").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    found = service.checked(service.upload(tmp_path / "model", MODEL))
    assert (found.state, found.report and found.report["tensors"]) == ("ready", 1)


def test_a_check_stays_ours_while_a_large_file_is_fetched(
    tmp_path: Path, sqlite_url: str, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Service(tmp_path, sqlite_url, renew_seconds=0.05)
    renewed = threading.Semaphore(0)
    fetch = service.artifacts.fetch

    def slowly(sha256: str, folder: Path, cancelled: threading.Event) -> Path:
        assert renewed.acquire(timeout=20)
        assert renewed.acquire(timeout=20)
        return fetch(sha256, folder, cancelled)

    monkeypatch.setattr(service.store.resources, "renew_check", lambda check: renewed.release())
    monkeypatch.setattr(service.artifacts, "fetch", slowly)
    with closing(service.store):
        assert service.checked(service.upload(archive)).state is ResourceState.READY


def test_a_file_that_was_damaged_where_it_lies_is_refused(
    service: Service, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(sha256: str, folder: Path, cancelled: threading.Event) -> Path:
        raise WrongContent("a copy", sha256, "0" * 64)

    monkeypatch.setattr(service.artifacts, "fetch", damaged)
    assert "it was replaced or damaged" in service.checked(service.upload(archive)).reason


def test_what_nobody_foresaw_does_not_end_the_checks_to_come(
    service: Service, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    next_check, struck = service.store.resources.next_check, []

    def strike_each_thread() -> Check | None:
        if threading.get_ident() not in struck:
            struck.append(threading.get_ident())
            raise ZeroDivisionError
        return next_check()

    monkeypatch.setattr(service.store.resources, "next_check", strike_each_thread)
    with service.checks:
        wait_until(lambda: len(struck) == check_runner.THREADS)
        resource = service.upload(archive)
        service.checks.hurry()
        wait_until(lambda: service.store.resources.get_resource(DATASET, resource.id).state == "ready")


def test_a_file_that_is_gone_is_refused(service: Service, archive: Path) -> None:
    resource = service.upload(archive)
    service.artifacts.remove(str(resource.sha256), -1.0)
    assert "is gone" in service.checked(resource).reason


def make_old(path: Path) -> None:
    long_ago = time.time() - 90_000
    os.utime(path, (long_ago, long_ago))


def wait_until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)
