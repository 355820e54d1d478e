"""The process that checks a registered or uploaded data set or model.

Started as `python -m jobs.uploads.check_process`. It reads a request on stdin, limits itself, and prints a
verdict. Its input is not to be trusted, so it knows no secret, its memory and CPU time are limited, and the
service survives whatever happens to it (`check_runner.py`).
"""

from __future__ import annotations

import hashlib
import os
import resource
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from gkd_core.config import DataConfig
from gkd_core.data.check import recognise
from gkd_core.data.examine import Examination, examine_layout, needed_to_keep
from gkd_core.errors import DISK_AND_NETWORK, DataError, Problem
from gkd_core.process.engine import die_with_parent
from gkd_core.process.named_files import environment_of, open_named
from jobs.paths.data_roots import DataRootError, DataRoots, renamed
from jobs.paths.fingerprint import of_data_set, of_file, size_of
from jobs.resources import ResourceKind, ResourceState, Verdict
from jobs.uploads.archive_members import BadArchive
from jobs.uploads.archives import Limits, top, unpack
from jobs.uploads.limited_process import LONGEST_ANSWER
from jobs.uploads.model_files import BadModel, inspect
from jobs.uploads.submission_check import Here, Looked, Submission

SHOWN = 100
"""Maximum number of items per oddity, and of pairs and groups of pictures, in a report: it is kept in the
database."""
_LONGEST_REASON = 2000


class Request(BaseModel):
    """What is to be checked, and within which limits."""

    model_config = ConfigDict(frozen=True)

    kind: ResourceKind
    file: Path | None = None
    """A model, or the archive of an uploaded data set."""
    uploaded: bool = False
    folder: Path | None = None
    """Where the archive is unpacked."""
    data: DataConfig | None = None
    """The data set; of an upload only its format is used."""
    roots: tuple[Path, ...] = ()
    """Data roots that a data set on this machine must stay within."""
    memory_bytes: int
    seconds: int
    """CPU seconds of all threads together."""
    unpacked_bytes: int
    free_bytes: int = 0
    """Bytes on the disk that must stay free."""


def main() -> None:
    """Check the resource in the request and print a verdict, or the submission's data and print what was found."""
    if sys.argv[1:] == ["submission"]:
        return _check_submission()
    request = Request.model_validate_json(sys.stdin.buffer.read())
    die_with_parent()
    _limit(request)
    _read_only_under(request)
    print(verdict(request).model_dump_json())


def _check_submission() -> None:
    submission = Submission.model_validate_json(sys.stdin.buffer.read())
    die_with_parent()
    _limit_to(submission.memory_bytes, submission.seconds, written=LONGEST_ANSWER)
    print(looked(submission).model_dump_json())


def looked(submission: Submission) -> Looked:
    """Return what is in the data set or weights file that a submission names."""
    places = DataRoots(submission.roots, confined=submission.confined)
    try:
        if submission.data is not None:
            os.environ |= environment_of(places.roots) if places.confined else {}
            return Here().data(submission.data, places, submission.wanted)
        assert submission.weights is not None
        return Looked(card=Here().card(submission.weights))
    except DataRootError as error:
        problem = Problem(loc=(), message=error.message, hint=error.hint)
    except MemoryError:
        message = f"to look into it takes more than {submission.memory_bytes / 2**30:.1f} GiB of memory"
        problem = Problem(loc=("data",), message=message, hint="Split it, or raise GKD_CHECK_MEMORY.")
    return Looked(problems=(problem,))


def _read_only_under(request: Request) -> None:
    """Restrict reads to the folders where the data set may lie, in every thread."""
    if request.kind is ResourceKind.DATASET:
        roots = [request.folder] if request.folder else request.roots
        os.environ |= environment_of(roots)


def _limit(request: Request) -> None:
    _limit_to(request.memory_bytes, request.seconds, written=request.unpacked_bytes)


def _limit_to(memory_bytes: int, seconds: int, *, written: int) -> None:
    limits = {
        resource.RLIMIT_AS: (memory_bytes, memory_bytes),
        # SIGXCPU at the soft limit, SIGKILL at the hard one.
        resource.RLIMIT_CPU: (seconds, seconds + 1),
        resource.RLIMIT_FSIZE: (written, written),
        resource.RLIMIT_CORE: (0, 0),
    }
    for what, wanted in limits.items():
        _, hard = resource.getrlimit(what)
        least = [most if hard == resource.RLIM_INFINITY else min(most, hard) for most in wanted]
        resource.setrlimit(what, (least[0], least[1]))


