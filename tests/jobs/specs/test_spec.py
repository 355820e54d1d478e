"""Which specs are well-formed, and the field that is named where one is not."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from pydantic import ValidationError

from jobs.specs.spec import Kind, job_spec

PAIR = {"teacher": {"weights": "t"}, "student": {"weights": "s"}}


@pytest.mark.parametrize(
    ("fields", "loc"),
    [
        ({"nmae": "cells"}, ("train", "nmae")),
        ({"train": {"epoch": 3}}, ("train", "train", "epoch")),
        ({"device": "cuda"}, ("train", "device")),
        ({"resources": {"gpus": 9}}, ("train", "resources", "gpus")),
        ({"priority": 10}, ("train", "priority")),
        ({"name": "line\nbreak"}, ("train", "name")),
        ({"tags": {"a b": "c"}}, ("train", "tags", "a b", "[key]")),
        ({"tags": {"a": "\0"}}, ("train", "tags", "a")),
        ({"train": {"optimizer": {"lr": float("nan")}}}, ("train", "train", "optimizer", "lr")),
        ({"train": {"optimizer": {"lr": float("inf")}}}, ("train", "train", "optimizer", "lr")),
        ({"train": {"epochs": 10**30}}, ("train", "train", "epochs")),
        ({"train": {"batch_size": 10**9}}, ("train", "train", "batch_size")),
        ({"train": {"seed": 2**63}}, ("train", "train", "seed")),
        ({"train": {"augment": {"scale": [1.4, 0.6]}}}, ("train", "train", "augment")),
        ({"train": {"augment": {"scale": [0, 1]}}}, ("train", "train", "augment", "scale", 0)),
    ],
)
def test_what_is_misspelt_or_out_of_range_names_its_field(
    fields: dict[str, Any], loc: tuple[str, ...]
) -> None:
    with pytest.raises(ValidationError) as error:
        job_spec.validate_python({"kind": "train", "data": "cells"} | fields)
    assert [problem["loc"] for problem in error.value.errors()] == [loc]


@pytest.mark.parametrize("workers", [-1, 257, "all"])
def test_threads_are_a_small_number_or_auto(workers: object) -> None:
    with pytest.raises(ValidationError, match="workers"):
        job_spec.validate_python({"kind": "train", "data": "cells", "train": {"workers": workers}})


def test_nan_in_json_is_refused() -> None:
    text = '{"kind": "train", "data": "cells", "train": {"optimizer": {"lr": NaN}}}'
    with pytest.raises(ValidationError, match="finite"):
        job_spec.validate_json(text)


@pytest.mark.parametrize("kind", [None, "validate", "Train"])
def test_a_kind_that_does_not_exist_is_refused(kind: str | None) -> None:
    with pytest.raises(ValidationError, match="kind"):
        job_spec.validate_python({"data": "cells"} | ({"kind": kind} if kind else {}))


def test_kinds_are_those_of_the_specs() -> None:
    assert set(get_args(Kind)) == set(job_spec.json_schema()["discriminator"]["mapping"])


def test_every_field_of_the_schema_says_what_it_is() -> None:
    undescribed = [
        f"{name}.{field}"
        for name, definition in job_spec.json_schema()["$defs"].items()
        for field, value in definition["properties"].items()
        if not value.get("description")
    ]
    assert undescribed == []


def test_the_examples_of_the_schema_are_specs() -> None:
    schema = job_spec.json_schema()
    specs = {
        kind: schema["$defs"][ref.rsplit("/", 1)[-1]]
        for kind, ref in schema["discriminator"]["mapping"].items()
    }
    examples = {kind: spec["examples"] for kind, spec in specs.items()}
    assert {
        kind: [job_spec.validate_python(each).kind for each in given] for kind, given in examples.items()
    } == {kind: [kind] for kind in get_args(Kind)}


@pytest.mark.parametrize(
    ("fields", "loc"),
    [
        ({"kind": "evaluate", "model": {}}, ("evaluate", "model", "weights")),
        ({"kind": "evaluate", "model": {"weights": "m"}, "train": {}}, ("evaluate", "train")),
        (
            {"kind": "export", "model": {"weights": "m"}, "export": {"opset": 15}},
            ("export", "export", "opset"),
        ),
        (
            {"kind": "prototypes", **PAIR, "prototypes": {"source": "bank"}},
            ("prototypes", "prototypes", "source"),
        ),
        (
            {"kind": "prototypes", **PAIR, "prototypes": {"every": 2}},
            ("prototypes", "prototypes", "every"),
        ),
    ],
)
def test_the_other_kinds_are_as_strict(fields: dict[str, Any], loc: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError) as error:
        job_spec.validate_python({"data": "cells"} | fields)
    assert [problem["loc"] for problem in error.value.errors()] == [loc]
