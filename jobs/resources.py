"""Registered data sets and models, as values: specs name them `dataset:<id>` and `model:<id>`.

Their rows belong to `store/resources.py`; `uploads/check_process.py` decides whether one is ready or refused.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from gkd_core.config import DataConfig, Split, Strict
from jobs.names import Name

DATASET = "dataset:"
"""Prefix of `data` in a spec that names a registered data set."""
MODEL = "model:"
"""Prefix of `weights` in a spec that name a registered model."""

Format = Literal["auto", "coco", "voc", "yolo"]
ResourceName = Annotated[Name, StringConstraints(min_length=1)]
"""Name for people; need not be unique."""


class ResourceKind(StrEnum):
    """The kind of a resource."""

    DATASET = "dataset"
    MODEL = "model"


class ResourceState(StrEnum):
    """Whether jobs may use a resource."""

    CHECKING = "checking"
    """It is being checked, or soon will be."""
    READY = "ready"
    REFUSED = "refused"
    """`reason` says why. Uploaded files are not kept."""


class Layout(Strict):
    """The files of a data set, as in a spec's `data`."""

    format: Format = "auto"
    """`auto` detects it by the layout."""
    train: Split | None = None
    """The training split; instead of `path`."""
    val: Split | None = None
    """The validation split."""
    test: Split | None = None
    """The test split, used for no decision: every model is evaluated on it once, at the end of its training."""


class NewDataset(Layout):
    """A data set under a data root of the service, where it stays."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "blood cells", "path": "bccd", "format": "coco"}]}
    )

    name: ResourceName
    """Name for people; need not be unique."""
    path: str | None = None
    """Folder whose layout is detected (YOLO: also its `data.yaml`); instead of the splits."""

    @model_validator(mode="after")
    def _one_data_set(self) -> NewDataset:
        self.data()
        return self

    def data(self) -> DataConfig:
        """Return the data set as a spec's `data`."""
        return DataConfig(format=self.format, path=self.path, train=self.train, val=self.val, test=self.test)


class NewModel(Strict):
    """A model under a data root of the service, where it stays."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "cells teacher", "path": "models/teacher.safetensors"}]}
    )

    name: ResourceName
    """Name for people; need not be unique."""
    path: str
    """A `.safetensors` file of GKD, or a plain state dict (`.safetensors` or `.pth`)."""


class Resource(BaseModel):
    """A registered data set or model."""

    model_config = ConfigDict(frozen=True)

    id: str
    kind: ResourceKind
    name: str
    state: ResourceState
    reason: str
    """What was found, in a sentence, or why it was refused, or what is waited for."""
    uploaded: bool
    """Whether it was uploaded; otherwise it is under a data root."""
    path: str | None
    """Its path. Null: it was uploaded, or `layout` gives its splits."""
    layout: Layout | None
    """Of a data set, as it was registered; null for models."""
    size: int
    """Bytes of the uploaded file, of the model, or of the data set's files."""
    sha256: str | None
    """SHA-256 of the uploaded file, or of the model; null for a data set under a data root, and before the
    check."""
    created_at: datetime
    checked_at: datetime | None
    """When it became ready or was refused."""

    @property
    def data(self) -> DataConfig:
        """Return a data set under a data root as a spec's `data`."""
        layout = self.layout or Layout()
        return DataConfig(
            format=layout.format, path=self.path, train=layout.train, val=layout.val, test=layout.test
        )


class CheckedResource(Resource):
    """A registered data set or model with its report."""

    report: dict[str, Any] | None
    """Of a data set what `gkd data check --json` prints; of a model format, tensors, parameters and its
    card. Null before the check, and if `reason` says everything."""
    fingerprint: str | None = Field(default=None, exclude=True)
    """Hash of names, sizes and times of files under a data root, to detect changes since the check."""


class NewResource(NamedTuple):
    """What the store needs to register a data set or model."""

    kind: ResourceKind
    name: str
    path: str | None = None
    """Absolute; None for an upload, and if `layout` gives the splits."""
    layout: Layout | None = None
    size: int = 0
    sha256: str | None = None
    """SHA-256 of an upload; None under a data root."""

    @property
    def uploaded(self) -> bool:
        """Return whether it was uploaded."""
        return self.sha256 is not None


class Verdict(BaseModel):
    """The result of a check."""

    model_config = ConfigDict(frozen=True)

    state: ResourceState
    """`checking`: it could not be checked now, because of the machine; it is retried."""
    reason: str
    report: dict[str, Any] | None = None
    size: int | None = None
    """Bytes of files under a data root."""
    sha256: str | None = None
    """SHA-256 of a model under a data root."""
    fingerprint: str | None = None
