"""`gkd predict`: what a model finds on pictures, drawn on them and written down.

`python -m gkd_core.predict MODEL IMAGES... --out DIR`. MODEL is a .safetensors file of GKD or a .onnx file that an
export job wrote; the second needs no torch. Read `predict` from top to bottom.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gkd_core.config import TeacherConfig
from gkd_core.data.augment import Picture, resize
from gkd_core.data.folders import is_picture_name
from gkd_core.data.pictures import read_image
from gkd_core.drawing import draw_boxes, lettering
from gkd_core.errors import GkdError, Problem, SpecError
from gkd_core.onnx_file import OnnxDetector
from gkd_core.run_dir import write_atomically

SCORE = 0.3
"""What is drawn if nobody says otherwise: small detectors that were trained briefly are modest."""
JPEG = frozenset((".jpg", ".jpeg"))
RESULTS = "predictions.json"

Detect = Callable[[NDArray[np.float32]], dict[str, NDArray[Any]]]
"""(3, H, W) in 0..1 -> boxes (N, 4) in its pixels, labels (N,) from 1, scores (N,)."""


class Model(NamedTuple):
    """A detector that is ready to be asked."""

    detect: Detect
    classes: tuple[str, ...]
    """Label 1 is the first."""
    image_size: int
    """Longer side of the pictures that it wants, in pixels."""


class Prediction(NamedTuple):
    """What was found on a picture."""

    file: Path
    image_id: int
    image: Image.Image
    """As people see it, in full size."""
    boxes: NDArray[Any]
    """(N, 4) in its pixels."""
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]


def predict(model: Model, files: Sequence[Path], out: Path, score: float, tell: Tell) -> int:
    """Detect on pictures, one by one; draw, write down and tell.

    Args:
        model: what detects.
        files: the pictures.
        out: folder for the drawn pictures and `predictions.json`.
        score: least score of what is drawn and written.
        tell: hears of every picture.

    Returns:
        How many pictures could not be read.
    """
    out.mkdir(parents=True, exist_ok=True)
    results: list[dict[str, Any]] = []
    names, broken = names_for(files), 0
    for file, image_id in zip(files, ids_for(files), strict=True):
        try:
            found = look_at(model, file, image_id, score)
        except (GkdError, OSError) as error:
            tell.broken(file, error)
            broken += 1
            continue
        drawn = draw_boxes(found.image, found.boxes, found.labels, found.scores, model.classes)
        target = out / names[file]
        write_atomically(target, encoded(drawn, target.suffix))
        results += coco_results(found, model.classes)
        tell.found(found, target)
    write_atomically(out / RESULTS, json.dumps(results, ensure_ascii=False).encode())
    return broken


def look_at(model: Model, file: Path, image_id: int, score: float) -> Prediction:
    """What a model finds on a picture; the picture is resized as in evaluation.

    Raises:
        PictureError: it cannot be decoded.
    """
    image = read_image(file)
    none = np.zeros(0, np.int64)
    picture = Picture(read_image(file, 2 * model.image_size), np.zeros((0, 4), np.float32), none, none)
    pixels = resize(picture, model.image_size).pixels
    found = model.detect(pixels.transpose(2, 0, 1).astype(np.float32) / np.float32(255))
    kept = (found["scores"] >= score) & (found["labels"] > 0)
    height, width = pixels.shape[:2]
    scale = np.array([image.width / width, image.height / height] * 2)
    return Prediction(
        file, image_id, image, found["boxes"][kept] * scale, found["labels"][kept], found["scores"][kept]
    )


# ---- the model -------------------------------------------------------------------------------------------


def open_model(path: str) -> Model:
    """A detector from its file.

    Raises:
        SpecError: there is no such file, it holds no detector, or what runs it is not installed.
    """
    if Path(path).suffix.lower() != ".onnx":
        return _open_in_torch(path)
    if not Path(path).is_file():
        raise SpecError([Problem(loc=("model",), message=f"there is no file {path}")])
    detector = OnnxDetector(Path(path))
    return Model(detector, detector.classes, detector.image_size)


def _open_in_torch(path: str) -> Model:
    try:
        import torch

        from gkd_core.detectors import detect
        from gkd_core.teacher import open_model
    except ImportError as error:
        hint = "Install it, pip install 'gkd[engine]', or name a .onnx file, which needs onnxruntime only."
        message = f"running {path} needs {error.name}, which is not installed"
        raise SpecError([Problem(loc=("model",), message=message, hint=hint)]) from None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    detector, card = open_model(TeacherConfig(weights=path), device)

    def run(picture: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        found = detect(detector, [torch.from_numpy(picture).to(device)])[0]
        return {name: values.cpu().numpy() for name, values in found.items()}

    return Model(run, card.classes, card.image_size)


# ---- the pictures ----------------------------------------------------------------------------------------


def find_pictures(given: Sequence[Path], out: Path) -> tuple[list[Path], list[str]]:
    """The pictures that were named, each once, and what is wrong with what was named.

    Args:
        given: files, and folders whose pictures are taken (not those of their subfolders).
        out: where the drawn pictures are to go.

    Raises:
        SpecError: that is where the pictures lie: drawn ones would replace them.
    """
    files, wrong = [], []
    for path in given:
        found = _in_folder(path) if path.is_dir() else [path]
        files += found
        if not found:
            wrong.append(f"{path}: a folder without pictures")
    files = list(dict.fromkeys(files))
    if any(file.parent.resolve() == out.resolve() for file in files):
        hint = "Name another folder with --out."
        message = f"{out} is where pictures lie that would be replaced by drawn ones"
        raise SpecError([Problem(loc=("--out",), message=message, hint=hint)])
    return files, wrong


def _in_folder(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if is_picture_name(path.name))


def ids_for(files: Sequence[Path]) -> list[int]:
    """Image ids: the names where all are numbers, as in COCO, or else 1, 2, 3, ..."""
    stems = [file.stem for file in files]
    numbers = [int(stem) for stem in stems if stem.isascii() and stem.isdecimal()]
    return numbers if len(set(numbers)) == len(files) else list(range(1, len(files) + 1))


def names_for(files: Sequence[Path]) -> dict[Path, str]:
    """The name of each drawn picture: that of the picture, as JPEG or PNG, and no name twice."""
    taken: set[str] = set()
    names = {}
    for file in files:
        suffix = file.suffix if file.suffix.lower() in JPEG | {".png"} else ".png"
        number, name = 1, f"{file.stem}{suffix}"
        while name.casefold() in taken:
            number += 1
            name = f"{file.stem}-{number}{suffix}"
        taken.add(name.casefold())
        names[file] = name
    return names


def encoded(image: Image.Image, suffix: str) -> bytes:
    """The bytes of a picture file."""
    buffer = io.BytesIO()
    if suffix.lower() in JPEG:
        image.save(buffer, "JPEG", quality=95)
    else:
        image.save(buffer, "PNG")
    return buffer.getvalue()


# ---- writing and telling ---------------------------------------------------------------------------------


def coco_results(found: Prediction, classes: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Detections in the form of COCO's results, with file and class by name beside it."""
    for (x1, y1, x2, y2), label, score in zip(found.boxes, found.labels, found.scores, strict=True):
        yield {
            "image_id": found.image_id,
            "category_id": int(label),
            "bbox": [float(x1), float(y1), float(x2 - x1), float(y2 - y1)],
            "score": float(score),
            "file_name": found.file.name,
            "category": classes[int(label) - 1],
        }


