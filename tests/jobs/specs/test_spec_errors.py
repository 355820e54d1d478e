"""The messages for people about a wrong spec, without HTTP."""

from __future__ import annotations

import pytest

from gkd_core.errors import SpecError
from jobs.specs.spec_errors import read_spec

SPEC = {"kind": "train", "data": "cells"}


def test_a_spec_is_read_as_it_is():
    assert read_spec({**SPEC, "train": {"workers": "auto"}}).train.workers == "auto"


def test_branches_of_a_union_are_one_problem_at_the_field_itself():
    with pytest.raises(SpecError) as caught:
        read_spec({**SPEC, "train": {"workers": "all", "augment": {"scale": [0.5, "x"]}}})
    problems = {problem.loc: problem.message for problem in caught.value.problems}
    assert set(problems) == {("train", "workers"), ("train", "augment", "scale", 1)}
    assert "integer" in problems["train", "workers"]
    assert "'auto'" in problems["train", "workers"]


def test_a_misspelt_field_deep_inside_gets_the_nearest_of_its_neighbours():
    spec = {
        "kind": "distill",
        "data": "cells",
        "teacher": {"weights": "x"},
        "distill": {"global": {"wieght": 1}},
    }
    with pytest.raises(SpecError) as caught:
        read_spec(spec)
    (problem,) = caught.value.problems
    assert problem.loc == ("distill", "global", "wieght")
    assert problem.hint == "Did you mean `weight`? Known here: weight, form, robust, levels."


@pytest.mark.parametrize(
    ("field", "meant"),
    [
        ("epohcs", "Did you mean `train.epochs`?"),
        ("lr", "Did you mean `train.optimizer.lr`?"),
        ("weights", "Did you mean `model.weights`?"),
        ("nonsense", "Known here: name"),
    ],
)
def test_a_field_in_the_wrong_place_is_told_its_own(field: str, meant: str):
    with pytest.raises(SpecError) as caught:
        read_spec({**SPEC, field: 3})
    (problem,) = caught.value.problems
    assert problem.loc == (field,)
    assert problem.hint.startswith(meant)


@pytest.mark.parametrize(
    ("change", "loc", "message"),
    [
        ({"train": 3}, ("train",), "`train` is an object, {...}, got 3"),
        ({"train": {"augment": {"scale": [1]}}}, ("train", "augment", "scale"), "needs at least 2 values"),
        ({"tags": {"a b": "c"}}, ("tags", "a b"), "the tag 'a b' may hold letters"),
    ],
)
def test_a_value_of_the_wrong_shape_is_told_in_words_of_json(change: dict, loc: tuple, message: str):
    with pytest.raises(SpecError) as caught:
        read_spec({**SPEC, **change})
    (problem,) = caught.value.problems
    assert problem.loc == loc
    assert message in problem.message


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"distill": {"start_epoch": 30}}, ("distill", "start_epoch")),
        ({"distill": {"start_epoch": 2, "stop_epoch": 2}}, ("distill", "stop_epoch")),
        ({"student": {"norm": "frozen"}}, ("student", "norm")),
        ({"student": {"frozen_stages": 1}}, ("student", "frozen_stages")),
    ],
)
def test_what_fits_together_badly_is_told_at_one_field(change: dict, field: tuple):
    with pytest.raises(SpecError) as caught:
        read_spec({"kind": "distill", "data": "cells", "teacher": {"weights": "x"}, **change})
    (problem,) = caught.value.problems
    assert problem.loc == field
    assert f"`{field[-1]}`" in problem.message  # the message says what to do with it


def test_a_long_value_is_not_repeated_in_full():
    with pytest.raises(SpecError) as caught:
        read_spec({**SPEC, "priority": "x" * 10_000})
    assert len(caught.value.message) < 300


@pytest.mark.parametrize("value", [None, [], 5, "train", {}])
def test_what_is_no_spec_at_all_is_refused(value: object):
    with pytest.raises(SpecError):
        read_spec(value)
