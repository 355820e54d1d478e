"""Configs that are refused before any work, with the field that is named."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from gkd_core.config import DetectorConfig, DistillConfig, incomparable_scores, run_config, settled_losses
from gkd_core.errors import SpecError

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


class TestListedLosses:
    def test_each_is_read_by_its_name(self) -> None:
        plan = DistillConfig.model_validate({"losses": [{"name": "pkd", "weight": 3}, {"name": "mse"}]})
        assert [(loss.name, loss.weight) for loss in plan.losses] == [("pkd", 3), ("mse", "auto")]

    def test_auto_is_what_was_published_for_the_family(self) -> None:
        plan = DistillConfig.model_validate({"losses": [{"name": "pkd"}]})
        for family, weight in (("retinanet", 10), ("faster_rcnn", 6)):
            assert [loss.weight for loss in settled_losses(plan.losses, family, None)] == [weight]  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("losses", "said"),
        [
            ([{"name": "pkd"}, {"name": "pkd"}], "pkd is listed twice"),
            ([{"name": "pdk"}], "'pkd'"),
            ([{"name": "pkd", "levls": 2}], "levls"),
            ([{"name": "pkd", "weight": -1}], "greater than or equal to 0"),
        ],
    )
    def test_a_mistake_says_where(self, losses: list[dict[str, object]], said: str) -> None:
        with pytest.raises(ValidationError, match=said) as caught:
            DistillConfig.model_validate({"losses": losses})
        assert caught.value.errors()[0]["loc"][0] == "losses"

    def test_one_that_does_not_fit_the_student_is_refused_by_name(self) -> None:
        plan = DistillConfig.model_validate({"losses": [{"name": "pkd"}, {"name": "bckd"}]})
        with pytest.raises(
            SpecError, match="bckd: it fits retinanet and fcos students, not faster_rcnn"
        ) as caught:
            settled_losses(plan.losses, "faster_rcnn", None)
        (problem,) = caught.value.problems
        assert problem.loc == ("distill", "losses", 1)
        silent = plan.model_copy(update={"losses": (plan.losses[1].model_copy(update={"weight": 0}),)})
        assert settled_losses(silent.losses, "faster_rcnn", None)[0].weight == 0

    def test_one_that_compares_heads_needs_heads_that_can_be_compared(self) -> None:
        plan = DistillConfig.model_validate({"losses": [{"name": "bckd"}]})
        with pytest.raises(SpecError, match="bckd: the scores of a fcos student and a retinanet teacher"):
            settled_losses(plan.losses, "fcos", incomparable_scores("fcos", "retinanet"))
