"""Backbones: the body of a detector, from torchvision or from timm, cut where its feature maps halve in size.

A body takes images (B, 3, H, W) and returns feature maps (B, C, H / stride, W / stride) under the names "0", "1",
..., finest first. No family is known beforehand: a small image is run through once, and the output of each unit (a
child of the network) shows where a stride ends.

Names inside a body are torchvision's and timm's own, so that published classifiers can be loaded by name:
`published_name` says which tensor of a classifier is which tensor of a body.
"""

from __future__ import annotations

import difflib
import importlib
from collections import OrderedDict
from collections.abc import Container, Sequence
from typing import Any, NamedTuple

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import efficientnet, resnet
from torchvision.models._utils import IntermediateLayerGetter

from gkd_core.detectors.norms import Norm, exchange_norms
from gkd_core.errors import Problem, SpecError

_PROBE = 96
"""Side, in pixels, of the image that a body is probed with: small, and a multiple of 32."""


class Unit(NamedTuple):
    """Stride and channels of the feature maps that a part of a network returns."""

    stride: int
    """Pixels per cell."""
    channels: int
    """Channels of maps (B, C, H, W); meaningless in the few networks that compute in (B, H, W, C)."""


class Body(NamedTuple):
    """A network that returns feature maps, and their channels."""

    network: nn.Module
    channels: tuple[int, ...]
    """Channels of each map, finest first."""


def build_body(name: str, width: float, norm: Norm, strides: Sequence[int]) -> Body:
    """Build a freshly initialised body.

    Args:
        name: of torchvision, or `timm:<name>`.
        width: multiplier of the usual channels; 1 for timm's.
        norm: replaces every batch norm.
        strides: of the maps to return, finest first.

    Raises:
        SpecError: timm is missing, knows no such model, or the model has no maps of these strides.
    """
    body = _timm_body(name, strides) if name.startswith("timm:") else _torchvision_body(name, width, strides)
    exchange_norms(body.network, norm)
    return body


# ---- measuring -------------------------------------------------------------------------------------------


