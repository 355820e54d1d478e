"""Keys and tenants in the store."""

from __future__ import annotations

import time
from contextlib import closing

import pytest
from pydantic import ValidationError
from sqlalchemy import text

from jobs import keys
from jobs.errors import InvalidTenant, UnknownKey
from jobs.keys import Limits, Scope
from jobs.store.store import Store

BOTH = (Scope.READ, Scope.WRITE)


def admitted(store: Store, secret: str) -> bool:
    key_id = keys.id_in(secret)
    assert key_id is not None
    return store.keys.admit(key_id, keys.digest(secret)) is not None


def test_a_key_lets_its_holder_in_as_its_tenant(store: Store) -> None:
    key, secret = store.keys.create_key("lab", "ada's", BOTH)
    found = store.keys.admit(key.id, keys.digest(secret.text))
    assert found is not None
    assert (found.principal.tenant, found.principal.key_id) == ("lab", key.id)
    assert found.principal.scopes == {"read", "write"}
    assert found.limits == Limits()


def test_no_two_keys_are_alike_and_each_has_256_random_bits(store: Store) -> None:
    made = [store.keys.create_key("lab", "k", BOTH)[1].text for _ in range(20)]
    secrets = {text.split("_", 2)[2] for text in made}
    assert len(secrets) == 20
    assert {len(secret) for secret in secrets} == {43}, "32 bytes in base64"
    assert all(keys.id_in(text) for text in made)


def test_the_database_holds_no_secret(store: Store) -> None:
    _, secret = store.keys.create_key("lab", "k", BOTH)
    with store.database.read() as connection:
        rows = str(connection.execute(text("SELECT * FROM keys")).all())
    assert keys.digest(secret.text) in rows
    assert secret.text.split("_", 2)[2] not in rows


def test_another_secret_behind_a_known_id_opens_nothing(store: Store) -> None:
    key, _ = store.keys.create_key("lab", "k", BOTH)
    forged = f"gkd_{key.id}_{'A' * 43}"
    assert not admitted(store, forged)
    assert store.keys.list_keys()[0].used_at is None, "and is no use of the key"


def test_a_revoked_key_opens_nothing_and_stays_in_the_list(store: Store) -> None:
    key, secret = store.keys.create_key("lab", "k", BOTH)
    revoked = store.keys.revoke_key(key.id)
    assert not admitted(store, secret.text)
    assert store.keys.revoke_key(key.id).revoked_at == revoked.revoked_at, "twice is once"
    assert [each.id for each in store.keys.list_keys()] == [key.id]
    assert store.keys.has_keys(), "or the last one's end would open the door to all"


def test_an_expired_key_opens_nothing(store: Store) -> None:
    _, secret = store.keys.create_key("lab", "k", BOTH, seconds=0.2)
    assert admitted(store, secret.text)
    time.sleep(0.3)
    assert not admitted(store, secret.text)


def test_the_last_use_is_written_once_a_minute(store: Store) -> None:
    _, secret = store.keys.create_key("lab", "k", BOTH)
    assert store.keys.list_keys()[0].used_at is None
    admitted(store, secret.text)
    first = store.keys.list_keys()[0].used_at
    admitted(store, secret.text)
    assert first is not None
    assert store.keys.list_keys()[0].used_at == first
    with store.database.write() as connection:
        connection.execute(text("UPDATE keys SET used_at = used_at - 61"))
    admitted(store, secret.text)
    assert (store.keys.list_keys()[0].used_at or first) > first


def test_an_unknown_key_cannot_be_revoked(store: Store) -> None:
    with pytest.raises(UnknownKey):
        store.keys.revoke_key("no\0key")


@pytest.mark.parametrize("name", ["", "A", "a b", "a:b", "-a", "a" * 64, "ä", "a\n", "../a"])
def test_a_tenant_has_a_name_that_fits_everywhere(store: Store, name: str) -> None:
    with pytest.raises(InvalidTenant):
        store.keys.create_key(name, "k", BOTH)
    with pytest.raises(InvalidTenant):
        store.keys.set_limits(name, {"running_jobs": 1})
    assert not store.keys.has_keys()


def test_limits_change_one_at_a_time(store: Store) -> None:
    store.keys.set_limits("lab", {"running_jobs": 2, "gpu_hours": 1.5})
    store.keys.set_limits("lab", {"queued_jobs": 7})
    changed = store.keys.set_limits("lab", {"running_jobs": None})
    assert changed.limits == store.keys.limits("lab") == Limits(queued_jobs=7, gpu_hours=1.5)
    assert store.keys.limits("other") == Limits()


@pytest.mark.parametrize("wrong", [{"running_jobs": -1}, {"no_such": 1}, {"requests_per_minute": 0}])
def test_limits_that_cannot_be_are_refused(store: Store, wrong: dict[str, float | None]) -> None:
    with pytest.raises(ValidationError):
        store.keys.set_limits("lab", wrong)
    assert store.keys.limits("lab") == Limits()


def test_everybody_with_keys_limits_or_jobs_is_listed(store: Store, ask) -> None:
    ask.submit(tenant="by-job")
    store.keys.create_key("by-key", "k", BOTH)
    store.keys.set_limits("by-limit", {"running_jobs": 1})
    assert [(each.name, each.use.queued_jobs) for each in store.keys.tenants()] == [
        ("by-job", 1),
        ("by-key", 0),
        ("by-limit", 0),
    ]


def test_keys_outlive_the_process(database_url: str) -> None:
    with closing(Store(database_url)) as store:
        secret = store.keys.create_key("lab", "k", BOTH)[1].text
    with closing(Store(database_url)) as store:
        assert admitted(store, secret)