def verdict(request: Request) -> Verdict:
    """Return the verdict on a data set or a model."""
    try:
        return _dataset(request) if request.kind is ResourceKind.DATASET else _model(request)
    except (BadArchive, BadModel, DataRootError) as error:
        return _refused(str(error))
    except DataError as error:
        return _unusable(request, error)
    except MemoryError:
        return _refused(f"to look into it takes more than {request.memory_bytes / 2**30:.1f} GiB of memory")
    except OSError as error:
        if error.errno in DISK_AND_NETWORK:
            return Verdict(state=ResourceState.CHECKING, reason=f"it cannot be checked now: {error.strerror}")
        return _refused(f"it cannot be read: {error.strerror or error}")


def _refused(reason: str, report: dict[str, Any] | None = None) -> Verdict:
    return Verdict(state=ResourceState.REFUSED, reason=reason[:_LONGEST_REASON], report=report)


# ---- data sets -------------------------------------------------------------------------------------------


def _dataset(request: Request) -> Verdict:
    data = _unpacked(request) if request.uploaded else request.data
    assert data is not None
    places = DataRoots([request.folder] if request.folder else request.roots)
    needs = needed_to_keep(data)
    layout = recognise(data, needs=needs)
    for error in places.left_by(layout.config):
        raise error
    examination = _shortened(examine_layout(layout, needs=needs))
    return Verdict(
        state=ResourceState.READY,
        reason=_summary(examination),
        report=_with_archive_paths(request, examination.model_dump(mode="json")),
        size=None if request.uploaded else size_of(examination.resolved),
        fingerprint=None if request.uploaded else of_data_set(examination.resolved),
    )


def _unpacked(request: Request) -> DataConfig:
    assert request.file is not None
    assert request.folder is not None
    limits = Limits(request.unpacked_bytes, free_bytes=request.free_bytes)
    unpack(request.file, request.folder, limits)
    os.sync()  # a folder that is renamed before a power failure must have its content on disk
    wanted = request.data.format if request.data else "auto"
    return DataConfig(path=str(top(request.folder)), format=wanted)


def _unusable(request: Request, error: DataError) -> Verdict:
    """Return the verdict on an unusable data set, with the report that `gkd data check --json` prints."""
    problems = [problem.model_dump(mode="json") for problem in error.problems[:SHOWN]]
    report = _with_archive_paths(request, {"usable": False, "problems": problems})
    told = [Problem.model_validate(problem) for problem in report["problems"]]
    return _refused("; ".join(problem.message for problem in told), report)


def _with_archive_paths(request: Request, report: dict[str, Any]) -> dict[str, Any]:
    """Return the report with the paths of an upload relative to its archive."""
    return report if request.folder is None else renamed(report, str(request.folder), "")


def _shortened(examination: Examination) -> Examination:
    oddities = (odd.model_copy(update={"items": odd.items[:SHOWN]}) for odd in examination.oddities)
    splits = {
        name: split.model_copy(update={"copies": tuple(group[:SHOWN] for group in split.copies[:SHOWN])})
        for name, split in examination.splits.items()
    }
    lists = {
        "oddities": tuple(oddities),
        "shared": examination.shared[:SHOWN],
        "test_shared": examination.test_shared[:SHOWN],
    }
    return examination.model_copy(update=lists | splits)


def _summary(found: Examination) -> str:
    remarks = len(found.warnings)
    noted = f"; {remarks} remark{'s' * (remarks > 1)}" if remarks else ""
    uses = {"train": "to learn from", "val": "to judge on", "test": "to test on"}
    parts = [f"{split.images} {uses[name]}" for name, split in found.splits.items()]
    parts[0] = parts[0].replace(" ", " pictures ", 1)
    if found.train and not found.val:
        parts.insert(1, "none to judge on (a training needs `data.val_share`, such as 0.2)")
    pictures = " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))
    return f"{found.format}, {len(found.classes)} classes, {pictures}{noted}"


# ---- models ----------------------------------------------------------------------------------------------


def _model(request: Request) -> Verdict:
    assert request.file is not None
    found = inspect(request.file)
    told = f"{found.format}, {found.tensors} tensors, {found.parameters} parameters"
    if found.card:
        told += (
            f": a {found.card.architecture} on {found.card.backbone} for {len(found.card.classes)} classes"
        )
    verdict = Verdict(state=ResourceState.READY, reason=told, report=found.model_dump(mode="json"))
    if request.uploaded:
        return verdict
    with open_named(request.file) as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    about = {"size": request.file.stat().st_size, "sha256": sha256, "fingerprint": of_file(request.file)}
    return verdict.model_copy(update=about)


if __name__ == "__main__":
    main()
