"""Data sets and models in the store: added, listed, checked by one at a time, kept while jobs need them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import text

from gkd_core.config import DataConfig, Split, TrainRun
from jobs.errors import QuotaExceeded, ResourceInUse, UnknownCursor, UnknownResource
from jobs.job import Job, State
from jobs.resources import Layout, NewResource, Resource, ResourceKind, ResourceState, Verdict
from jobs.specs.spec import Resolved, job_spec
from jobs.store import quotas, resources
from jobs.store.resources import MOST_CHECKS
from jobs.store.store import Check, Store

DATASET, MODEL = ResourceKind.DATASET, ResourceKind.MODEL
SPLIT = Split(images="/data/images", annotations="/data/train.json")
READY = Verdict(state=ResourceState.READY, reason="coco, 2 classes", report={"format": "coco"})
REFUSED = Verdict(state=ResourceState.REFUSED, reason="it is broken")


def upload(
    store: Store, name: str = "cells", *, sha256: str = "a" * 64, tenant: str = "lab", **more: Any
) -> Resource:
    new = NewResource(more.pop("kind", DATASET), name, layout=Layout(), size=100, sha256=sha256)
    return store.resources.add_resource(new, tenant=tenant)[0]


def register(store: Store, name: str = "cells", *, tenant: str = "lab") -> Resource:
    return store.resources.add_resource(NewResource(DATASET, name, "/data/cells", Layout()), tenant=tenant)[0]


def claimed(store: Store) -> Check:
    check = store.resources.next_check()
    assert check is not None
    return check


def ready(store: Store, **fields: Any) -> Resource:
    resource = upload(store, **fields)
    store.resources.conclude_check(claimed(store), READY)
    return resource


def job_with(store: Store, resource: Resource, tenant: str = "lab") -> Job:
    spec = job_spec.validate_python({"kind": "train", "data": f"dataset:{resource.id}"})
    data = DataConfig(format="coco", train=SPLIT, val=SPLIT, classes=("cat",))
    return store.submission.submit(
        spec, Resolved(config=TrainRun(data=data), uses=(resource.id,)), tenant=tenant
    )[0]


# ---- taking in and looking -------------------------------------------------------------------------------


def test_what_comes_in_is_checked_before_it_counts(store: Store) -> None:
    resource = register(store)
    assert (resource.state, resource.path, resource.uploaded) == ("checking", "/data/cells", False)
    check = claimed(store)
    assert check.resource.id == resource.id
    store.resources.conclude_check(check, READY)
    found = store.resources.get_resource(DATASET, resource.id, tenant="lab")
    assert (found.state, found.reason, found.report) == ("ready", "coco, 2 classes", {"format": "coco"})
    assert found.checked_at is not None


def test_the_same_upload_is_taken_in_once(store: Store) -> None:
    first = upload(store)
    assert upload(store).id == first.id
    others = [
        upload(store, name="others"),
        upload(store, sha256="b" * 64),
        upload(store, kind=MODEL),
        upload(store, tenant="else"),
    ]
    assert len({first.id, *(other.id for other in others)}) == 5


def test_what_was_refused_may_be_sent_again(store: Store) -> None:
    first = upload(store)
    store.resources.conclude_check(claimed(store), REFUSED)
    assert upload(store).id != first.id


def test_another_tenants_are_unknown(store: Store) -> None:
    resource = register(store)
    for ask in (store.resources.get_resource, store.resources.delete_resource):
        with pytest.raises(UnknownResource):
            ask(DATASET, resource.id, tenant="else")
    assert store.resources.list_resources(DATASET, tenant="else").items == ()
    with pytest.raises(UnknownCursor):
        store.resources.list_resources(DATASET, tenant="else", after=resource.id)
    assert store.resources.get_resource(DATASET, resource.id, tenant="lab")


def test_a_model_is_no_data_set(store: Store) -> None:
    model = upload(store, kind=MODEL)
    with pytest.raises(UnknownResource, match="there is no data set"):
        store.resources.get_resource(DATASET, model.id)
    assert store.resources.list_resources(DATASET).items == ()


def test_pages_go_from_the_newest_to_the_oldest(store: Store) -> None:
    made = [register(store, f"set {number}").id for number in range(5)]
    seen: list[str] = []
    after = None
    while True:
        page = store.resources.list_resources(DATASET, tenant="lab", after=after, limit=2)
        seen += [item.id for item in page.items]
        after = page.next
        if after is None:
            break
    assert seen == made[::-1]
    assert store.resources.list_resources(DATASET, state="ready").items == ()


def test_a_page_goes_on_when_what_stood_at_its_end_was_deleted(store: Store) -> None:
    made = [register(store, f"set {number}").id for number in range(4)]
    first = store.resources.list_resources(DATASET, tenant="lab", limit=2)
    for item in first.items:
        store.resources.delete_resource(DATASET, item.id)
    rest = store.resources.list_resources(DATASET, tenant="lab", after=first.next, limit=2)
    assert [item.id for item in rest.items] == made[1::-1]


def test_a_cursor_is_good_for_one_list_of_one_tenant(store: Store) -> None:
    for number in range(2):
        register(store, f"set {number}")
        upload(store, sha256=f"{number:064}", kind=MODEL)
    after = store.resources.list_resources(DATASET, tenant="lab", limit=1).next
    assert store.resources.list_resources(DATASET, tenant="lab", after=after).items
    for kind, tenant in ((MODEL, "lab"), (DATASET, "else"), (DATASET, None)):
        with pytest.raises(UnknownCursor):
            store.resources.list_resources(kind, tenant=tenant, after=after)


@pytest.mark.parametrize("odd", ["", "no\0such", "\udc80", "x" * 5000])
def test_odd_ids_are_unknown(store: Store, odd: str) -> None:
    with pytest.raises(UnknownResource):
        store.resources.get_resource(DATASET, odd)


# ---- quotas ----------------------------------------------------------------------------------------------


def test_uploads_count_among_the_bytes_until_they_are_refused(store: Store) -> None:
    store.keys.set_limits("lab", {"stored_bytes": 150})
    upload(store)
    register(store)  # files under a root do not belong to the service
    with pytest.raises(QuotaExceeded, match="stored_bytes"):
        upload(store, sha256="b" * 64)
    store.resources.conclude_check(claimed(store), REFUSED)
    assert store.keys.tenant("lab").use.stored_bytes == 0
    upload(store, sha256="b" * 64)


def test_what_was_refused_or_deleted_counts_beside_until_it_is_off_the_disk(store: Store) -> None:
    store.keys.set_limits("lab", {"stored_bytes": 150})
    upload(store)
    store.resources.conclude_check(check := claimed(store), REFUSED)
    store.resources.conclude_check(check, REFUSED)  # as if the answer had been lost
    gone = upload(store, sha256="b" * 64)
    store.resources.delete_resource(DATASET, gone.id, tenant="lab")
    assert store.keys.tenant("lab").use.stored_bytes == 0
    with pytest.raises(QuotaExceeded, match="200 bytes that it deleted, or that were refused"):
        store.keys.must_store("lab", 101)
    store.keys.must_store("lab", 100)
    store.keys.must_store("other", 10**12)
    store.resources.delete_resource(
        DATASET, check.resource.id, tenant="lab"
    )  # it counted when it was refused
    store.keys.must_store("lab", 100)
    with store.database.write() as connection:
        connection.execute(text("UPDATE leaving SET until = until - 5401"))
    store.keys.must_store("lab", 150)
    store.resources.delete_resource(DATASET, upload(store).id, tenant="lab")
    with store.database.read() as connection:  # old ones were removed meanwhile
        assert connection.scalar(text("SELECT count(*) FROM leaving")) == 1


def test_two_uploads_at_once_do_not_both_take_the_last_room(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.keys.set_limits("lab", {"stored_bytes": 150})
    both_found_room = threading.Barrier(2)
    outcomes: list[str] = []

    def must_store(*about: Any, **more: Any) -> None:
        quotas.must_store(*about, **more)
        with suppress(threading.BrokenBarrierError):
            both_found_room.wait(1.0)

    def send(sha256: str) -> None:
        try:
            outcomes.append(upload(store, sha256=sha256).id)
        except QuotaExceeded:
            outcomes.append("refused")

    monkeypatch.setattr(resources, "must_store", must_store)
    together([lambda each=letter: send(each * 64) for letter in "ab"])
    assert outcomes.count("refused") == 1


def test_the_same_upload_is_known_again_after_an_upgrade(store: Store) -> None:
    before = upload(store)
    with store.database.write() as connection:  # a layout had no `test` then
        old = text('UPDATE resources SET layout = \'{"format": "auto", "train": null, "val": null}\'')
        connection.execute(old)
    assert upload(store).id == before.id


def test_two_who_send_the_same_at_once_get_the_same(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.keys.set_limits("lab", {})
    same_upload, both_looked = resources._same_upload, threading.Barrier(2)
    made: list[str] = []

    def look(*about: Any) -> Any:
        found = same_upload(*about)
        with suppress(threading.BrokenBarrierError):
            both_looked.wait(1.0)
        return found

    monkeypatch.setattr(resources, "_same_upload", look)
    together([lambda: made.append(upload(store).id) for _ in range(2)])
    assert len(set(made)) == 1


# ---- checks ----------------------------------------------------------------------------------------------


def test_a_check_is_one_callers(store: Store) -> None:
    register(store)
    found: list[Check | None] = []
    together([lambda: found.append(store.resources.next_check()) for _ in range(8)])
    assert len([check for check in found if check]) == 1


def test_what_a_lost_service_left_is_taken_up_by_another(database_url: str, store: Store) -> None:
    hasty = Store(database_url, lease_seconds=-1.0)
    register(store)
    lost = hasty.resources.next_check()
    assert lost is not None
    second = claimed(store)
    store.resources.conclude_check(lost, REFUSED)  # it comes back, too late
    assert store.resources.get_resource(DATASET, second.resource.id).state is ResourceState.CHECKING
    store.resources.conclude_check(second, READY)
    assert store.resources.get_resource(DATASET, second.resource.id).state is ResourceState.READY
    hasty.close()


def test_a_check_that_ends_with_its_service_again_and_again_is_given_up(database_url: str) -> None:
    hasty = Store(database_url, lease_seconds=-1.0)
    resource = register(hasty)
    assert [hasty.resources.next_check() is not None for _ in range(MOST_CHECKS + 1)] == [
        True
    ] * MOST_CHECKS + [False]
    found = hasty.resources.get_resource(DATASET, resource.id)
    assert (found.state, found.reason) == (
        "refused",
        "given up after 3 tries; the last time: waiting to be checked",
    )
    hasty.close()


def test_a_check_that_is_given_back_does_not_count(store: Store) -> None:
    resource = register(store)
    for _ in range(MOST_CHECKS + 2):
        store.resources.release_check(claimed(store))
    store.resources.conclude_check(claimed(store), READY)
    assert store.resources.get_resource(DATASET, resource.id).state is ResourceState.READY


def test_a_check_for_which_something_is_away_does_not_count(database_url: str) -> None:
    hasty = Store(database_url, lease_seconds=-1.0)
    away = Verdict(state=ResourceState.CHECKING, reason="it cannot be checked now: S3 does not answer")
    resource = register(hasty)
    for _ in range(MOST_CHECKS + 2):
        hasty.resources.conclude_check(claimed(hasty), away)
    hasty.resources.conclude_check(claimed(hasty), READY)
    assert hasty.resources.get_resource(DATASET, resource.id).state is ResourceState.READY
    hasty.close()


def test_a_verdict_on_what_was_deleted_is_lost(store: Store) -> None:
    resource = register(store)
    check = claimed(store)
    store.resources.delete_resource(DATASET, resource.id, tenant="lab")
    store.resources.conclude_check(check, READY)
    with pytest.raises(UnknownResource):
        store.resources.get_resource(DATASET, resource.id)


def test_a_report_may_hold_what_a_database_cannot(store: Store) -> None:
    resource = register(store)
    store.resources.conclude_check(
        claimed(store), READY.model_copy(update={"reason": "a\0b", "report": {"a\0": ["\0"]}})
    )
    assert store.resources.get_resource(DATASET, resource.id).state is ResourceState.READY


# ---- used ones -------------------------------------------------------------------------------------------


def test_what_an_open_job_needs_cannot_be_deleted(store: Store) -> None:
    resource = ready(store)
    job = job_with(store, resource)
    with pytest.raises(ResourceInUse, match=f"job {job.id} needs it"):
        store.resources.delete_resource(DATASET, resource.id, tenant="lab")
    store.submission.cancel_requested(job.id)
    store.resources.delete_resource(DATASET, resource.id, tenant="lab")
    assert store.reading.get(job.id).state is State.CANCELLED


def test_a_deleted_job_needs_nothing_any_more(store: Store) -> None:
    resource = ready(store)
    job = job_with(store, resource)
    store.submission.cancel_requested(job.id)
    store.editing.delete(job.id)
    store.resources.delete_resource(DATASET, resource.id)


def test_a_job_that_names_what_was_just_deleted_is_not_queued(store: Store) -> None:
    resource = ready(store)
    store.resources.delete_resource(DATASET, resource.id)
    with pytest.raises(UnknownResource, match=resource.id):
        job_with(store, resource)
    assert store.reading.list_jobs().items == ()


def test_deleting_and_submitting_at_once_leaves_no_job_without_its_data(store: Store) -> None:
    for number in range(6):
        resource = ready(store, sha256=f"{number:064d}")
        done: list[str] = []

        def delete(resource_id: str = resource.id, done: list[str] = done) -> None:
            try:
                store.resources.delete_resource(DATASET, resource_id)
                done.append("deleted")
            except ResourceInUse:
                pass

        def submit(resource: Resource = resource, done: list[str] = done) -> None:
            try:
                job_with(store, resource)
                done.append("queued")
            except UnknownResource:
                pass

        together([delete, submit] if number % 2 else [submit, delete])
        assert len(done) == 1


def test_files_of_uploads_are_named_until_they_are_refused_or_deleted(store: Store) -> None:
    for letter in "ab":
        ready(store, sha256=letter * 64)
    gone = ready(store, sha256="c" * 64)
    store.resources.delete_resource(DATASET, gone.id)
    upload(store, sha256="d" * 64)
    store.resources.conclude_check(claimed(store), REFUSED)
    assert store.resources.uploads() == store.recovery.published() == {"a" * 64, "b" * 64}


def together(calls: list[Callable[[], None]]) -> None:
    """Call all at the same moment, as far as threads can."""
    gate = threading.Barrier(len(calls))
    errors: list[BaseException] = []

    def run(call: Callable[[], None]) -> None:
        gate.wait()
        try:
            call()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
