"""One detector in training: what a step does, which errors it survives, when it ends, and what resuming restores."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gkd_core.compute.amp import compile_backbone, gpu_arithmetic
from gkd_core.compute.transfers import to_device
from gkd_core.config import DetectorConfig, DistillConfig, TrainConfig
from gkd_core.data.loading import Sample
from gkd_core.detectors.build import build_detector
from gkd_core.detectors.checkpoint import load_state
from gkd_core.detectors.detector import Detector
from gkd_core.distill.distiller import Distiller
from gkd_core.distill.inheritance import inherit
from gkd_core.distill.prototypes import Prototypes
from gkd_core.errors import DivergedError, SpecError
from gkd_core.training.position import Scored
from gkd_core.training.trainer import Training

TINY = DetectorConfig.model_validate({"backbone_width": 0.125, "fpn": {"channels": 16}, "head": {"depth": 1}})
GROUP = TINY.model_copy(update={"norm": "group"})
CPU = torch.device("cpu")
CLASSES = ("circle", "square")


def make(
    model: DetectorConfig = TINY, make_distiller: Callable[[Detector], Distiller] | None = None, **recipe: Any
) -> Training:
    config = TrainConfig.model_validate({"image_size": 64, "batch_size": 4, "epochs": 10, **recipe})
    return Training("model", config, model, CLASSES, 5, CPU, make_distiller)


def batch(count: int = 4, height: int = 64, width: int = 64) -> list[Sample]:
    draw = torch.Generator().manual_seed(count + height + width)
    target = {"boxes": torch.tensor([[4.0, 4, 28, 24]]), "labels": torch.tensor([1])}
    images = torch.randint(0, 256, (count, 3, height, width), generator=draw, dtype=torch.uint8)
    return [Sample(image, target) for image in images]


def weights(training: Training) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in training.detector.named_parameters()}


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], two[name]) for name in one)


def test_building_a_training_leaves_the_global_generator_alone_and_starts_from_the_seeds_bits() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    built = make(make_distiller=distilled, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(3)
    wanted = dict(build_detector(TINY, len(CLASSES), 64).named_parameters())
    assert same(weights(built), wanted)


def test_what_a_training_draws_begins_with_its_seed_whatever_was_drawn_before() -> None:
    drawn = []
    for training in (make(seed=3), make(make_distiller=distilled, seed=3)):
        training.seed()
        drawn.append(torch.rand(4))
        torch.rand(9)
    assert torch.equal(*drawn)


# ---- a step ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pictures", "accumulate", "parts"),
    [(4, 2, [(2, 0.5), (2, 0.5)]), (3, 2, [(2, 2 / 3), (1, 1 / 3)]), (3, 4, [(1, 1 / 3)] * 3)],
)
def test_micro_batches_weigh_every_picture_alike(
    monkeypatch: pytest.MonkeyPatch, pictures: int, accumulate: int, parts: list[tuple[int, float]]
) -> None:
    backward, seen = Training._backward, []

    def remember(self: Training, part: list[Sample], first: int, share: float) -> dict[str, Tensor]:
        seen.append((len(part), share))
        return backward(self, part, first, share)

    monkeypatch.setattr(Training, "_backward", remember)
    training = make(GROUP, accumulate=accumulate)
    losses = training.train_step(batch(pictures))
    assert seen == parts
    assert training.step == 1
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_gradients_of_alike_micro_batches_are_those_of_the_batch() -> None:
    one, two = make(GROUP), make(GROUP, accumulate=2)
    pictures = batch(2) * 2
    for training in (one, two):
        training.train_step(pictures)
    for name, gradient in ((n, p.grad) for n, p in one.detector.named_parameters()):
        assert gradient == pytest.approx(two.detector.get_parameter(name).grad, abs=1e-4), name


@pytest.mark.parametrize("norm", [1e-3, None])
def test_gradients_are_scaled_down_to_the_norm_unless_there_is_none(norm: float | None) -> None:
    training = make(optimizer={"clip_norm": norm})
    training.train_step(batch())
    gradients = [p.grad for p in training.detector.parameters() if p.grad is not None]
    total = float(torch.nn.utils.get_total_norm(gradients))
    assert total == pytest.approx(1e-3, rel=1e-3) if norm else total > 0.1


def test_adapters_with_far_to_go_do_not_hold_the_student_back() -> None:
    calm, loud = (make(make_distiller=distilled, optimizer={"clip_norm": 1.0}) for _ in range(2))
    for adapter in loud.distiller.adapters.parameters():
        adapter.register_hook(lambda gradient: 1e4 * gradient)
    for training in (calm, loud):
        training.train_step(batch())
    assert same(weights(calm), weights(loud))
    adapters = [p.grad for p in loud.distiller.adapters.parameters()]
    assert float(torch.nn.utils.get_total_norm(adapters)) == pytest.approx(1.0, rel=1e-3)


def test_the_average_follows_every_step_and_is_what_is_evaluated() -> None:
    training = make(ema=0.5)
    training.train_step(batch())
    assert training.evaluated is training.average.module
    assert int(training.average.n_averaged) == 1
    plain = make(ema=None)
    assert plain.evaluated is plain.detector


def test_memory_order_changes_no_meaning() -> None:
    last, first = make(channels_last=True), make(channels_last=False)
    assert last.detector.backbone.body.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert first.detector.backbone.body.conv1.weight.is_contiguous()
    one, two = last.train_step(batch()), first.train_step(batch())
    assert {name: float(loss) for name, loss in one.items()} == pytest.approx(
        {name: float(loss) for name, loss in two.items()}, rel=1e-3
    )


def test_one_picture_that_is_too_small_for_batch_norm_is_a_mistake_of_the_spec() -> None:
    with pytest.raises(SpecError, match=r"one picture of 30 x 20 pixels") as told:
        make(accumulate=4).train_step(batch(4, 20, 30))
    assert told.value.problems[0].loc == ("train", "accumulate")
    assert "norm to group" in told.value.hint
    make(GROUP, accumulate=4).train_step(batch(4, 20, 30))


def test_one_transfer_moves_tensors_of_any_shape() -> None:
    tensors = [torch.ones(3, 4, 5), torch.ones(0, 4), torch.ones(2, 4)]
    moved = to_device(tensors, torch.device("meta"))
    assert [(part.shape, part.dtype) for part in moved] == [(part.shape, part.dtype) for part in tensors]
    assert all(one is two for one, two in zip(to_device(tensors, CPU), tensors, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_one_transfer_to_a_gpu_keeps_every_value() -> None:
    tensors = [torch.rand(3, 4, 5), torch.rand(0, 4), torch.rand(2, 4)]
    moved = to_device(tensors, torch.device("cuda"))
    assert all(torch.equal(one.cpu(), two) for one, two in zip(moved, tensors, strict=True))


# ---- how exactly a GPU computes --------------------------------------------------------------------------


def settings() -> tuple[bool, ...]:
    cudnn = torch.backends.cudnn
    return (cudnn.allow_tf32, cudnn.benchmark, torch.are_deterministic_algorithms_enabled())


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, (True, True, False)),
        ({"tf32": False}, (False, True, False)),
        ({"deterministic": True}, (True, False, True)),
    ],
)
def test_a_gpu_computes_as_the_recipe_says_and_afterwards_as_before(
    monkeypatch: pytest.MonkeyPatch, wanted: dict[str, bool], expected: tuple[bool, ...]
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "unset")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    before = settings()
    with gpu_arithmetic(TrainConfig(**wanted), torch.device("cuda")):
        assert settings() == expected
        assert torch.is_deterministic_algorithms_warn_only_enabled() is expected[2]
        assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == (":4096:8" if expected[2] else None)
        assert not torch.backends.cuda.matmul.allow_tf32
    assert settings() == before


def test_on_a_cpu_no_setting_of_a_gpu_is_touched() -> None:
    before = settings()
    with gpu_arithmetic(TrainConfig(deterministic=True, tf32=False), CPU):
        assert settings() == before


# ---- float16 ---------------------------------------------------------------------------------------------


def overflowing(training: Training) -> None:
    """Make every gradient infinite or NaN from now on."""
    for parameter in training.detector.parameters():
        parameter.register_hook(lambda gradient: gradient * torch.inf)


def test_float16_moves_float32_weights() -> None:
    training = make(precision="float16")
    before = weights(training)
    for _ in range(3):
        training.train_step(batch())
    after = weights(training)
    assert not same(before, after)
    assert all(value.dtype is torch.float32 and value.isfinite().all() for value in after.values())


def test_float16_computes_in_half_precision() -> None:
    training, seen = make(precision="float16"), []
    training.detector.backbone.body.layer1.register_forward_hook(lambda *call: seen.append(call[2].dtype))
    training.train_step(batch())
    assert seen == [torch.float16]


def test_scaled_gradients_that_overflow_cost_a_step_and_halve_the_scale() -> None:
    training = make(precision="float16")
    overflowing(training)
    before, scale = weights(training), training.scaler.get_scale()
    training.train_step(batch())
    assert same(before, weights(training))
    assert int(training.average.n_averaged) == 0
    assert training.scaler.get_scale() == scale / 2
    assert training.step == 1


def test_gradients_that_overflow_at_any_scale_have_diverged() -> None:
    training = make(precision="float16")
    training.scaler.load_state_dict({**training.scaler.state_dict(), "scale": 2.0})
    overflowing(training)
    training.train_step(batch())
    with pytest.raises(DivergedError, match=r"step 2 of 50 .*gradient") as told:
        training.train_step(batch())
    assert "bfloat16" in told.value.hint


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_loss_that_is_not_finite_has_diverged_whatever_the_scale(precision: str) -> None:
    training = make(precision=precision)
    torch.nn.init.constant_(training.detector.backbone.body.conv1.weight, torch.nan)
    with pytest.raises(DivergedError, match=r"step 1 of 50 \(model, epoch 1\): .*nan"):
        training.train_step(batch())


def test_without_float16_one_overflow_has_diverged() -> None:
    training = make()
    overflowing(training)
    before = weights(training)
    with pytest.raises(DivergedError, match="gradient"):
        training.train_step(batch())
    assert same(before, weights(training))


# ---- compiled --------------------------------------------------------------------------------------------


@pytest.fixture
def _compile_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trace and guard as `torch.compile` does, but run the trace without compiling it to C++, which takes minutes."""
    monkeypatch.setattr(
        "gkd_core.training.trainer.compile_backbone", partial(compile_backbone, backend="eager")
    )


