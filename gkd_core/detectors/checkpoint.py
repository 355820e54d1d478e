"""Two kinds of files: published models, which are enough to rebuild a detector, and resume states (checkpoints).

A resume state holds everything that a killed run needs to go on with the same bits (on a CPU): student,
adapters, prototypes, optimiser, averaged weights, position in the data, random states. The last two are kept, so that
one truncated file costs an epoch and not the run.
"""

from __future__ import annotations

import errno
import hashlib
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from gkd_core.detectors.build import build_detector
from gkd_core.detectors.detector import Detector
from gkd_core.detectors.model_card import ModelCard, read_card
from gkd_core.detectors.skip_init import SkipInit
from gkd_core.detectors.weights import load_weights
from gkd_core.errors import FailureClass, InfrastructureError
from gkd_core.process.engine import failure_of
from gkd_core.run_dir import publish_file

_STATES_KEPT = 2
_TRUNCATED = (None, errno.EINVAL)
"""`errno` of an `OSError` from a truncated file: its zip directory points to before its start."""


# ---- published models ------------------------------------------------------------------------------------


def publish_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Write tensors as one safetensors file, atomically.

    With at most one entry of metadata, equal tensors give equal bytes.
    """
    kept = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with _atomic_file(path) as temporary:
        save_file(kept, temporary, metadata=metadata)


def publish_model(path: Path, weights: dict[str, torch.Tensor], card: ModelCard) -> None:
    """Write weights and model card as one safetensors file, atomically. Equal weights give equal bytes."""
    publish_tensors(path, weights, {"gkd": card.written()})


def load_model(path: Path | str, device: torch.device | str = "cpu") -> tuple[Detector, ModelCard]:
    """Rebuild a detector from its file, in evaluation mode.

    Raises:
        SpecError: not a model of GKD, or its tensors do not fit its card (the keys that differ are named).
    """
    card = read_card(path)
    with SkipInit():
        detector = build_detector(card.detector(), len(card.classes), card.image_size)
    load_weights(detector, str(path))
    return detector.to(device, memory_format=torch.channels_last).eval(), card


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---- resume states ---------------------------------------------------------------------------------------


def save_state(folder: Path, run: str, step: int, state: dict[str, Any]) -> None:
    """Write a resume state atomically and drop all but the last two of this run."""
    path = folder / f"{run}-{step:09d}.pt"
    with _atomic_file(path) as temporary:
        torch.save(state, temporary)
    for old in _states(folder, run)[_STATES_KEPT:]:
        old.unlink(missing_ok=True)


def load_state(folder: Path, run: str, warn: Callable[[str], None]) -> dict[str, Any] | None:
    """Return the newest resume state of a run; None when there is none. Truncated ones are reported and removed.

    A truncated file must be removed, or it takes the place of a good one until training has passed its step.

    Raises:
        InfrastructureError: a state that may be intact cannot be read from the disk.
        MemoryError: there is no room for it.
    """
    for path in _states(folder, run):
        try:
            _require_checksums(path)
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            continue  # truncated, and another of several processes has removed it
        except Exception as error:  # torch has a class for every way in which a file is truncated
            _raise_unless_truncated(path, error)
            warn(f"{path.name} cannot be read ({type(error).__name__}); going back to the one before it")
            path.unlink(missing_ok=True)
        else:
            return state
    return None


def _require_checksums(path: Path) -> None:
    """Compare a state with the checksums that were written with it.

    torch does not check them, and would load zeros where a disk lost a block.

    Raises:
        BadZipFile: it is not what was written.
    """
    with zipfile.ZipFile(path) as file:
        if (part := file.testzip()) is not None:
            raise zipfile.BadZipFile(f"{part} is not what was written")


def _raise_unless_truncated(path: Path, error: Exception) -> None:
    """Raise errors that concern the machine and not the file: the state on disk may be intact, and is kept."""
    if isinstance(error, OSError) and error.errno not in _TRUNCATED:
        raise _unreadable_state_error(path, error) from error
    if failure_of(error).failure_class != FailureClass.BUG:
        raise error


def _states(folder: Path, run: str) -> list[Path]:
    """Return the resume states of a run, newest first."""
    try:
        names = os.listdir(folder)  # `Path.glob` returns nothing for a folder that it cannot read
    except OSError as error:
        raise _unreadable_state_error(folder, error) from error
    return [folder / name for name in sorted(names, reverse=True) if fnmatch(name, f"{run}-*.pt")]


def _unreadable_state_error(path: Path, error: OSError) -> InfrastructureError:
    hint = "The run goes on once it can be read; look at the disk and at who may read it."
    return InfrastructureError(f"{path} cannot be read now: {error.strerror}", hint)


# ---- writing files ---------------------------------------------------------------------------------------


@contextmanager
def _atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary file to write, which is then synced and renamed to `path`.

    Raises:
        InfrastructureError: the file could not be written. torch and safetensors raise no `OSError` for that.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
    except (RuntimeError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)  # the partial file would keep a full disk full
        if failure_of(error).failure_class != FailureClass.BUG:
            raise
        hint = "Look at the disk: is it full?"
        raise InfrastructureError(f"{path} cannot be written: {error}", hint) from error
    _sync(temporary)
    publish_file(temporary, path)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
