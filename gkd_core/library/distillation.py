"""`distill`: train a student of a teacher, its control, and write a report, in this process.

The service does the same in a process of its own: the same flow (`train.py`), the same files in the run directory.
Read `distill` from top to bottom.
"""

from __future__ import annotations

import hashlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from torch import nn

from gkd_core.config import DetectorConfig, DistillRun
from gkd_core.detectors.detector import Detector
from gkd_core.detectors.predict import card_of
from gkd_core.distill.teacher import OpenedModel
from gkd_core.errors import Problem, SpecError, StoppedError, checked
from gkd_core.events import Gain, Report
from gkd_core.library.dataset import Dataset, load_dataset
from gkd_core.library.progress import ProgressLine
from gkd_core.process.engine import EventLog, locked
from gkd_core.run_dir import RunDir
from gkd_core.runs.session import find_device
from gkd_core.train import train

LOCK_SECONDS = 5.0
"""How long to wait for another process that holds the same folder."""


@dataclass(frozen=True)
class Result:
    """The result of a distillation."""

    folder: Path
    report: Report
    """The models side by side, as in `report.json`."""

    @property
    def student(self) -> Path:
        """Return the file of the distilled student at its best epoch, which is enough to rebuild the detector."""
        return self.folder / "student.safetensors"

    @property
    def gain(self) -> Gain | None:
        """Return the AP gain over the control with its 95 % interval over the validation images; None without one."""
        return self.report.gain


def distill(
    teacher: Detector | str | Path,
    student: DetectorConfig,
    data: Dataset | str | Path,
    *,
    out: str | Path,
    epochs: int = 30,
    distill: Mapping[str, Any] | None = None,
    teacher_image_size: int | None = None,
    device: str = "auto",
    progress: bool = True,
    **recipe: Any,
) -> Result:
    """Distil a teacher into a student, beside a control, and compare the two.

    Ctrl-C saves a checkpoint and raises `KeyboardInterrupt`; the same call resumes from it. A call whose run is
    complete returns its result at once.

    Args:
        teacher: what `load_detector` or `wrap` returned, or the file of one.
        student: what `detector` returned; a module, wrapped or not, is trained by `Distiller` in a loop of your own.
        data: what `load_dataset` returned, or the folder of one.
        out: folder of the run; made if it is not there.
        epochs: passes over the training split.
        distill: fields of `config.DistillConfig`, such as `{"global": {"weight": 1}, "control": False}`.
        teacher_image_size: longer side of the pictures that the teacher sees, in pixels: 1, 2 or 4 times `image_size`.
        device: `auto`, `cpu` or `cuda`.
        progress: show a line on stderr.
        recipe: other fields of `config.TrainConfig`, such as `image_size=320` or `batch_size=16`.

    Raises:
        SpecError: a field is wrong, teacher and data do not fit, or `out` holds another run.
        DataError: pictures or annotations are unusable.
        DivergedError: a loss became NaN or infinite.
        KeyboardInterrupt: Ctrl-C was pressed; a checkpoint is written.
    """
    dataset = data if isinstance(data, Dataset) else load_dataset(data)
    opened = _opened(teacher, device)
    config = checked(
        DistillRun,
        data=dataset.config,
        teacher={"weights": _called(teacher), "image_size": teacher_image_size},
        student=_config_of(student),
        distill=dict(distill or {}),
        train={"epochs": epochs, **recipe},
        device=device,
    )
    run_dir = RunDir(Path(out).absolute())
    _refuse_another_run(run_dir, config)
    if (done := run_dir.read_report()) is None:
        _carry_out(config, run_dir, opened, ProgressLine() if progress else None)
        done = run_dir.read_report()
    return Result(run_dir.path, Report.model_validate(done))


# ---- arguments -------------------------------------------------------------------------------------------


def _opened(teacher: Detector | str | Path, device: str) -> OpenedModel | None:
    """Return a teacher that is in memory; None for a file, which the run opens itself."""
    if isinstance(teacher, str | Path):
        return None
    if not isinstance(teacher, nn.Module) or not hasattr(teacher, "strides"):
        message = f"a teacher is a detector or its file, got {type(teacher).__name__}"
        hint = "A detector of torchvision: gkd.wrap(it, classes=...). A file: gkd.load_detector(path)."
        raise SpecError([Problem(loc=("teacher",), message=message, hint=hint)])
    return OpenedModel(teacher.to(find_device(device)), card_of(teacher))


def _called(teacher: Detector | str | Path) -> str:
    """Return the teacher's name in the run's config: its file or, without one, a hash of its weights."""
    if isinstance(teacher, str | Path):
        return str(teacher)
    if teacher.source:
        return str(teacher.source)
    digest = hashlib.sha256()
    for name, tensor in teacher.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return f"in memory: {type(teacher).__name__}, sha256 {digest.hexdigest()}"


def _config_of(student: object) -> DetectorConfig:
    """Return the config from which student and control are built.

    Raises:
        SpecError: it is something else, such as a module, which cannot be built twice, nor again from its file.
    """
    if isinstance(student, DetectorConfig):
        return student
    message = f"a student is a config, got {type(student).__name__}: two of it are built, one for the control"
    hint = 'Give gkd.detector("fcos", "resnet18").'
    if isinstance(student, nn.Module):
        wrapped = "student" if hasattr(student, "strides") else "gkd.wrap(student, data.classes)"
        hint = f"{hint} To train this module itself: gkd.Distiller({wrapped}, teacher) in a loop of your own."
    raise SpecError([Problem(loc=("student",), message=message, hint=hint)])


def _refuse_another_run(run_dir: RunDir, config: DistillRun) -> None:
    """Refuse a folder whose run is of another config, naming where they differ."""
    if not run_dir.config.exists():
        return
    before, now = (each.model_dump(mode="json", by_alias=True) for each in (run_dir.read_config(), config))
    if different := [name for name in {**before, **now} if before.get(name) != now.get(name)]:
        message = f"{run_dir.path} holds another run; its {', '.join(different)} differ"
        raise SpecError([Problem(loc=("out",), message=message, hint="Name another folder, or remove it.")])


# ---- the run ---------------------------------------------------------------------------------------------


def _carry_out(
    config: DistillRun, run_dir: RunDir, teacher: OpenedModel | None, line: ProgressLine | None
) -> None:
    """Run to the end, or until Ctrl-C.

    Raises:
        KeyboardInterrupt: a checkpoint is written.
    """
    run_dir.prepare(config, attempt=1)
    try:
        with (
            _ctrl_c() as should_stop,
            locked(run_dir.lock, LOCK_SECONDS, should_stop),
            EventLog(run_dir.events, echo=False) as log,
        ):
            for event in train(config, run_dir.path, should_stop, teacher):
                log.append(event)
                if line is not None:
                    line.show(event)
    except StoppedError:
        raise KeyboardInterrupt(
            f"stopped after a checkpoint; the same call goes on in {run_dir.path}"
        ) from None
    finally:
        if line is not None:
            line.end()


@contextmanager
def _ctrl_c() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a stop request; a second one interrupts as usual.

    Only the main thread can catch signals; in other threads Ctrl-C has no effect here.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def ask(_number: int, _frame: FrameType | None) -> None:
        asked.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print("\nstopping after a checkpoint; Ctrl-C again ends at once", file=sys.stderr, flush=True)

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)