def distilled(student: Detector) -> Distiller:
    teacher = build_detector(TINY, len(CLASSES), 64)
    distiller = Distiller(student, teacher, DistillConfig(), torch.arange(1, len(CLASSES) + 1))
    draw = torch.Generator().manual_seed(0)
    distiller.prototypes = [
        Prototypes(
            *(torch.randn(4, 16, generator=draw) for _ in ("teacher", "student")),
            class_start=torch.tensor([0, 2, 4]),
        )
        for _ in distiller.strides
    ]
    return distiller


@pytest.mark.usefixtures("_compile_quickly")
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch asks itself
def test_a_compiled_student_distils_as_an_uncompiled_one(tmp_path: Path) -> None:
    compiled, plain = make(make_distiller=distilled, compile=True), make(make_distiller=distilled)
    assert compiled.detector.state_dict().keys() == plain.detector.state_dict().keys()
    for size in ((64, 96), (96, 128)):
        one, two = (training.train_step(batch(4, *size)) for training in (compiled, plain))
        assert one.keys() == two.keys() >= {"distill_global", "distill_foreground", "distill_response"}
        assert [float(value) for value in one.values()] == pytest.approx(
            [float(value) for value in two.values()], rel=0.02
        )
    compiled.save(tmp_path)
    again = make(make_distiller=distilled, compile=True)
    assert again.restore(tmp_path, pytest.fail)
    assert same(weights(again), weights(compiled))


