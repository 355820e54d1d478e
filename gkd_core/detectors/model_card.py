"""The model card: metadata of a published model, inside its own file. No torch here.

A model is one safetensors file; its metadata holds one entry, `gkd`, with the card as JSON: enough to rebuild
the detector from the file alone. One entry, because safetensors orders several at random and the same weights
should give the same bytes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from gkd_core.config import Architecture, Backbone, DetectorConfig, FpnConfig, HeadConfig, Strict
from gkd_core.errors import Problem, SpecError
from gkd_core.process.named_files import open_named

LONGEST_HEADER = 16 * 1024**2
"""Largest header that is read, in bytes; the format allows 100 MB. That of a thousand tensors has a tenth of a MB."""


class ModelCard(Strict):
    """A detector's architecture, classes and preprocessing."""

    format: Literal[1] = 1
    architecture: Architecture
    layout: Literal["gkd", "torchvision", "torchvision_v2"] = "gkd"
    backbone: Backbone
    backbone_width: float = 1.0
    fpn: FpnConfig
    head: HeadConfig
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    norm: Literal["batch", "group", "frozen"]
    classes: tuple[str, ...]
    """Label 1 is the first."""
    image_size: int
    """Longer side of the pictures in training, in pixels. Pictures are RGB in 0..1; the model normalises."""
    white: int | None = None
    """Which value meant white in the training pictures of 16 or 32 bits; None where they had 8."""

    @classmethod
    def of(
        cls, config: DetectorConfig, classes: tuple[str, ...], image_size: int, white: int | None = None
    ) -> ModelCard:
        """Return the card of a detector that is built from a config."""
        return cls(
            classes=classes,
            image_size=image_size,
            white=white,
            **config.model_dump(include=DetectorConfig.model_fields.keys() - {"weights", "frozen_stages"}),
        )

    def written(self) -> str:
        """Return the card as JSON; what 8-bit images do not need is left out, as older versions expect it."""
        return self.model_dump_json(exclude={"white"} if self.white is None else None)

    def detector(self) -> DetectorConfig:
        """Return the config that builds the detector."""
        return DetectorConfig(**self.model_dump(exclude={"format", "classes", "image_size", "white"}))


def read_card(path: Path | str) -> ModelCard:
    """Read the card from a model file, without reading the weights.

    Raises:
        SpecError: the file is missing, is no safetensors file, or carries no card of GKD.
    """
    try:
        with open_named(path) as file:
            length = int.from_bytes(file.read(8), "little")
            if length > LONGEST_HEADER and file.read(1) == b"{":
                raise _not_a_model(
                    path, f"its header has {length} bytes, and at most {LONGEST_HEADER} are read"
                )
            if not 2 <= length <= LONGEST_HEADER:
                raise _not_a_model(path, "it does not start with a safetensors header")
            header = json.loads(file.read(length))
        return ModelCard.model_validate_json(header["__metadata__"]["gkd"])
    except OSError as error:
        raise _not_a_model(path, error.strerror or str(error)) from None
    except (ValueError, KeyError, TypeError, RecursionError, ValidationError):
        raise _not_a_model(path, "it carries no model card of GKD") from None


def carries_card(path: Path | str) -> bool:
    """Return whether a file is a safetensors file with a card of GKD, of any version; False if unreadable."""
    metadata = _header(path).get("__metadata__")
    return isinstance(metadata, dict) and "gkd" in metadata


def holds_tensors(path: Path | str) -> bool:
    """Return whether a file looks like a state dict: a safetensors file with tensors, or what `torch.save` writes."""
    if is_safetensors(path):
        return True
    try:
        with open_named(path) as file:
            return file.read(2) in (b"PK", b"\x80\x02")
    except OSError:
        return False


def is_safetensors(path: Path | str) -> bool:
    """Return whether a file is a safetensors file with tensors, whatever its name, which may have no suffix."""
    return any(isinstance(entry, dict) and "data_offsets" in entry for entry in _header(path).values())


def header_bytes(path: Path | str) -> int:
    """Return the size in bytes of a safetensors file's header; 0 where there is none, or one that is not read."""
    try:
        with open_named(path) as file:
            length = int.from_bytes(file.read(8), "little")
            return length if length <= LONGEST_HEADER and file.read(1) == b"{" else 0
    except OSError:
        return 0


def _header(path: Path | str) -> dict[str, object]:
    """Return the header of a safetensors file; empty where there is none."""
    try:
        with open_named(path) as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if 2 <= length <= LONGEST_HEADER else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return header if isinstance(header, dict) else {}


def _not_a_model(path: Path | str, why: str) -> SpecError:
    hint = "Name a .safetensors file that a GKD job wrote, or a job as job:<id>."
    return SpecError([Problem(loc=("weights",), message=f"{path} is not a model of GKD: {why}", hint=hint)])
