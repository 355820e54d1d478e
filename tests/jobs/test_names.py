"""The names that people may give, in every place."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from jobs.errors import InvalidKeyName, InvalidTenant
from jobs.keys import KeyName
from jobs.resources import NewDataset, NewModel, ResourceName
from jobs.specs.spec import JobChange, job_spec
from jobs.store.store import Store

BLANKS = (" ", "    ")


def spec(**fields: Any) -> Any:
    return job_spec.validate_python({"kind": "train", "data": "cells", **fields})


@pytest.mark.parametrize("blanks", BLANKS)
@pytest.mark.parametrize(
    "call",
    [
        lambda name: spec(name=name),
        lambda name: spec(tags={"team": name}),
        lambda name: spec(tags={name: "lab"}),
        lambda name: JobChange(name=name),
        lambda name: JobChange(tags={"team": name}),
        lambda name: NewDataset(name=name, path="cells"),
        lambda name: NewModel(name=name, path="cells.safetensors"),
        lambda name: TypeAdapter(ResourceName).validate_python(name),
        lambda name: TypeAdapter(KeyName).validate_python(name),
    ],
)
def test_nothing_is_called_by_blanks(call: Any, blanks: str):
    with pytest.raises(ValidationError):
        call(blanks)


@pytest.mark.parametrize("name", [*BLANKS, "", "\n", "x" * 201])
def test_no_key_is_called_so_however_it_is_made(store: Store, name: str):
    with pytest.raises(InvalidKeyName):
        store.keys.create_key("lab", name, ())
    assert store.keys.list_keys() == ()


@pytest.mark.parametrize("name", BLANKS)
def test_no_tenant_is_called_by_blanks(store: Store, name: str):
    with pytest.raises(InvalidTenant):
        store.keys.create_key(name, "ci", ())


def test_what_may_be_left_out_may_be_empty():
    assert (spec(name="").name, spec(tags={"team": ""}).tags) == ("", {"team": ""})
    assert spec(name=" two words ").name == " two words "
