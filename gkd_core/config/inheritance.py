"""What a student may take over from its teacher before training: told from the configs alone, no torch here.

Neck and head are the parts whose shapes can agree between a small detector and a large one. What these checks let pass
is compared tensor by tensor once both detectors exist (`gkd_core.distill.inheritance`).
"""

from __future__ import annotations

from gkd_core.config.detector import DetectorConfig, Part, StudentConfig
from gkd_core.errors import Problem

_MEANT = {
    "fpn": "Give the student the teacher's fpn.channels, and an architecture with the same strides",
    "head": "Give the student the teacher's architecture, layout, fpn.channels and head",
}


def not_inheritable(part: Part, why: str) -> Problem:
    """Return the problem of a part of which nothing fits, with how to make it fit."""
    message = f"nothing of the teacher's {part} fits the student: {why}"
    return Problem(loc=("student", "inherit"), message=message, hint=f"{_MEANT[part]}, or leave {part} out.")


def inheritance_problems(student: StudentConfig, teacher: DetectorConfig) -> list[Problem]:
    """Return a problem for each part in `student.inherit` of which nothing can fit."""
    reasons = {"fpn": _other_fpn(student, teacher), "head": _other_head(student, teacher)}
    return [not_inheritable(part, why) for part in student.inherit if (why := reasons[part])]


def _other_fpn(student: DetectorConfig, teacher: DetectorConfig) -> str:
    """Return how the pyramids differ in what every block of them depends on; empty where they do not."""
    if _is_two_stage(student) != _is_two_stage(teacher):
        return f"the levels of {student.architecture} and {teacher.architecture} have other strides"
    return _difference("fpn.channels", student.fpn.channels, teacher.fpn.channels)


def _other_head(student: DetectorConfig, teacher: DetectorConfig) -> str:
    """Return the first difference between the heads; empty where there is none."""
    found = (
        _difference("architecture", student.architecture, teacher.architecture),
        _difference("layout", student.layout, teacher.layout),
        _difference("fpn.channels", student.fpn.channels, teacher.fpn.channels),
        _difference("head.width", _width(student), _width(teacher)),
        _difference("head.depth", student.head.depth, teacher.head.depth),
        _difference("head.depthwise", student.head.depthwise, teacher.head.depthwise),
    )
    return next(filter(None, found), "")


def _difference(field: str, student: object, teacher: object) -> str:
    return "" if student == teacher else f"its {field} is {student}, the teacher's is {teacher}"


def _width(detector: DetectorConfig) -> int:
    return detector.head.width or detector.fpn.channels


def _is_two_stage(detector: DetectorConfig) -> bool:
    return detector.architecture == "faster_rcnn"
