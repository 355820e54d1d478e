"""Data sets and models over HTTP: registered and uploaded, read, named in specs, deleted."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import socket
import struct
import tarfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from api import deps, uploads
from gkd_core.config import DetectorConfig
from gkd_core.detectors.model_card import ModelCard
from jobs.artifacts.base import Blob
from jobs.resources import ResourceKind, ResourceState, Verdict
from jobs.uploads.incoming import Incoming

ZIP, GZIP, BINARY = ({"Content-Type": f"application/{name}"} for name in ("zip", "gzip", "octet-stream"))
CARD = ModelCard.of(DetectorConfig(), ("disc", "ring"), 64)


@pytest.fixture
def archive(root: Path) -> bytes:
    """Return the data set under the root, packed."""
    return packed(root / "discs")


def packed(folder: Path) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as file:
        file.add(folder, folder.name)
    return content.getvalue()


@pytest.fixture
def model() -> bytes:
    """Return a model file of GKD, without its tensors."""
    entries = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    header = json.dumps({"__metadata__": {"gkd": CARD.model_dump_json()}, **entries}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(8)


def upload(
    service, content: bytes | Iterator[bytes], path: str = "/datasets", name: str = "mine", **headers: str
) -> httpx.Response:
    kind = GZIP if path == "/datasets" else BINARY
    return service.http.post(path, params={"name": name}, content=content, headers=kind | headers)


def on_the_way(service) -> list[Path]:
    return [path for path in service.settings.incoming.iterdir() if path.name != ".lock"]


def conclude(service, state: ResourceState = ResourceState.READY, **found: Any) -> None:
    """Record the result of a check of the resource that has waited longest."""
    check = service.store.resources.next_check()
    service.store.resources.conclude_check(check, Verdict(state=state, reason="as the test says", **found))


def ready_dataset(service, archive: bytes) -> str:
    dataset_id = upload(service, archive).json()["id"]
    conclude(service, report={"format": "coco"})
    return dataset_id


def ready_model(service, model: bytes, report: dict[str, Any] | None = None) -> str:
    model_id = upload(service, model, "/models").json()["id"]
    conclude(service, report=report or {"card": CARD.model_dump(mode="json")})
    return model_id


# ---- adding ----------------------------------------------------------------------------------------------


def test_a_data_set_under_a_root_is_registered_and_checked(service, root):
    answer = service.http.post("/datasets", json={"name": "discs", "path": "discs"})
    assert answer.status_code == 201
    made = answer.json()
    assert (made["state"], made["uploaded"], made["path"]) == ("checking", False, str(root / "discs"))
    assert service.check_next()
    found = service.http.get(answer.headers["Location"]).json()
    assert (found["state"], found["report"]["train"]["images"]) == ("ready", 3)
    assert found["reason"].startswith("coco, 2 classes")


def test_an_archive_is_uploaded_and_checked(service, archive):
    answer = upload(service, archive)
    assert answer.status_code == 201
    made = answer.json()
    assert (made["state"], made["uploaded"], made["size"]) == ("checking", True, len(archive))
    assert service.check_next()
    found = service.http.get(answer.headers["Location"]).json()
    assert (found["state"], found["report"]["resolved"]["train"]["images"]) == ("ready", "discs/images")
    assert on_the_way(service) == []


def test_splits_can_be_spelt_out(service, root):
    splits = {
        name: {"images": "discs/images", "annotations": f"discs/annotations/instances_{name}.json"}
        for name in ("train", "val")
    }
    made = service.http.post("/datasets", json={"name": "discs", "format": "coco", **splits}).json()
    assert made["path"] is None
    assert made["layout"]["val"]["annotations"] == str(root / "discs/annotations/instances_val.json")
    conclude(service)
    answer = service.http.post("/jobs/validate", json={"kind": "train", "data": f"dataset:{made['id']}"})
    assert answer.json()["report"]["train"]["images"] == 3


def test_the_same_upload_again_is_the_same_data_set(service, archive):
    first, second = upload(service, archive), upload(service, archive)
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json()["id"] == second.json()["id"]


@pytest.mark.parametrize(
    ("body", "loc"),
    [
        ({"name": "x"}, []),
        ({"path": "discs"}, ["name"]),
        ({"name": "", "path": "discs"}, ["name"]),
        ({"name": "x", "path": "discs", "tpyo": 1}, ["tpyo"]),
        ({"name": "x", "path": "nowhere"}, ["path"]),
        ({"name": "x", "path": "../data"}, ["path"]),
        ({"name": "x", "path": "/etc"}, ["path"]),
        ({"name": "x", "path": "dis\0cs"}, ["path"]),
        ({"name": "x", "train": {"images": "discs", "annotations": "a"}}, ["train", "annotations"]),
        ({"name": "a\nb", "path": "discs"}, ["name"]),
    ],
)
def test_what_cannot_be_registered_is_named(service, body, loc):
    answer = service.http.post("/datasets", json=body)
    assert (answer.status_code, answer.json()["errors"][0]["loc"]) == (422, loc)


@pytest.mark.parametrize(
    "text", [b"{", b"nonsense", b"", b"[" * 100_000, b'{"name": "\\ud800", "path": "x"}']
)
def test_a_body_that_is_no_json_is_refused(service, text):
    answer = service.http.post("/datasets", content=text, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_json")


def test_uploads_without_a_name_or_of_another_type_are_refused(service, archive):
    assert service.http.post("/datasets", content=archive, headers=GZIP).status_code == 422
    assert upload(service, b"").status_code == 422
    for path in ("/datasets", "/models"):
        answer = service.http.post(
            path, params={"name": "x"}, content=b"x", headers={"Content-Type": "text/html"}
        )
        assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
    assert on_the_way(service) == []


def test_an_archive_that_attacks_is_refused_by_name(service):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as file:
        file.addfile(tarfile.TarInfo("../../etc/cron.d/evil"))
    made = upload(service, packed.getvalue()).json()
    assert service.check_next()
    found = service.http.get(f"/datasets/{made['id']}").json()
    assert (found["state"], found["reason"]) == (
        "refused",
        "'../../etc/cron.d/evil' leads out of the archive",
    )


# ---- limits ----------------------------------------------------------------------------------------------


@pytest.fixture
def settings(settings):
    return settings.model_copy(update={"upload_bytes": 3_000_000, "free_bytes": 0})


def test_an_upload_beyond_the_limit_is_refused(service):
    answer = upload(service, bytes(3_000_001))
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    pieces = (bytes(1_000_000) for _ in range(5))  # the request does not declare how many bytes
    answer = service.http.post("/datasets", params={"name": "x"}, content=pieces, headers=GZIP)
    assert answer.status_code == 413
    assert on_the_way(service) == []
    assert service.store.resources.list_resources(ResourceKind.DATASET).items == ()


def test_json_is_limited_as_everywhere(service):
    body = json.dumps({"name": "x", "path": "x" * 1_100_000})
    answer = service.http.post("/datasets", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 413


def test_a_tenant_uploads_as_much_as_it_may(service, archive):
    service.store.keys.set_limits("default", {"stored_bytes": len(archive) + 10})
    assert upload(service, archive).status_code == 201
    refused = upload(service, archive + bytes(20), name="more")
    assert (refused.status_code, refused.json()["code"]) == (403, "quota_exceeded")


def pieces(content: bytes) -> Iterator[bytes]:
    """Yield the content in parts, so that the request does not declare its length."""
    yield content[:1]
    yield content[1:]


@pytest.mark.parametrize("sent_as", [bytes, pieces])
def test_what_is_on_its_way_counts(service, archive, sent_as):
    service.store.keys.set_limits("default", {"stored_bytes": 2 * len(archive)})
    other = Incoming(service.settings.incoming).create("default")  # as of another process of the API
    other.cut(len(archive) + 1)
    refused = upload(service, sent_as(archive))
    assert (refused.status_code, refused.json()["code"]) == (403, "quota_exceeded")
    assert on_the_way(service) == [other.path]
    other.end()
    assert upload(service, sent_as(archive)).status_code == 201


def test_of_many_uploads_at_once_as_many_are_taken_as_there_is_room(service, archive, monkeypatch):
    service.store.keys.set_limits("default", {"stored_bytes": 3 * len(archive) + 3})
    refused, take, whole = threading.Semaphore(0), service.artifacts.take, []

    def slowly(path: Path) -> Blob:
        whole.append(path)
        assert refused.acquire(timeout=30)
        return take(path)

    def send(number: int) -> int:
        code = upload(service, archive + bytes([number]), name=f"n{number}").status_code
        refused.release()
        return code

    monkeypatch.setattr(service.artifacts, "take", slowly)
    with ThreadPoolExecutor(6) as pool:
        codes = sorted(pool.map(send, range(6)))
    assert codes == [201, 201, 201, 403, 403, 403]
    assert len(whole) == 3  # the others were refused before they were sent


def test_who_sends_and_deletes_again_and_again_does_not_fill_the_disk(service):
    service.store.keys.set_limits("default", {"stored_bytes": 150})
    for number in range(2):  # deleted files make room for as many again
        made = upload(service, bytes([number]) * 140)
        assert made.status_code == 201
        assert service.http.delete(f"/datasets/{made.json()['id']}").status_code == 204
    refused = upload(service, b"2" * 140)
    assert (refused.status_code, refused.json()["code"]) == (403, "quota_exceeded")
    assert (
        "280 bytes that it deleted, or that were refused, are not off the disk yet"
        in refused.json()["detail"]
    )


def test_an_upload_lies_on_the_disk_once(service, archive, monkeypatch):
    monkeypatch.setattr(service.artifacts, "put", None)  # which copies the file
    names: list[int] = []
    take = service.artifacts.take

    def seen(path: Path) -> Blob:
        blob = take(path)
        names.append(path.stat().st_nlink)
        return blob

    monkeypatch.setattr(service.artifacts, "take", seen)
    sha256 = upload(service, archive).json()["sha256"]
    assert names == [2]
    assert b"".join(service.artifacts.read(sha256)) == archive


def test_what_was_sent_is_closed_where_nobody_else_waits(server, service, archive, monkeypatch):
    """Close the file off the event loop: a network disk writes the rest then, which takes long."""
    open_file, closed_by = Path.open, set()

    class File(io.FileIO):
        def close(self) -> None:
            closed_by.add(threading.current_thread())
            super().close()

    monkeypatch.setattr(
        Path, "open", lambda path, mode: File(path, mode) if "+" in mode else open_file(path, mode)
    )
    assert upload(service, archive).status_code == 201
    assert closed_by
    assert server._thread not in closed_by


def test_what_is_copied_to_another_disk_needs_room_there(service, archive, monkeypatch):
    stat, usage = Path.stat, uploads.shutil.disk_usage(service.settings.home.parent)
    other = service.settings.artifacts_url

    def of_two_disks(path: Path, **how: bool) -> Any:
        found = stat(path, **how)
        return SimpleNamespace(st_dev=-1) if path == other else found

    monkeypatch.setattr(Path, "stat", of_two_disks)
    monkeypatch.setattr(
        uploads.shutil,
        "disk_usage",
        lambda folder: usage._replace(free=len(archive) - 1 if folder == other else 2**40),
    )
    answer = upload(service, archive)
    assert (answer.status_code, answer.json()["code"]) == (507, "no_room")


def test_a_full_disk_takes_nothing_in(server, service, monkeypatch):
    usage = uploads.shutil.disk_usage(service.settings.home.parent)
    monkeypatch.setattr(uploads.shutil, "disk_usage", lambda _: usage._replace(free=-1))
    answer = upload(service, b"x")
    assert (answer.status_code, answer.json()["code"]) == (507, "no_room")


def test_a_disk_that_becomes_full_meanwhile_says_so(service, archive, monkeypatch):
    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(service.artifacts, "take", full)
    answer = upload(service, archive)
    assert (answer.status_code, answer.json()["code"]) == (507, "no_room")
    assert on_the_way(service) == []


def test_a_disk_that_takes_no_new_file_says_so(service, archive, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(Incoming, "create", full)
    answer = upload(service, archive)
    assert (answer.status_code, answer.json()["code"]) == (507, "no_room")


def test_an_upload_that_breaks_off_leaves_nothing(service, monkeypatch):
    monkeypatch.setattr(uploads, "SILENCE_SECONDS", 0.2)
    place = urlsplit(str(service.http.base_url))
    with socket.create_connection((place.hostname, place.port)) as connection:
        head = "POST /datasets?name=x HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/zip\r\n"
        connection.sendall(f"{head}Content-Length: 1000\r\n\r\nPK".encode())
        answer = ""
        while '"code"' not in answer and (part := connection.recv(65536).decode()):
            answer += part
    assert " 400 " in answer
    assert '"code": "incomplete"' in answer
    assert on_the_way(service) == []


# ---- looking ---------------------------------------------------------------------------------------------


def test_lists_come_in_pages_and_without_reports(service, archive):
    ids = [upload(service, archive, name=f"n{number}").json()["id"] for number in range(3)]
    first = service.http.get("/datasets", params={"limit": 2}).json()
    rest = service.http.get("/datasets", params={"limit": 2, "after": first["next"]}).json()
    assert [item["id"] for item in first["items"] + rest["items"]] == ids[::-1]
    assert rest["next"] is None
    assert "report" not in first["items"][0]
    assert service.http.get("/datasets", params={"state": "ready"}).json()["items"] == []
    assert service.http.get("/models").json() == {"items": [], "next": None}
    assert service.http.get("/datasets", params={"after": "nonsense"}).status_code == 422


def test_what_has_not_changed_is_not_sent_again(service, archive):
    path = f"/datasets/{upload(service, archive).json()['id']}"
    tag = service.http.get(path).headers["ETag"]
    assert service.http.get(path, headers={"If-None-Match": tag}).status_code == 304
    conclude(service)
    assert service.http.get(path, headers={"If-None-Match": tag}).status_code == 200


# ---- in specs --------------------------------------------------------------------------------------------


def test_an_uploaded_data_set_goes_by_its_name_in_a_job(service, archive):
    dataset_id = ready_dataset(service, archive)
    data = {"path": f"dataset:{dataset_id}", "rename": {"disc": "coin"}}
    job = service.submit({"kind": "train", "data": data, "train": {"epochs": 1, "image_size": 64}})
    assert job["spec"]["data"] == data
    assert job["resolved"]["data"]["train"]["images"] == f"dataset:{dataset_id}/images"
    assert job["resolved"]["data"]["classes"] == ["coin", "ring"]
    assert str(service.settings.home) not in json.dumps(job)
    refused = service.http.delete(f"/datasets/{dataset_id}")
    assert (refused.status_code, refused.json()["code"]) == (409, "in_use")
    assert job["id"] in refused.json()["detail"]
    service.http.post(f"/jobs/{job['id']}/cancel")
    assert service.http.delete(f"/datasets/{dataset_id}").status_code == 204
    retried = service.http.post(f"/jobs/{job['id']}/retry")
    assert (retried.status_code, retried.json()["errors"][0]["loc"]) == (422, ["data", "path"])


def test_what_is_wrong_with_an_uploaded_data_set_names_no_place_of_the_service(service, archive):
    dataset_id = ready_dataset(service, archive)
    spec = {"kind": "train", "data": {"path": f"dataset:{dataset_id}", "classes": ["cup"]}}
    answer = service.http.post("/jobs/validate", json=spec)
    assert answer.status_code == 422
    assert str(service.settings.home) not in answer.text


def test_who_asks_while_a_data_set_is_being_unpacked_comes_back(service, archive, train_spec, monkeypatch):
    monkeypatch.setattr(deps, "_PATIENCE_SECONDS", 0.1)
    spec = train_spec | {"data": f"dataset:{ready_dataset(service, archive)}"}
    dataset_cache = service.app.state.services.dataset_cache
    with dataset_cache._locked(hashlib.sha256(archive).hexdigest()):
        answer = service.http.post("/jobs", json=spec)
    assert (answer.status_code, answer.json()["code"]) == (503, "still_unpacking")
    assert int(answer.headers["Retry-After"]) > 0
    assert service.http.post("/jobs", json=spec).status_code == 201


def test_a_registered_data_set_is_read_where_it_lies(service, root, train_spec):
    dataset_id = service.http.post("/datasets", json={"name": "discs", "path": "discs"}).json()["id"]
    assert service.check_next()
    spec = train_spec | {"data": f"dataset:{dataset_id}"}
    answer = service.http.post("/jobs/validate", json=spec).json()
    assert answer["config"]["data"]["train"]["images"] == str(root / "discs" / "images")
    assert answer["uses"] == [dataset_id]
    assert "changed since" not in str(answer["warnings"])
    (root / "discs" / "images" / "more.png").write_bytes(b"")
    warnings = service.http.post("/jobs/validate", json=spec).json()["warnings"]
    assert f"the files of dataset:{dataset_id} changed since it was checked" in warnings[-1]


@pytest.mark.parametrize("way", ["upload", "path", "spelt out"])
def test_a_data_set_of_one_split_is_divided_by_the_job(service, root, train_spec, way):
    (root / "discs" / "annotations" / "instances_val.json").unlink()
    only = (root / "discs" / "annotations" / "instances_train.json").rename(root / "discs" / "result.json")
    if way == "upload":
        made = upload(service, packed(root / "discs")).json()
    else:
        train = {"images": "discs/images", "annotations": str(only)}
        where = {"path": "discs"} if way == "path" else {"train": train}
        made = service.http.post("/datasets", json={"name": "discs", **where}).json()
    assert service.check_next()
    found = service.http.get(f"/datasets/{made['id']}").json()
    assert (found["state"], found["report"]["train"]["images"]) == ("ready", 3)
    assert "data.val_share" in found["reason"]

    data = {"path": f"dataset:{made['id']}"}
    refused = service.http.post("/jobs", json=train_spec | {"data": data})
    assert refused.status_code == 422
    assert "data.val_share" in refused.json()["errors"][0]["hint"]
    spec = train_spec | {"data": data | {"val_share": 0.3, "val_seed": 2}}
    answer = service.http.post("/jobs/validate", json=spec).json()
    assert (answer["report"]["train"]["images"], answer["report"]["val"]["images"]) == (2, 1)
    assert "changed since" not in str(answer["warnings"])
    job = service.submit(spec)
    resolved = job["resolved"]["data"]
    assert (resolved["val_share"], resolved["val_seed"], resolved["val"]) == (0.3, 2, resolved["train"])


def test_a_data_set_of_one_split_is_scored_on(service, root, model):
    (root / "discs" / "annotations" / "instances_val.json").unlink()
    (root / "discs" / "annotations" / "instances_train.json").rename(root / "discs" / "result.json")
    dataset_id = upload(service, packed(root / "discs")).json()["id"]
    assert service.check_next()
    weights = {"weights": f"model:{ready_model(service, model)}"}
    spec = {"kind": "evaluate", "data": f"dataset:{dataset_id}", "model": weights}
    config = service.http.post("/jobs/validate", json=spec).json()["config"]
    assert (config["evaluate"]["split"], config["data"]["val"]) == ("train", None)


def test_a_share_of_a_registered_data_set_that_has_val_is_refused(service, train_spec):
    splits = {
        name: {"images": "discs/images", "annotations": f"discs/annotations/instances_{name}.json"}
        for name in ("train", "val")
    }
    for where in ({"path": "discs"}, splits):
        made = service.http.post("/datasets", json={"name": "discs", **where}).json()
        conclude(service)
        data = {"path": f"dataset:{made['id']}", "val_share": 0.3}
        answer = service.http.post("/jobs/validate", json=train_spec | {"data": data})
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["loc"] == ["data", "val_share"]


def test_an_uploaded_model_teaches(service, model):
    model_id = ready_model(service, model)
    spec = {"kind": "distill", "data": "discs", "teacher": {"weights": f"model:{model_id}"}}
    job = service.submit(spec | {"train": {"epochs": 1, "image_size": 64}})
    assert job["resolved"]["teacher"]["weights"] == f"model:{model_id}"
    assert service.http.delete(f"/models/{model_id}").status_code == 409
    clone = service.http.post(f"/jobs/{job['id']}/clone")
    assert clone.status_code == 201
    service.http.post(f"/jobs/{job['id']}/cancel")
    assert service.http.delete(f"/models/{model_id}").status_code == 409  # the clone needs it, too
    other = spec["teacher"] | {"architecture": "retinanet"}
    answer = service.http.post("/jobs/validate", json=spec | {"teacher": other})
    assert answer.json()["errors"][0]["loc"] == ["teacher", "architecture"]


def test_a_registered_model_teaches(service, model, root):
    (root / "teacher.safetensors").write_bytes(model)
    model_id = service.http.post("/models", json={"name": "t", "path": "teacher.safetensors"}).json()["id"]
    assert service.check_next()
    assert service.http.get(f"/models/{model_id}").json()["report"]["card"]["classes"] == ["disc", "ring"]
    spec = {"kind": "evaluate", "data": "discs", "model": {"weights": f"model:{model_id}"}}
    answer = service.http.post("/jobs/validate", json=spec).json()
    assert answer["config"]["model"]["weights"] == str(root / "teacher.safetensors")
    assert answer["uses"] == [model_id]
    assert "changed since" not in str(answer["warnings"])


def test_of_a_plain_state_dict_the_spec_says_the_rest(service, model):
    model_id = ready_model(service, model, report={"card": None})
    spec = {"kind": "evaluate", "data": "discs", "model": {"weights": f"model:{model_id}"}}
    answer = service.http.post("/jobs/validate", json=spec)
    assert "says nothing of its architecture" in answer.json()["errors"][0]["message"]


@pytest.mark.parametrize("field", ["data", "weights"])
def test_what_is_not_ready_cannot_be_used(service, archive, model, field):
    def problem(resource_id: str) -> dict[str, Any]:
        spec: dict[str, Any] = {"kind": "train", "data": "discs"}
        named = {"data": f"dataset:{resource_id}", "weights": {"weights": f"model:{resource_id}"}}[field]
        spec["data" if field == "data" else "model"] = named
        answer = service.http.post("/jobs", json=spec)
        assert answer.status_code == 422
        return answer.json()["errors"][0]

    path, content = ("/datasets", archive) if field == "data" else ("/models", model)
    resource_id = upload(service, content, path).json()["id"]
    assert "still being checked" in problem(resource_id)["message"]
    conclude(service, ResourceState.REFUSED)
    assert "was refused: as the test says" in problem(resource_id)["message"]
    found = problem("nonsense")
    assert "there is no" in found["message"]
    assert found["loc"] == (["data", "path"] if field == "data" else ["model", "weights"])


def test_what_is_another_tenants_is_unknown(service, archive, model):
    keys = {
        tenant: {
            "Authorization": f"Bearer {service.store.keys.create_key(tenant, 'k', {'read', 'write'})[1].text}"
        }
        for tenant in ("ours", "theirs")
    }
    dataset_id = upload(service, archive, **keys["theirs"]).json()["id"]
    conclude(service)
    model_id = upload(service, model, "/models", **keys["theirs"]).json()["id"]
    conclude(service, report={"card": CARD.model_dump(mode="json")})
    for spec in (
        {"kind": "train", "data": f"dataset:{dataset_id}"},
        {"kind": "evaluate", "data": "discs", "model": {"weights": f"model:{model_id}"}},
    ):
        theirs, ours = (
            service.http.post("/jobs/validate", json=spec, headers=keys[who]) for who in ("theirs", "ours")
        )
        assert (theirs.status_code, ours.status_code) == (200, 422)
        assert "there is no" in ours.json()["detail"]
    assert service.http.get("/datasets", headers=keys["ours"]).json()["items"] == []


def test_a_data_set_is_unpacked_again_where_it_was_tidied_away(service, archive, train_spec):
    dataset_id = ready_dataset(service, archive)
    spec = train_spec | {"data": f"dataset:{dataset_id}"}
    assert service.http.post("/jobs/validate", json=spec).status_code == 200
    digest = service.http.get(f"/datasets/{dataset_id}").json()["sha256"]
    service.artifacts.remove(digest, -1)
    assert service.http.post("/jobs/validate", json=spec).status_code == 200  # its unpacked copy still exists
    assert service.store.resources.uploads() == {digest}