def test_compiling_without_a_compiler_is_a_mistake_of_the_spec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SpecError, match=r"train\.compile: compiling needs a C\+\+ compiler"):
        make(compile=True)


# ---- when it is over -------------------------------------------------------------------------------------


def evaluated(training: Training, epoch: int, score: float, metric: str = "AP") -> None:
    """Record the result of an evaluation at the end of that epoch."""
    training.epoch = epoch
    if training.is_best({metric: score}):
        training.published["model.safetensors"] = Scored(epoch, {metric: score})


def test_patience_counts_evaluations_since_the_best() -> None:
    training = make(patience=2, epochs=20, evaluate_every=3)
    over = {}
    for epoch, score in ((3, 0.1), (6, 0.3), (9, 0.2), (12, 0.3)):
        evaluated(training, epoch, score)
        over[epoch] = training.finished
    assert over == {3: False, 6: False, 9: False, 12: True}
    assert training.account.best_epoch == 6


def test_a_better_evaluation_renews_patience() -> None:
    training = make(patience=2, epochs=20)
    for epoch, score in enumerate((0.3, 0.2, 0.4, 0.1), start=1):
        evaluated(training, epoch, score)
        assert not training.finished
    evaluated(training, 5, 0.4)  # an equal score is not better
    assert training.finished


