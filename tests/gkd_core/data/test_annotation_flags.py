"""Flags as exporters write them."""

import math

import pytest

from gkd_core.data.annotation_flags import flag_of, read_flag
from gkd_core.data.findings import Findings


@pytest.mark.parametrize("value", [1, 1.0, True, "1", "1.0", "true", "True", "TRUE", " 1 ", "true\n"])
def test_what_means_true(value: object) -> None:
    assert flag_of(value) is True


@pytest.mark.parametrize("value", [0, 0.0, -0.0, False, "0", "0.0", "false", "False", "FALSE", "\t0"])
def test_what_means_false(value: object) -> None:
    assert flag_of(value) is False


@pytest.mark.parametrize(
    "value",
    [None, 2, -1, 0.5, math.nan, math.inf, 10**400, "", " ", "yes", "no", "2", "nan", "null", [], [1], {}],
)
def test_anything_else_is_no_flag_and_remarked_on(value: object) -> None:
    findings = Findings("train", "a.json")

    assert flag_of(value) is None
    assert read_flag("annotation 7", "iscrowd", value, findings) is False

    (remark,) = findings.remarks()
    assert "`iscrowd` is neither 0, 1, true nor false; taken as 0" in remark
    assert "annotation 7 has " in remark


def test_a_flag_needs_no_remark() -> None:
    findings = Findings("train", "a.json")

    assert read_flag("annotation 7", "iscrowd", "1", findings) is True
    assert read_flag("annotation 8", "iscrowd", 0, findings) is False
    assert findings.remarks() == ()
