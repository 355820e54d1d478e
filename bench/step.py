"""The cost of a step of distillation over its floor, in time and memory.

    python bench/step.py [--runs 5] [--teacher resnet50 --student resnet18 --height 320 --width 320 --batch 8]

The floor is the work that cannot be left out, each part timed alone in the same round: a plain step of the student, the
teacher's forward of the parts that are used (body, pyramid and class scores), and the adapters forward and backward.
Memory is held against a plain step, the teacher's weights and one set of the teacher's feature maps. Both detectors
are RetinaNets with first weights, the recipe is the default one, with every loss of the default distillation on.
On a GPU the defaults are ResNet-101 to ResNet-50, 800 x 1333, batches of 16 in bfloat16.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from figures import RUNS, Figure, device, in_turn, peak_bytes, ratio, report
from torch import Tensor

from gkd_core.compute.amp import autocast
from gkd_core.config import DetectorConfig, DistillConfig, TrainConfig
from gkd_core.data.loading import Sample
from gkd_core.detectors.build import build_detector, pyramid
from gkd_core.detectors.detector import Detector
from gkd_core.distill.distiller import Distiller
from gkd_core.distill.losses import ResponseLoss
from gkd_core.distill.prototypes import Prototypes
from gkd_core.training.trainer import Training

CLASSES = tuple(f"class {number}" for number in range(80))
OBJECTS, PER_CLASS = 8, 10


class Setting(NamedTuple):
    """The setting of a measurement."""

    teacher: str
    student: str
    height: int
    width: int
    batch: int
    precision: str

    def __str__(self) -> str:
        return f"{self.teacher} to {self.student}, {self.height}x{self.width}, batch {self.batch}, {self.precision}"


def default_setting() -> Setting:
    """Return the setting of the paper on a GPU, a small one elsewhere."""
    if torch.cuda.is_available():
        return Setting("resnet101", "resnet50", 800, 1333, 16, "bfloat16")
    return Setting("resnet50", "resnet18", 320, 320, 8, "float32")


def asked(about: str | None) -> tuple[Setting, int]:
    """Return the setting and the number of runs of the command line."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=RUNS)
    for name, value in default_setting()._asdict().items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    options = vars(parser.parse_args())
    runs = options.pop("runs")
    return Setting(**options), runs


def batch_of(setting: Setting) -> list[Sample]:
    """Return pictures and objects, drawn at random."""
    draw = torch.Generator().manual_seed(0)
    size = torch.tensor([setting.width, setting.height])
    samples = []
    for _ in range(setting.batch):
        image = torch.randint(0, 256, (3, setting.height, setting.width), generator=draw, dtype=torch.uint8)
        corner = torch.rand(OBJECTS, 2, generator=draw) * size * 0.6
        side = torch.rand(OBJECTS, 2, generator=draw) * size * 0.35 + 8
        labels = torch.randint(1, len(CLASSES) + 1, (OBJECTS,), generator=draw)
        origins = torch.zeros(OBJECTS, 2, dtype=torch.int64)
        target = {"boxes": torch.cat([corner, corner + side], 1), "labels": labels, "origins": origins}
        samples.append(Sample(image, target))
    return samples


def detector(backbone: str) -> DetectorConfig:
    """Return a RetinaNet on a backbone."""
    return DetectorConfig.model_validate({"architecture": "retinanet", "backbone": backbone})


def plain(setting: Setting) -> Training:
    """Return a training of the student by itself."""
    return _training(setting, None)


