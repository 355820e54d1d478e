"""A small, sound data set that a test can damage in one place."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gkd_core.config import DataConfig, Split


class CocoFolder:
    """Two pictures of 96 x 64 with a square and a disc each, as train and as val; change `train`, then `config()`.

    `draw_test()` gives it a test split of the same kind.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images = folder / "images"
        self.images.mkdir(parents=True)
        self.train = self._split("t")
        self.val = self._split("v")
        self.test: dict[str, Any] | None = None

    def draw_test(self) -> dict[str, Any]:
        self.test = self._split("h")
        return self.test

    def _split(self, prefix: str) -> dict[str, Any]:
        images, annotations = [], []
        for number in (1, 2):
            name = f"{prefix}{number}.png"
            write_picture(self.images / name, 96, 64)
            images.append({"id": number, "file_name": name, "width": 96, "height": 64})
            for category, box in ((1, [10, 12, 24, 28]), (2, [50, 20, 32, 32])):
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": number, "category_id": category, "bbox": box}
                )
        categories = [{"id": 1, "name": "square"}, {"id": 2, "name": "disc"}]
        return {"images": images, "annotations": annotations, "categories": categories}

    def config(self, **fields: Any) -> DataConfig:
        splits = {}
        for name, content in (("train", self.train), ("val", self.val), ("test", self.test)):
            if content is None:
                continue
            file = self.folder / f"{name}.json"
            file.write_text(json.dumps(content))
            splits[name] = Split(images=str(self.images), annotations=str(file))
        return DataConfig(**splits, **fields)


def write_picture(path: Path, width: int, height: int, seed: int = 0, **options: Any) -> None:
    """Write a picture of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)


@pytest.fixture
def picture() -> Callable[..., None]:
    return write_picture


@pytest.fixture
def coco(tmp_path: Path) -> CocoFolder:
    return CocoFolder(tmp_path / "set")


@pytest.fixture
def shared_data() -> Path:
    if "GKD_SHARED" not in os.environ:
        pytest.skip("GKD_SHARED names no folder of sample data")
    return Path(os.environ["GKD_SHARED"]) / "data"
