"""`gkd predict`: runs a model on images, draws the detections and writes them to files.

`python -m gkd_core.runs.predict MODEL IMAGES... --out DIR`. MODEL is a .safetensors file of GKD or a .onnx file that
an export job wrote; the second needs no torch. Read `predict` from top to bottom; `prediction_model` opens the model,
`prediction_images` finds the images and frames of videos, and `prediction_files` writes the results beside them.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gkd_core.data.augment import Picture, resize
from gkd_core.data.coco_ids import CocoIds, ids_beside, ids_in
from gkd_core.data.pictures import read_image
from gkd_core.errors import GkdError
from gkd_core.figures.drawing import draw_boxes, lettering
from gkd_core.run_dir import write_atomically
from gkd_core.runs.prediction_files import FORMS, RESULTS, Prediction, PredictionFiles, unique
from gkd_core.runs.prediction_images import Source, find_pictures, sources_of
from gkd_core.runs.prediction_model import Model, open_model
from gkd_core.runs.video import is_video, require_av

SCORE = 0.3
"""Default score threshold: small detectors that were trained briefly have low scores."""
JPEG = frozenset((".jpg", ".jpeg"))
OVERLAP = 0.5
"""Intersection over union from which two boxes are treated as one object, whatever their classes."""


class Choice(NamedTuple):
    """Which detections are kept."""

    score: float
    """Lowest score."""
    agnostic: bool = False
    """Class-agnostic NMS: of boxes that overlap keep only the best, whatever their classes."""


def predict(
    model: Model, sources: Iterable[Source], out: Path, choice: Choice, tell: Tell, results: PredictionFiles
) -> int:
    """Detect on images, one by one; draw, write and report.

    Args:
        model: the detector.
        sources: the images.
        out: folder for the drawn pictures.
        choice: which detections are drawn and written.
        tell: reports every image.
        results: collects every prediction.

    Returns:
        The number of images that could not be read.
    """
    out.mkdir(parents=True, exist_ok=True)
    taken: set[str] = set()
    broken = 0
    for source in sources:
        try:
            found = look_at(model, source, choice)
        except (GkdError, OSError) as error:
            tell.broken(source.file, error)
            broken += 1
            continue
        drawn = draw_boxes(found.image, found.boxes, found.labels, found.scores, model.classes)
        target = out / name_for(source.file, taken)
        write_atomically(target, encoded(drawn, target.suffix))
        results.add(found)
        tell.found(found, target)
    results.end()
    return broken


def look_at(model: Model, source: Source, choice: Choice) -> Prediction:
    """Run a model on an image, which is resized as in evaluation.

    Raises:
        GkdError: it cannot be decoded.
    """
    if source.flaw:
        raise source.flaw
    image = source.frame or read_image(source.file, white=model.white)
    small = source.frame or read_image(source.file, 2 * model.image_size, model.white)
    none = np.zeros(0, np.int64)
    pixels = resize(Picture(small, np.zeros((0, 4), np.float32), none, none), model.image_size).pixels
    found = model.detect(pixels.transpose(2, 0, 1).astype(np.float32) / np.float32(255))
    kept = np.flatnonzero((found["scores"] >= choice.score) & (found["labels"] > 0))
    if choice.agnostic:
        kept = kept[one_an_object(found["boxes"][kept], found["scores"][kept])]
    height, width = pixels.shape[:2]
    boxes = found["boxes"][kept] * np.array([image.width / width, image.height / height] * 2)
    labels, scores = found["labels"][kept], found["scores"][kept]
    return Prediction(source.file, source.image_id, image, boxes, labels, scores, source.file_name)


def one_an_object(boxes: NDArray[Any], scores: NDArray[Any]) -> NDArray[np.int64]:
    """Return which boxes (N, 4) are the best of those that they overlap: class-agnostic greedy NMS.

    Returns:
        Their rows, best first.
    """
    kept: list[int] = []
    for row in np.argsort(-scores, kind="stable"):
        if not kept or overlaps(boxes[row], boxes[kept]).max() < OVERLAP:
            kept.append(int(row))
    return np.array(kept, np.int64)


def overlaps(box: NDArray[Any], others: NDArray[Any]) -> NDArray[np.float64]:
    """Return the IoU of a box (4,) with each of others (N, 4)."""
    corner = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    both = corner.clip(min=0).prod(axis=1, dtype=np.float64)
    areas = (others[:, 2:] - others[:, :2]).prod(axis=1) + (box[2:] - box[:2]).prod()
    overlaps: NDArray[np.float64] = both / np.maximum(areas - both, 1e-12)
    return overlaps


# ---- the drawn images ------------------------------------------------------------------------------------


def name_for(file: Path, taken: set[str]) -> str:
    """Return the file name of a drawn image: that of the original, as JPEG or PNG, and none of those in `taken`."""
    suffix = file.suffix if file.suffix.lower() in JPEG | {".png"} else ".png"
    return unique(file.stem, suffix, taken)


def encoded(image: Image.Image, suffix: str) -> bytes:
    """Return the bytes of an image file."""
    buffer = io.BytesIO()
    if suffix.lower() in JPEG:
        image.save(buffer, "JPEG", quality=95)
    else:
        image.save(buffer, "PNG")
    return buffer.getvalue()


# ---- reporting -------------------------------------------------------------------------------------------


class Tell:
    """Reports what happens, as text or, for programs, as one JSON object an image."""

    def __init__(self, classes: Sequence[str], *, as_json: bool) -> None:
        self._classes = classes
        self._as_json = as_json

    def found(self, found: Prediction, target: Path) -> None:
        """Report the detections on an image."""
        if self._as_json:
            return self._print(self._as_dict(found, target))
        counts = Counter(self._classes[int(label) - 1] for label in found.labels)
        named = ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "nothing"
        print(f"{found.file}: {named} -> {target}", flush=True)

    def broken(self, file: Path, error: Exception) -> None:
        """Report an image that cannot be read."""
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
    """Yield a warning for each class that no font of this machine can write."""
    for label, name in enumerate(classes, start=1):
        if (drawn := lettering(name, label)[0]).startswith(f"#{label}") and drawn != name:
            yield f"no font of this machine has the letters of {name!r}; it is drawn as {drawn}"


# ---- the command -----------------------------------------------------------------------------------------


def run(arguments: argparse.Namespace) -> int:
    """Run the command with parsed arguments; return the exit code."""
    files, wrong = find_pictures(arguments.images, arguments.out, recursive=arguments.recursive)
    for message in wrong:
        print(message, file=sys.stderr)
    if not files:
        return 1
    if any(map(is_video, files)):
        require_av()
    ids = (
        ids_in(arguments.data) if arguments.data else ids_beside(file for file in files if not is_video(file))
    )
    model = open_model(arguments.model)
    for message in (*_unwritable(model.classes), *_about_ids(ids, files, model.classes)):
        print(message, file=sys.stderr)
    tell = Tell(model.classes, as_json=arguments.json)
    results = PredictionFiles(arguments.format, arguments.out, model.classes, ids.categories if ids else {})
    choice = Choice(arguments.score, arguments.agnostic)
    broken = predict(model, sources_of(files, ids, arguments.every), arguments.out, choice, tell, results)
    return 1 if broken or wrong else 0


def _about_ids(ids: CocoIds | None, files: Sequence[Path], classes: Sequence[str]) -> Iterator[str]:
    """Yield notes on where the ids of the results come from, and which images and classes have none there."""
    if ids is None:
        return
    yield f"ids of pictures and categories are those of {', '.join(map(str, ids.files))}"
    if missing := [str(file) for file in files if not is_video(file) and ids.of(file) is None]:
        yield f"{len(missing)} pictures are not listed there and get numbers above: {_first_names(missing)}"
    if missing := [name for name in classes if name not in ids.categories]:
        yield f"classes that are not listed there get numbers above: {_first_names(missing)}"


def _first_names(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    try:
        return run(_parser().parse_args(arguments))
    except GkdError as error:
        print(f"error: {error.message}" + (f"\nhint: {error.hint}" if error.hint else ""), file=sys.stderr)
    except BrokenPipeError:  # the reader closed the pipe
        sys.stdout = io.StringIO()
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gkd predict", description="Draw what a model finds on pictures.")
    parser.add_argument("model", help="a .safetensors file of GKD, or a .onnx file of an export job")
    parser.add_argument("images", nargs="+", type=Path, help="pictures, folders of pictures, or videos")
    parser.add_argument("--out", type=Path, required=True, help=f"folder for drawn pictures and {RESULTS}")
    parser.add_argument("--format", choices=FORMS, default=FORMS[0], help=f"what is written; {FORMS[0]}")
    parser.add_argument("--data", type=Path, help="COCO file, or folder, whose ids the results carry")
    parser.add_argument("--recursive", action="store_true", help="also pictures of subfolders")
    parser.add_argument("--every", type=_count, default=1, help="of a video, one frame of so many")
    parser.add_argument("--agnostic", action="store_true", help="one box an object, whatever the classes")
    parser.add_argument("--score", type=_share, default=SCORE, help=f"least score that is drawn; {SCORE}")
    parser.add_argument("--json", action="store_true", help="one JSON object a picture")
    return parser


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
