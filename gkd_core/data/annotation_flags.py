"""One strict reader of flags, such as COCO's `iscrowd` and VOC's `difficult`, for all formats.

Exporters write them as 0 and 1, as true and false, as floats, and each of these as text. Python's own `bool()` would
take the text "0" for true.
"""

from __future__ import annotations

import math

from gkd_core.data.findings import Findings

_TEXTS = {"true": True, "false": False}


def flag_of(value: object) -> bool | None:
    """Return a value as a flag; None where it is neither 0, 1, true nor false, also as text."""
    if isinstance(value, str):
        text = value.strip().lower()
        return _TEXTS[text] if text in _TEXTS else _from_number(_number(text))
    return _from_number(value) if isinstance(value, int | float) else None


def read_flag(item: str, field: str, value: object, findings: Findings) -> bool:
    """Return a flag of one object, false with a remark where the value is no flag.

    Args:
        item: what to call the object in a message, e.g. `annotation 17`.
        field: the name of the flag in its file.
        value: as written. Where it is absent give 0, which is no remark.
        findings: receives the remark.
    """
    flag = flag_of(value)
    if flag is None:
        shown = "null" if value is None else repr(value)[:40]
        hint = f"Write `{field}` as 0, 1, true or false."
        findings.add(f"{item} has {shown}", f"`{field}` is neither 0, 1, true nor false; taken as 0", hint)
    return bool(flag)


def _from_number(number: float) -> bool | None:
    return bool(number) if number in (0, 1) else None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