def distilled(setting: Setting) -> Training:
    """Return a training of the student beside its teacher, with prototypes drawn at random."""
    side = max(setting.height, setting.width)

    def join(student: Detector) -> Distiller:
        torch.manual_seed(1)
        teacher = build_detector(detector(setting.teacher), len(CLASSES), -(-side // 32) * 32)
        teacher.to(device(), memory_format=torch.channels_last)
        return Distiller(student, teacher, DistillConfig(), torch.arange(1, len(CLASSES) + 1))

    training = _training(setting, join)
    assert training.distiller is not None
    ends = (torch.arange(len(CLASSES) + 1) * PER_CLASS).to(device())
    channels = training.detector.backbone.out_channels
    for _ in training.distiller.strides:
        rows = [torch.randn(int(ends[-1]), channels).to(device()) for _ in range(2)]
        training.distiller.prototypes.append(Prototypes(*rows, ends))
    return training


def _training(setting: Setting, join: Callable[[Detector], Distiller] | None) -> Training:
    side = -(-max(setting.height, setting.width) // 32) * 32
    recipe = {"image_size": side, "batch_size": setting.batch, "precision": setting.precision}
    config = TrainConfig.model_validate(recipe)
    return Training("student", config, detector(setting.student), CLASSES, 1000, device(), join)


def against_the_floor(setting: Setting, runs: int) -> list[Figure]:
    """Time each part alone and the whole step, round by round."""
    alone, together, batch = plain(setting), distilled(setting), batch_of(setting)
    ways = {
        "plain step": partial(_step, alone, batch),
        "teacher": partial(_teacher, together, batch, setting),
        "adapters": _adapters(together, batch, setting),
        "distillation": partial(_step, together, batch),
    }
    taken = in_turn(ways, runs, warm_up=2)
    whole = taken.pop("distillation")
    floor = [sum(parts) for parts in zip(*taken.values(), strict=True)]
    images = setting.batch / sorted(whole)[len(whole) // 2]
    return [
        ratio(f"distillation step / floor, {setting}", whole, floor, at_most=1.05, details=taken),
        Figure(f"images a second, {setting}", images, "1/s"),
    ]


def _step(training: Training, batch: list[Sample]) -> None:
    training.train_step(batch)
    training.epoch = 0


def _teacher(training: Training, batch: list[Sample], setting: Setting) -> None:
    """Run the parts of the teacher that are used: body, pyramid and the class scores of every place."""
    distiller = _distiller(training)
    pictures, _ = training._on_device(batch)
    with torch.inference_mode(), autocast(device(), setting.precision):
        maps, _ = pyramid(distiller.teacher, pictures)
        if any(isinstance(loss, ResponseLoss) for loss in distiller.losses):
            distiller.teacher.head.classification_head(maps)


def _adapters(training: Training, batch: list[Sample], setting: Setting) -> Callable[[], None]:
    """Run the adapters forward and backward on the student's maps."""
    distiller = _distiller(training)
    pictures, _ = training._on_device(batch)
    with torch.no_grad(), autocast(device(), setting.precision):
        found, _ = pyramid(training.detector, pictures)
    maps = [found[level].detach().requires_grad_() for level in distiller.student_levels]

    def run() -> None:
        with autocast(device(), setting.precision):
            adapted = [adapter(one) for adapter, one in zip(distiller.adapters, maps, strict=True)]
        torch.autograd.backward(adapted, [torch.ones_like(one) for one in adapted])
        for tensor in (*maps, *distiller.adapters.parameters()):
            tensor.grad = None

    return run


def _distiller(training: Training) -> Distiller:
    assert training.distiller is not None
    return training.distiller


def memory(setting: Setting) -> Figure:
    """Measure the peak memory of a distillation step over what it cannot do without."""
    plain_bytes, _, _ = _in_a_process(_peak, setting, False)
    whole, weights, maps = _in_a_process(_peak, setting, True)
    sizes = {"plain": plain_bytes, "distillation": whole, "teacher": weights, "maps": maps}
    return Figure(
        f"peak memory of a distillation step / plain step + teacher + one set of maps, {setting}",
        whole / (plain_bytes + weights + maps),
        at_most=1.15,
        details={"MiB": {name: round(size / 2**20, 1) for name, size in sizes.items()}},
    )


def _peak(setting: Setting, with_teacher: bool) -> tuple[int, int, int]:
    """Return the bytes up to the third step, of the teacher's weights, and of one set of its maps."""
    kept: list[Training] = []

    def run() -> None:
        kept.append(distilled(setting) if with_teacher else plain(setting))
        for _ in range(3):
            _step(kept[0], batch_of(setting))

    torch.ones(1, device=device()).sum()
    peak = peak_bytes(run)
    if not with_teacher:
        return peak, 0, 0
    distiller = _distiller(kept[0])
    pictures, _ = kept[0]._on_device(batch_of(setting))
    with torch.inference_mode(), autocast(device(), setting.precision):
        maps, _ = pyramid(distiller.teacher, pictures)
    return peak, _bytes_of(list(distiller.teacher.parameters())), _bytes_of(maps)


def _bytes_of(tensors: list[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _in_a_process(call: Callable[..., tuple[int, int, int]], *arguments: object) -> tuple[int, int, int]:
    """Run it in a fresh process: memory that earlier runs freed would be reused and not be counted."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(call, arguments)


def main() -> None:
    """Measure time and memory."""
    setting, runs = asked(__doc__)
    report([*against_the_floor(setting, runs), memory(setting)])


if __name__ == "__main__":
    main()
