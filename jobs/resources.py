"""Data sets and models that the service knows by an id, as values: specs name them `dataset:<id>` and `model:<id>`.

Their rows are `store/resources.py`'s; what makes one ready or refuses it is `uploads/check_process.py`'s.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from gkd_core.config import DataConfig, Split, Strict
from jobs.names import Name

DATASET = "dataset:"
"""What `data` in a spec starts with when it names a registered data set."""
MODEL = "model:"
"""The same of `weights`, and a registered model."""

Format = Literal["auto", "coco", "voc", "yolo"]
ResourceName = Annotated[Name, StringConstraints(min_length=1)]
"""What people call it; need not be unique."""


class ResourceKind(StrEnum):
    """What is registered or uploaded."""

    DATASET = "dataset"
    MODEL = "model"


class ResourceState(StrEnum):
    """Whether jobs may use it."""

    CHECKING = "checking"
    """Somebody looks into it, or soon will."""
    READY = "ready"
    REFUSED = "refused"
    """`reason` says why. What was uploaded is not kept."""


class Layout(Strict):
    """How a data set lies in its files, as in a spec's `data`."""

    format: Format = "auto"
    """`auto` recognises it by the layout."""
    train: Split | None = None
    """The split that is learnt from; instead of `path`."""
    val: Split | None = None
    """The split that every model is judged on."""
    test: Split | None = None
    """Pictures that decide nothing; every model is scored on them once, at the end of its training."""


class NewDataset(Layout):
    """A data set that lies under a data root of the service, and stays there."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "blood cells", "path": "bccd", "format": "coco"}]}
    )

    name: ResourceName
    """What people call it; need not be unique."""
    path: str | None = None
    """Folder whose layout is recognised (YOLO: also its `data.yaml`); instead of the splits."""

    @model_validator(mode="after")
    def _one_data_set(self) -> NewDataset:
        self.data()
        return self

    def data(self) -> DataConfig:
        """The same as a spec would say it."""
        return DataConfig(format=self.format, path=self.path, train=self.train, val=self.val, test=self.test)


class NewModel(Strict):
    """A model that lies under a data root of the service, and stays there."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "cells teacher", "path": "models/teacher.safetensors"}]}
    )

    name: ResourceName
    """What people call it; need not be unique."""
    path: str
    """A `.safetensors` file of GKD, or a plain state dict (`.safetensors` or `.pth`)."""


class Resource(BaseModel):
    """A data set or a model that the service knows by an id."""

    model_config = ConfigDict(frozen=True)

    id: str
    kind: ResourceKind
    name: str
    state: ResourceState
    reason: str
    """What was found in a sentence, or why it was refused, or what is being waited for."""
    uploaded: bool
    """Whether its bytes were sent; otherwise it lies under a data root."""
    path: str | None
    """Where it lies. Null: it was uploaded, or its splits are spelt out in `layout`."""
    layout: Layout | None
    """Of a data set, as it was registered; null for models."""
    size: int
    """Bytes of the file that was uploaded, of the model, or of the files that the data set names."""
    sha256: str | None
    """Of the file that was uploaded, or of the model; null for a data set under a root, and before the check."""
    created_at: datetime
    checked_at: datetime | None
    """When it became ready or was refused."""

    @property
    def data(self) -> DataConfig:
        """What a spec would say of a data set under a root."""
        layout = self.layout or Layout()
        return DataConfig(
            format=layout.format, path=self.path, train=layout.train, val=layout.val, test=layout.test
        )


class CheckedResource(Resource):
    """One with all that was found in it."""

    report: dict[str, Any] | None
    """Of a data set what `gkd data check --json` prints; of a model format, tensors, parameters and its card. Null
    before the check, and where there is no more to say than `reason` does."""
    fingerprint: str | None = Field(default=None, exclude=True)
    """Of sizes and times of the files under a root, so that it can be said whether they changed since."""


class NewResource(NamedTuple):
    """What the store needs to know of one."""

    kind: ResourceKind
    name: str
    path: str | None = None
    """Absolute; None for an upload, and where splits are spelt out."""
    layout: Layout | None = None
    size: int = 0
    sha256: str | None = None
    """Of an upload; None for what lies under a root."""

    @property
    def uploaded(self) -> bool:
        """Whether its bytes were sent."""
        return self.sha256 is not None


class Verdict(BaseModel):
    """What a check found."""

    model_config = ConfigDict(frozen=True)

    state: ResourceState
    """`checking`: it could not be found out now, which is the machine's fault; it is tried again."""
    reason: str
    report: dict[str, Any] | None = None
    size: int | None = None
    """Bytes of what lies under a root."""
    sha256: str | None = None
    """Of a model under a root."""
    fingerprint: str | None = None