class Tell:
    """Says what happens, in words or, for programs, as one JSON object a picture."""

    def __init__(self, classes: Sequence[str], *, as_json: bool) -> None:
        self._classes = classes
        self._as_json = as_json

    def found(self, found: Prediction, target: Path) -> None:
        """Tell of a picture."""
        if self._as_json:
            return self._print(self._as_dict(found, target))
        counts = Counter(self._classes[int(label) - 1] for label in found.labels)
        named = ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "nothing"
        print(f"{found.file}: {named} -> {target}", flush=True)

    def broken(self, file: Path, error: Exception) -> None:
        """Tell of a picture that cannot be read."""
        message = error.message if isinstance(error, GkdError) else f"{file}: {error}"
        if self._as_json:
            self._print({"file": str(file), "error": message})
        print(message, file=sys.stderr, flush=True)

    def _as_dict(self, found: Prediction, target: Path) -> dict[str, Any]:
        each = zip(found.boxes.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True)
        return {
            "file": str(found.file),
            "image_id": found.image_id,
            "width": found.image.width,
            "height": found.image.height,
            "drawn": str(target),
            "detections": [
                {"class": self._classes[label - 1], "label": label, "score": score, "box": box}
                for box, label, score in each
            ],
        }

    def _print(self, value: dict[str, Any]) -> None:
        print(json.dumps(value, ensure_ascii=False), flush=True)


def _unwritable(classes: Iterable[str]) -> Iterator[str]:
    """Classes that no font of this machine can write."""
    for label, name in enumerate(classes, start=1):
        if (drawn := lettering(name, label)[0]).startswith(f"#{label}") and drawn != name:
            yield f"no font of this machine has the letters of {name!r}; it is drawn as {drawn}"


# ---- the command -----------------------------------------------------------------------------------------


def run(arguments: argparse.Namespace) -> int:
    """Do what the command line asks for; the exit code."""
    files, wrong = find_pictures(arguments.images, arguments.out)
    for message in wrong:
        print(message, file=sys.stderr)
    if not files:
        return 1
    model = open_model(arguments.model)
    for message in _unwritable(model.classes):
        print(message, file=sys.stderr)
    tell = Tell(model.classes, as_json=arguments.json)
    broken = predict(model, files, arguments.out, arguments.score, tell)
    return 1 if broken or wrong else 0


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    try:
        return run(_parser().parse_args(arguments))
    except GkdError as error:
        print(f"error: {error.message}" + (f"\nhint: {error.hint}" if error.hint else ""), file=sys.stderr)
    except BrokenPipeError:  # the reader has seen enough
        sys.stdout = io.StringIO()
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gkd predict", description="Draw what a model finds on pictures.")
    parser.add_argument("model", help="a .safetensors file of GKD, or a .onnx file of an export job")
    parser.add_argument("images", nargs="+", type=Path, help="pictures, or folders of pictures")
    parser.add_argument("--out", type=Path, required=True, help=f"folder for drawn pictures and {RESULTS}")
    parser.add_argument("--score", type=_share, default=SCORE, help=f"least score that is drawn; {SCORE}")
    parser.add_argument("--json", action="store_true", help="one JSON object a picture")
    return parser


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