def measure(network: nn.Module, units: Sequence[str]) -> dict[str, Unit]:
    """Run a small image through a network and record stride and channels of the outputs of its units.

    Args:
        network: takes pictures (B, 3, H, W).
        units: names of submodules; those that return no map are left out of the result.
    """
    found: dict[str, Unit] = {}

    def note(unit: str, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] > 1:
            found[unit] = Unit(_PROBE // output.shape[2], output.shape[1])

    handles = [
        network.get_submodule(unit).register_forward_hook(
            lambda _m, _i, output, unit=unit: note(unit, output)
        )
        for unit in units
    ]
    try:
        _run_on_black_image(network, _PROBE, _PROBE)
    finally:
        for handle in handles:
            handle.remove()
    return found


@torch.no_grad()
def _run_on_black_image(network: nn.Module, height: int, width: int) -> Any:
    """Return a network's output for a black image; the statistics of its norms stay unchanged."""
    trained = network.training
    try:
        return network.eval()(torch.zeros(1, 3, height, width))
    finally:
        network.train(trained)


def first_stages(network: nn.Module, stages: int) -> tuple[str, ...]:
    """Return the names of the units in the first stages of a body.

    Stage n has maps of stride 2**n; the stem is stage 1, also one that goes to stride 4 at once.
    In a ResNet these are conv1 with bn1, layer1, layer2, layer3 and layer4.

    Raises:
        SpecError: the network has no stages one after the other.
    """
    if not stages:
        return ()
    units = _units(network)
    measured = measure(network, units)
    strides = [1 if _is_stem(unit) else measured[unit].stride for unit in units if unit in measured]
    if len(strides) < len(units) or strides != sorted(strides):
        message = "this backbone has no stages one after the other, so that none can be frozen"
        raise SpecError([Problem(loc=("frozen_stages",), message=message, hint="Set frozen_stages to 0.")])
    return tuple(unit for unit, stride in zip(units, strides, strict=True) if stride <= 2**stages)


def _units(network: nn.Module) -> list[str]:
    """Return the parts of a body in execution order: its children, and theirs where they are called blocks."""
    prefix, inner = ("net.", network.net) if isinstance(network, TimmBody) else ("", network)
    units = []
    for name, child in inner.named_children():
        parts = [f"{name}.{part}" for part, _ in child.named_children()] if name == "blocks" else [name]
        units += [prefix + part for part in parts]
    return units


def _is_stem(unit: str) -> bool:
    return unit.removeprefix("net.").startswith(("stem", "patch_embed"))


# ---- torchvision -----------------------------------------------------------------------------------------


def _torchvision_body(name: str, width: float, strides: Sequence[int]) -> Body:
    trunk = _trunk(build_classifier(name, width))
    measured = measure(trunk, [unit for unit, _ in trunk.named_children()])
    last = {unit.stride: name for name, unit in measured.items()}  # the deepest maps of a stride
    cuts = [last[stride] for stride in strides]
    getter = IntermediateLayerGetter(trunk, {cut: str(level) for level, cut in enumerate(cuts)})
    return Body(getter, tuple(measured[cut].channels for cut in cuts))


def _trunk(classifier: Any) -> nn.Sequential:
    """Return a classifier without its head: pooling, linear layers, and the 1x1 convolution before them."""
    has_features = hasattr(classifier, "features")
    children = list((classifier.features if has_features else classifier).named_children())
    return nn.Sequential(OrderedDict(children[:-1] if has_features else children[:-2]))


def build_classifier(name: str, width: float = 1.0) -> nn.Module:
    """Build a torchvision classifier whose every layer has `width` times the usual channels, in multiples of 8."""
    network: nn.Module
    if width == 1:
        network = torchvision.models.get_model(name, weights=None)
    elif name.startswith("mobilenet"):
        network = torchvision.models.get_model(name, weights=None, width_mult=width)
    elif name.startswith("efficientnet"):
        network = _scaled_efficientnet(name, width)
    else:
        network = _scaled_resnet(name, width)
    return network


def _scaled_resnet(name: str, width: float) -> resnet.ResNet:
    body = torchvision.models.get_model(name, weights=None)
    layers = [body.layer1, body.layer2, body.layer3, body.layer4]
    channels = [max(8, round(planes * width / 8) * 8) for planes in (64, 128, 256, 512)]
    body.inplanes = channels[0]
    body.conv1 = nn.Conv2d(3, channels[0], 7, stride=2, padding=3, bias=False)
    body.bn1 = nn.BatchNorm2d(channels[0])
    for index, (planes, layer) in enumerate(zip(channels, layers, strict=True)):
        narrow = body._make_layer(type(layer[0]), planes, len(layer), stride=1 if index == 0 else 2)
        setattr(body, f"layer{index + 1}", narrow)
    for module in body.modules():
        if isinstance(module, nn.Conv2d):  # torchvision's initialisation
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return body


_COMPOUND: dict[str, tuple[float, float]] = {
    "efficientnet_b0": (1.0, 1.0),
    "efficientnet_b1": (1.0, 1.1),
    "efficientnet_b2": (1.1, 1.2),
    "efficientnet_b3": (1.2, 1.4),
    "efficientnet_b4": (1.4, 1.8),
    "efficientnet_b5": (1.6, 2.2),
    "efficientnet_b6": (1.8, 2.6),
    "efficientnet_b7": (2.0, 3.1),
}
"""Width and depth relative to b0, of the EfficientNet paper's published models; v2 is not scaled from one model."""


def _scaled_efficientnet(name: str, width: float) -> efficientnet.EfficientNet:
    wide, deep = _COMPOUND.get(name, (1.0, 1.0))
    settings, last = efficientnet._efficientnet_conf(name, width_mult=wide, depth_mult=deep)
    for setting in settings:
        setting.input_channels = setting.adjust_channels(setting.input_channels, width)
        setting.out_channels = setting.adjust_channels(setting.out_channels, width)
    return efficientnet.EfficientNet(settings, dropout=0.0, last_channel=last)


# ---- timm ------------------------------------------------------------------------------------------------


class TimmBody(nn.Module):
    """A timm model that returns the feature maps of its stages."""

    def __init__(self, net: nn.Module, indices: Sequence[int]) -> None:
        """Keep the maps at `indices` of those that the network returns."""
        super().__init__()
        self.net = net
        self.indices = tuple(indices)
        self.channels_come_last = str(getattr(net, "output_fmt", "")).endswith("NHWC")

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """Return feature maps (B, C, H / stride, W / stride) of images (B, 3, H, W), finest first."""
        maps = self.net(pictures)
        wanted = [maps[index] for index in self.indices]
        if self.channels_come_last:
            wanted = [level.permute(0, 3, 1, 2) for level in wanted]
        return {str(level): kept for level, kept in enumerate(wanted)}


def _timm_body(name: str, strides: Sequence[int]) -> Body:
    net = _timm_features(name)
    reductions = list(net.feature_info.reduction())
    last = {stride: index for index, stride in enumerate(reductions)}
    if not set(strides) <= last.keys():
        found = ", ".join(map(str, reductions))
        raise _backbone_error(
            name, f"gives maps at strides {found}, and {', '.join(map(str, strides))} are needed"
        )
    body = TimmBody(net, [last[stride] for stride in strides])
    return Body(body, _channels(name, body, strides))


def _timm_features(name: str) -> Any:
    timm, model = _timm(), name.removeprefix("timm:")
    if not timm.is_model(model):
        near = difflib.get_close_matches(model, timm.list_models(), n=4, cutoff=0.4)
        hint = f"Near names: {', '.join(f'timm:{other}' for other in near)}." if near else ""
        raise SpecError([Problem(loc=("backbone",), message=f"timm has no model {model!r}", hint=hint)])
    try:
        return timm.create_model(model, pretrained=False, features_only=True)
    except (
        AttributeError,
        AssertionError,
        NotImplementedError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise _backbone_error(name, f"gives no features: {error}") from None


def _timm() -> Any:
    try:
        return importlib.import_module("timm")
    except ImportError:
        message = "timm is not installed, and this backbone is one of its models"
        hint = "Run: pip install 'gkd[timm]'"
        raise SpecError([Problem(loc=("backbone",), message=message, hint=hint)]) from None


def _channels(name: str, body: TimmBody, strides: Sequence[int]) -> tuple[int, ...]:
    """Return the channels of the maps that a body really returns; some models take only square images or one size."""
    height, width = 64, 96
    try:
        maps = list(_run_on_black_image(body, height, width).values())
    except (AssertionError, RuntimeError, ValueError) as error:
        raise _backbone_error(name, f"does not take pictures of any size: {error}") from None
    sizes = [tuple(level.shape[2:]) for level in maps]
    if sizes != [(height // stride, width // stride) for stride in strides]:
        raise _backbone_error(name, f"gives maps of sizes {sizes} for a picture of {height} x {width}")
    return tuple(level.shape[1] for level in maps)


def _backbone_error(name: str, why: str) -> SpecError:
    hint = "Convolutional models with stages fit: resnets, convnexts, efficientnets, regnets, mobilenets."
    return SpecError([Problem(loc=("backbone",), message=f"{name} {why}", hint=hint)])


# ---- published weights -----------------------------------------------------------------------------------


def published_name(name: str, known: Container[str]) -> str | None:
    """Return the name that a tensor of a body has in the classifier that the body was cut from.

    torchvision's MobileNets and EfficientNets keep their body in `features`; timm's lists of features write the
    first dot of some names as an underscore.

    Args:
        name: in the body's state dict.
        known: names of the classifier's tensors.

    Returns:
        The classifier's name, None where it has no such tensor.
    """
    own = name.removeprefix("net.")
    head, _, rest = own.partition(".")
    dotted = [f"{head[:at]}.{head[at + 1 :]}.{rest}" for at, sign in enumerate(head) if sign == "_"]
    return next((each for each in (own, f"features.{own}", *dotted) if each in known), None)
