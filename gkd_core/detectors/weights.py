"""Initial weights of a detector: a model of GKD, a plain state dict, or torchvision's published ones.

Files are read without unpickling (`weights_only`, or safetensors); nothing falls back to it. A file fills either a
whole detector or its backbone. Heads of other classes are reinitialised, which is reported; any other tensor that
does not fit is an error that names it.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import get_weight
from torchvision.ops import FrozenBatchNorm2d

from gkd_core.detectors import published
from gkd_core.detectors.backbones import published_name
from gkd_core.detectors.detector import Detector, as_module
from gkd_core.detectors.model_card import carries_card, is_safetensors, read_card
from gkd_core.detectors.published import WITHOUT_EPSILON
from gkd_core.errors import Problem, SpecError
from gkd_core.process.named_files import open_named

State = OrderedDict[str, Tensor]

BY_CLASS = ("head.classification_head.cls_logits.", "roi_heads.box_predictor.")
"""Tensors that have rows for each class."""
SHOWN = 5
"""How many names of tensors a message lists."""


def load_weights(detector: Detector, weights: str, classes: tuple[str, ...] | None = None) -> list[str]:
    """Load weights into a freshly built detector.

    Args:
        detector: what is filled.
        weights: a path, or torchvision's name of published weights.
        classes: of the detector, in label order; None: exactly those of the file, and every tensor must fit.

    Returns:
        Notes for people: which tensors were reinitialised.

    Raises:
        SpecError: unreadable, of another detector (the tensors that differ are named), or in another class order.
    """
    state = read_state(weights)
    known = known_classes(weights)
    if classes is not None and known is not None:
        _require_same_order(known, classes)
    if not any(name.startswith("backbone.") for name in state):
        return _load_backbone(detector, state, weights)
    renewed = _class_tensors(detector, state, known) if classes not in (None, known) else []
    _load_state(as_module(detector), state, weights, renewed)
    if weights in WITHOUT_EPSILON or Path(weights).name in WITHOUT_EPSILON.values():
        _subtract_epsilon(detector)
    if not renewed:
        return []
    return [f"{weights} was made for other classes: {len(renewed)} tensors of the heads start from scratch"]


def known_classes(weights: str) -> tuple[str, ...] | None:
    """Return the classes that weights were trained for, in label order; None where nothing records them."""
    if published.is_name(weights):
        return published.COCO_CLASSES if weights in published.DETECTORS else None
    return read_card(weights).classes if carries_card(weights) else None


# ---- reading ---------------------------------------------------------------------------------------------


def read_state(weights: str) -> State:
    """Read the tensors by name, on the CPU.

    Raises:
        SpecError: there is no such file or name, or it cannot be read without running code from it.
    """
    if published.is_name(weights):
        return _published(weights)
    try:
        open_named(weights).close()  # torch would open a FIFO too
        if is_safetensors(weights):
            return OrderedDict(load_file(weights))
        found = torch.load(weights, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        hint = "Save a plain state dict, torch.save(model.state_dict(), ...), or a safetensors file."
        raise _weights_error(
            weights, "holds more than tensors, and loading it would run code from it", hint
        ) from None
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise _weights_error(weights, f"cannot be read: {_first_line(error)}") from None
    return _state_dict_in(found, weights)


def _published(name: str) -> State:
    try:
        return OrderedDict(get_weight(name).get_state_dict(progress=False, check_hash=True))
    except (ValueError, AttributeError, KeyError) as error:
        raise _weights_error(name, f"is no name of torchvision's: {_first_line(error)}") from None
    except (URLError, OSError) as error:
        where = Path(torch.hub.get_dir(), "checkpoints")
        hint = f"Put the file from {get_weight(name).url} into {where}, or name a file."
        raise _weights_error(name, f"cannot be downloaded: {_first_line(error)}", hint) from None


def _state_dict_in(found: Any, weights: str) -> State:
    """Return the state dict in what was saved: scripts put it under `model` or `state_dict`, DDP adds `module.`."""
    for key in ("model", "state_dict", "model_state_dict"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise _weights_error(weights, "holds no state dict: tensors by name")
    return OrderedDict((str(name).removeprefix("module."), tensor) for name, tensor in found.items())


# ---- loading into a detector -----------------------------------------------------------------------------


def _load_backbone(detector: Detector, state: State, weights: str) -> list[str]:
    """Load a classifier into the backbone; its last layers, for which a detector has no place, are left out."""
    body = detector.backbone.body
    sources = {name: source for name in body.state_dict() if (source := published_name(name, state))}
    if not sources:
        raise _weights_error(
            weights, f"fills neither the detector nor its backbone: it has {_first_names(state)}"
        )
    used = set(sources.values())
    parts = {_classifier_part(source) for source in used}
    known = State((name, state[source]) for name, source in sources.items())
    known.update(
        (name, tensor)
        for name, tensor in state.items()
        if name not in used and _classifier_part(name) in parts
    )
    _load_state(body, known, weights, [])
    return []


def _classifier_part(name: str) -> str:
    """Return the part of a classifier that a tensor belongs to: a body uses a part as a whole or not at all."""
    first, *rest = name.split(".")
    return f"{first}.{rest[0]}" if first == "features" and rest else first


def _load_state(module: nn.Module, state: State, weights: str, renewed: Iterable[str]) -> None:
    """Load a state dict whose tensors must all exist with their shapes, except those that are reinitialised."""
    own = module.state_dict()
    given = State(
        (name, tensor) for name, tensor in state.items() if name in own or not _is_batch_counter(name)
    )
    kept = own.keys() - set(renewed)
    missing = sorted(name for name in kept - given.keys() if not _is_batch_counter(name))
    surplus = sorted(given.keys() - own.keys())
    misshapen = sorted(name for name in kept & given.keys() if own[name].shape != given[name].shape)
    if missing or surplus or misshapen:
        raise _mismatch_error(weights, missing, surplus, misshapen)
    merged = State((name, given.get(name, own[name]) if name in kept else own[name]) for name in own)
    merged._metadata = own._metadata  # type: ignore[attr-defined]  # else torchvision takes the names for old ones
    module.load_state_dict(merged)


def _is_batch_counter(name: str) -> bool:
    """Return whether a tensor is a batch norm's `num_batches_tracked`, which is not used.

    Frozen norms and old files lack it.
    """
    return name.endswith("num_batches_tracked")


def _class_tensors(detector: Detector, state: State, known: tuple[str, ...] | None) -> list[str]:
    """Return the tensors of the heads that have a row for each class and were trained for other classes.

    If the classes of the file are unknown: those that have another number of rows.
    """
    own = detector.state_dict()
    return [
        name
        for name in own.keys() & state.keys()
        if name.startswith(BY_CLASS)
        and own[name].shape[1:] == state[name].shape[1:]
        and (known is not None or own[name].shape != state[name].shape)
    ]


def _subtract_epsilon(detector: Detector) -> None:
    """Subtract epsilon from the variances, so that the sum of both is the variance of training."""
    for module in detector.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.running_var -= module.eps


# ---- errors ----------------------------------------------------------------------------------------------


def _require_same_order(known: tuple[str, ...], classes: tuple[str, ...]) -> None:
    """Raise if the classes are in another order: rows of the heads would be exchanged in silence."""
    if known != classes and set(known) == set(classes):
        message = f"the weights know {', '.join(known)}; the data has {', '.join(classes)}"
        hint = f"Give data.classes in the order of the weights: {', '.join(known)}."
        raise SpecError([Problem(loc=("weights",), message=message, hint=hint)])


def _mismatch_error(weights: str, missing: list[str], surplus: list[str], misshapen: list[str]) -> SpecError:
    parts = [
        f"{len(names)} tensors {what}: {_first_names(names)}"
        for names, what in (
            (missing, "are missing"),
            (surplus, "have no place"),
            (misshapen, "have another shape"),
        )
        if names
    ]
    hint = "Use weights of the same architecture, backbone, layout, widths and norm."
    return _weights_error(weights, f"does not fit the detector; {'; '.join(parts)}", hint)


def _first_names(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:SHOWN]) + (" ..." if len(listed) > SHOWN else "")


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _weights_error(weights: str, why: str, hint: str = "") -> SpecError:
    return SpecError([Problem(loc=("weights",), message=f"{weights} {why}", hint=hint)])
