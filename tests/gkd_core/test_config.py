"""Configs that are refused before any work, with the field that is named."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from gkd_core.config import DetectorConfig, run_config

DISTIL = {"kind": "distill", "data": "cells", "teacher": {"weights": "t"}, "train": {"epochs": 3}}
TRAIN = {"kind": "train", "data": "cells"}


@pytest.mark.parametrize(
    ("run", "loc", "fix"),
    [
        ({**DISTIL, "distill": {"start_epoch": 3}}, "distill.distill.start_epoch", "raise `train.epochs`"),
        (
            {**DISTIL, "distill": {"start_epoch": 1, "stop_epoch": 1}},
            "distill.distill.stop_epoch",
            "leave it",
        ),
        ({**DISTIL, "student": {"norm": "frozen"}}, "distill.student.norm", "give `weights`"),
        ({**TRAIN, "model": {"norm": "frozen"}}, "train.model.norm", "batch or group"),
        ({**TRAIN, "model": {"frozen_stages": 1}}, "train.model.frozen_stages", "to 0"),
        (
            {**DISTIL, "distill": {"prototypes": {"alpha": 1e9}}},
            "distill.distill.prototypes.alpha",
            "less than or equal to 1000000",
        ),
    ],
)
def test_what_would_have_no_effect_or_a_silly_one_is_refused_with_a_way_out(
    run: dict[str, Any], loc: str, fix: str
) -> None:
    with pytest.raises(ValidationError) as told:
        run_config.validate_python(run)
    (error,) = told.value.errors()
    assert ".".join(map(str, error["loc"])) == loc
    assert fix in error["msg"]


def test_all_that_is_wrong_with_a_section_is_told_at_once() -> None:
    with pytest.raises(ValidationError) as told:
        run_config.validate_python({**TRAIN, "model": {"norm": "frozen", "frozen_stages": 2}})
    assert [error["loc"][-1] for error in told.value.errors()] == ["norm", "frozen_stages"]


def test_with_weights_anything_may_be_frozen() -> None:
    frozen = {"norm": "frozen", "frozen_stages": 2, "weights": "w.pth"}
    assert run_config.validate_python({**TRAIN, "model": frozen}).model.frozen_stages == 2


def test_a_detector_that_is_only_described_may_be_frozen_without_weights() -> None:
    assert DetectorConfig(norm="frozen", frozen_stages=2).norm == "frozen"


def test_distilling_the_last_epoch_alone_is_fine() -> None:
    assert run_config.validate_python({**DISTIL, "distill": {"start_epoch": 2}}).distill.start_epoch == 2