def test_without_patience_all_epochs_are_trained() -> None:
    training = make(epochs=4)
    for epoch in (1, 2, 3):
        evaluated(training, epoch, 0.5 / epoch)
        assert not training.finished
    evaluated(training, 4, 0.0)
    assert training.finished


def test_what_is_not_known_never_beats_what_is() -> None:
    training = make(best_by="APs")
    evaluated(training, 1, -1.0, "APs")
    evaluated(training, 2, -1.0, "APs")
    assert training.account.best_epoch == 1
    evaluated(training, 3, 0.0, "APs")
    assert training.account.best_epoch == 3
    evaluated(training, 4, -1.0, "APs")
    assert training.account.best_epoch == 3


# ---- going on --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_step_after_resuming_is_the_step_without(tmp_path: Path, optimizer: str, precision: str) -> None:
    recipe = {"optimizer": {"name": optimizer, "lr": 1e-3}, "precision": precision}
    training = make(**recipe)
    training.train_step(batch())
    if precision == "float16":
        training.scaler.update(1024.0)
    training.save(tmp_path)
    again = make(**recipe)
    assert again.restore(tmp_path, pytest.fail)
    assert again.scaler.get_scale() == training.scaler.get_scale()
    for one in (training, again):
        one.train_step(batch())
    assert same(weights(training), weights(again))


def test_frozen_stages_stay_as_they_are_through_decay_averaging_and_resuming(tmp_path: Path) -> None:
    """Freeze stages of a ResNet: the stem is stage 1, layer1 stage 2."""
    model = TINY.model_copy(update={"frozen_stages": 2})
    recipe = {"optimizer": {"lr": 1e-2, "weight_decay": 0.5}, "ema": 0.5}
    training = make(model, **recipe)
    before = {name: value.clone() for name, value in training.detector.state_dict().items()}
    training.train_step(batch())
    training.save(tmp_path)
    again = make(model, **recipe)
    assert again.restore(tmp_path, pytest.fail)
    again.train_step(batch())
    still = ("backbone.body.conv1.", "backbone.body.bn1.", "backbone.body.layer1.")
    for detector in (again.detector, again.evaluated):
        unmoved = {n for n, v in detector.state_dict().items() if torch.equal(v, before[n])}
        assert {name for name in before if name.startswith(still)} <= unmoved
        moving = {name for name, _ in detector.named_parameters() if not name.startswith(still)}
        assert not moving & unmoved
    training.train_step(batch())
    assert same(weights(training), weights(again))


def test_what_was_inherited_is_the_start_and_resuming_does_not_return_to_it(tmp_path: Path) -> None:
    teacher = build_detector(TINY, len(CLASSES), 64)
    columns = torch.tensor([1, 2])

    def started() -> Training:
        config = TrainConfig.model_validate({"image_size": 64, "batch_size": 4, "epochs": 10})
        parts = partial(inherit, teacher=teacher, parts=["fpn", "head"], columns=columns)
        return Training("student", config, TINY, CLASSES, 5, CPU, distilled, inherit=parts)

    training, again = started(), started()
    given = {n: p for n, p in teacher.named_parameters() if not n.startswith("backbone.body.")}
    assert same(given, weights(training))
    assert same(given, dict(training.evaluated.named_parameters()))
    training.train_step(batch())
    training.save(tmp_path)
    assert again.restore(tmp_path, pytest.fail)
    for each in (training, again):
        each.train_step(batch())
    assert same(weights(training), weights(again))
    assert not same(given, weights(again))


def test_what_the_memory_allowed_is_remembered(tmp_path: Path) -> None:
    training = make()
    training.save(tmp_path)
    smaller = make(accumulate=2)
    smaller.restore(tmp_path, pytest.fail)
    assert smaller.accumulated == [1, 2]
    smaller.step_in_epoch = 1
    smaller.save(tmp_path)
    again = make(accumulate=2)
    again.restore(tmp_path, pytest.fail)
    assert again.accumulated == [1, 2]
    assert load_state(tmp_path, "model", pytest.fail)["accumulated"] == [1, 2]
