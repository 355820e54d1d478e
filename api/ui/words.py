"""Numbers, times and sizes as people read them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

MINUS = "\N{MINUS SIGN}"
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400


def duration(seconds: float) -> str:
    """Return a duration as text, its smallest unit a minute from 90 s on."""
    if seconds < 1.5 * _MINUTE:
        return f"{seconds:.0f} s"
    if seconds < 1.5 * _HOUR:
        return f"{seconds / _MINUTE:.0f} min"
    if seconds < 2 * _DAY:
        hours, rest = divmod(round(seconds / _MINUTE), 60)
        return f"{hours} h {rest} min" if rest and hours < 10 else f"{hours} h"
    return f"{seconds / _DAY:.0f} days"


def age(moment: datetime) -> str:
    """Return how long ago a moment was."""
    return duration(max(0.0, (datetime.now(UTC) - moment).total_seconds()))


def clock(moment: datetime) -> str:
    """Return date and time, in UTC."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def moment(time: datetime) -> str:
    """Return day and time of a moment, in UTC, without the year."""
    return f"{time.astimezone(UTC):%d %b %H:%M:%S}"


def size(count: float) -> str:
    """Return a number of bytes as text."""
    for unit, bytes_ in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= bytes_:
            return f"{count / bytes_:.1f} {unit}"
    return f"{count:.0f} B"


def points(value: float | None) -> str:
    """Return a metric in 0 to 1 in points of 0 to 100; a dash if it is unknown or no such object exists (-1)."""
    return "\N{EN DASH}" if value is None or value < 0 else f"{100 * value:.1f}"


def signed(value: float) -> str:
    """Return a difference of metrics in points, with its sign."""
    return f"{100 * value:+.1f}".replace("-", MINUS)


def architecture(name: str) -> str:
    """Return the usual spelling of an architecture or a backbone."""
    return _SPELLING.get(name, name.replace("resnet", "ResNet-").replace("resnext", "ResNeXt-"))


_SPELLING = {
    "fcos": "FCOS",
    "retinanet": "RetinaNet",
    "faster_rcnn": "Faster R-CNN",
    "mobilenet_v3_small": "MobileNetV3-S",
    "mobilenet_v3_large": "MobileNetV3-L",
}

FILTERS: dict[str, Callable[..., Any]] = {
    "duration": duration,
    "age": age,
    "clock": clock,
    "moment": moment,
    "size": size,
    "points": points,
    "signed": signed,
    "architecture": architecture,
}
"""Filters of the templates."""
