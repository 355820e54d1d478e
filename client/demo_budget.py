"""The number of epochs that fit into the time of a demo, computed from measurements on this machine.

A demo trains a teacher in one job and a student with its control in another. Besides training steps, jobs
start, evaluate on the validation pictures, choose prototypes and draw charts; on a slow machine that is a third
of the time.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

TEACHER_STARTS, STUDENT_STARTS = 2.5, 4.0
"""Overhead of a job besides steps and inference, in units of the time that a process takes to import torch:
the import, latencies, charts. A student's job draws three detectors instead of one."""
SPARE = 1.1
"""Factor on a forecast: the machine does other things meanwhile."""
LOOKS = 3
"""How often a model is run on the validation pictures: half-way, at the end, and for the report."""


class Pace(NamedTuple):
    """The speed of this machine, in seconds."""

    threads: int
    """Number of threads of the measurement."""
    start: float
    """Time until a process has imported torch."""
    teacher_step: float
    student_step: float
    """A training step, without a teacher."""
    teacher_picture: float
    student_picture: float
    """Inference on one picture."""
    steps: int
    """Per epoch."""
    train: int
    val: int
    """Number of pictures."""

    @classmethod
    def of(cls, measured: dict[str, Any]) -> Pace:
        """Return the measurements of a teacher and a student by `python -m gkd_core.runs.pace`."""
        teacher, student = measured["runs"]
        return cls(
            threads=measured["threads"],
            start=measured["start"],
            teacher_step=teacher["step"],
            student_step=student["step"],
            teacher_picture=teacher["picture"],
            student_picture=student["picture"],
            steps=teacher["steps"],
            train=measured["pictures"][0],
            val=measured["pictures"][1],
        )

    def times(self, factor: float) -> Pace:
        """Return the pace of a machine that takes `factor` times as long."""
        names = ("start", "teacher_step", "student_step", "teacher_picture", "student_picture")
        return self._replace(**{name: factor * getattr(self, name) for name in names})


class Plan(NamedTuple):
    """Numbers of epochs."""

    teacher: int
    student: int
    """Of the student and of its control."""


def teacher_seconds(pace: Pace, epochs: int) -> float:
    """Return the duration of the teacher's job in seconds."""
    training = epochs * pace.steps * pace.teacher_step
    return SPARE * (training + LOOKS * pace.val * pace.teacher_picture + TEACHER_STARTS * pace.start)


def student_seconds(pace: Pace, epochs: int) -> float:
    """Return the duration of the job of student and control in seconds.

    A step of the student costs one of the control and the teacher's inference on the same pictures; prototypes
    are chosen twice, from inference of both on the training pictures.
    """
    a_look = pace.train * pace.teacher_picture
    training = epochs * (2 * pace.steps * pace.student_step + a_look)
    choosing = min(epochs, 2) * (a_look + pace.train * pace.student_picture)
    scoring = pace.val * (2 * LOOKS * pace.student_picture + 2 * pace.teacher_picture)
    return SPARE * (training + choosing + scoring + STUDENT_STARTS * pace.start)


def seconds(pace: Pace, plan: Plan) -> float:
    """Return the duration of both jobs in seconds."""
    return teacher_seconds(pace, plan.teacher) + student_seconds(pace, plan.student)


def fit(pace: Pace, whole: Plan, left: float) -> Plan:
    """Return the longest plan in the whole one's proportions that takes at most `left` seconds, or one epoch each.

    The plan is stepped by the student's epochs: it has more of them, so its steps are finer.
    """
    plans = (_share(whole, student) for student in range(whole.student, 0, -1))
    return next((plan for plan in plans if seconds(pace, plan) <= left), Plan(1, 1))


def _share(whole: Plan, student: int) -> Plan:
    return Plan(max(1, round(whole.teacher * student / whole.student)), student)


def fit_student(pace: Pace, wanted: int, left: float) -> int:
    """Return how many epochs of student and control, 1 to `wanted`, take at most `left` seconds, or 1."""
    epochs = range(wanted, 1, -1)
    return next((number for number in epochs if student_seconds(pace, number) <= left), 1)


def every(usual: int, epochs: int) -> int:
    """Return how often to evaluate or to choose prototypes: as usual, but half-way through in any case."""
    return min(usual, math.ceil(epochs / 2))
