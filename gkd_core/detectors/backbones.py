"""Backbones: the body of a detector, from torchvision or from timm, cut where its maps halve in size.

A body takes pictures (B, 3, H, W) and gives maps (B, C, H / stride, W / stride) under the names "0", "1", ..., finest
first. Nothing is known of any family beforehand: a small picture is sent through once, and what each unit (a child
of the network) gives says where a stride ends.

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
"""Side, in pixels, of the picture that a body is measured with: small, and a multiple of 32."""


class Unit(NamedTuple):
    """The maps that a part of a network gives."""

    stride: int
    """Pixels per cell."""
    channels: int
    """Of maps (B, C, H, W); of no meaning in the few networks that compute in (B, H, W, C)."""


class Body(NamedTuple):
    """A network that gives maps, and how wide they are."""

    network: nn.Module
    channels: tuple[int, ...]
    """Of each map, finest first."""


def build_body(name: str, width: float, norm: Norm, strides: Sequence[int]) -> Body:
    """A freshly initialised body.

    Args:
        name: of torchvision, or `timm:<name>`.
        width: channels relative to the usual ones; 1 for timm's.
        norm: takes the place of every batch norm.
        strides: of the wanted maps, finest first.

    Raises:
        SpecError: timm is missing, knows no such model, or the model gives no maps of these strides.
    """
    body = _timm_body(name, strides) if name.startswith("timm:") else _torchvision_body(name, width, strides)
    exchange_norms(body.network, norm)
    return body


# ---- measuring -------------------------------------------------------------------------------------------


def measure(network: nn.Module, units: Sequence[str]) -> dict[str, Unit]:
    """Send a small picture through a network and look at what its units give.

    Args:
        network: takes pictures (B, 3, H, W).
        units: names of submodules; those that give no map are left out of the answer.
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
        _look(network, _PROBE, _PROBE)
    finally:
        for handle in handles:
            handle.remove()
    return found


@torch.no_grad()
def _look(network: nn.Module, height: int, width: int) -> Any:
    """What a network gives for a black picture, without a trace in its statistics."""
    trained = network.training
    try:
        return network.eval()(torch.zeros(1, 3, height, width))
    finally:
        network.train(trained)


def first_stages(network: nn.Module, stages: int) -> tuple[str, ...]:
    """Names of the units in the first stages of a body.

    Stage n is what gives maps of stride 2**n; the stem is stage 1, also one that goes to stride 4 at once.
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
    """The parts of a body in the order in which they run: its children, and theirs where they are called blocks."""
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
    """A classifier without what turns maps into classes: pooling, linear layers, and the 1x1 convolution before."""
    has_features = hasattr(classifier, "features")
    children = list((classifier.features if has_features else classifier).named_children())
    return nn.Sequential(OrderedDict(children[:-1] if has_features else children[:-2]))


def build_classifier(name: str, width: float = 1.0) -> nn.Module:
    """A torchvision classifier whose every layer has `width` times the usual channels, in multiples of 8."""
    if width == 1:
        return torchvision.models.get_model(name, weights=None)
    if name.startswith("mobilenet"):
        return torchvision.models.get_model(name, weights=None, width_mult=width)
    if name.startswith("efficientnet"):
        return _scaled_efficientnet(name, width)
    return _scaled_resnet(name, width)


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
        if isinstance(module, nn.Conv2d):  # as torchvision starts its own
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
    """A timm model that gives the maps of its stages."""

    def __init__(self, net: nn.Module, indices: Sequence[int]) -> None:
        """Keep the maps at `indices` of those that the net gives."""
        super().__init__()
        self.net = net
        self.indices = tuple(indices)
        self.channels_come_last = str(getattr(net, "output_fmt", "")).endswith("NHWC")

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) to maps (B, C, H / stride, W / stride), finest first."""
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
        raise _unfit(name, f"gives maps at strides {found}, and {', '.join(map(str, strides))} are needed")
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
        raise _unfit(name, f"gives no features: {error}") from None


def _timm() -> Any:
    try:
        return importlib.import_module("timm")
    except ImportError:
        message = "timm is not installed, and this backbone is one of its models"
        hint = "Run: pip install 'gkd[timm]'"
        raise SpecError([Problem(loc=("backbone",), message=message, hint=hint)]) from None


def _channels(name: str, body: TimmBody, strides: Sequence[int]) -> tuple[int, ...]:
    """Of the maps that a body really gives; some models take pictures of one size, or square ones, only."""
    height, width = 64, 96
    try:
        maps = list(_look(body, height, width).values())
    except (AssertionError, RuntimeError, ValueError) as error:
        raise _unfit(name, f"does not take pictures of any size: {error}") from None
    sizes = [tuple(level.shape[2:]) for level in maps]
    if sizes != [(height // stride, width // stride) for stride in strides]:
        raise _unfit(name, f"gives maps of sizes {sizes} for a picture of {height} x {width}")
    return tuple(level.shape[1] for level in maps)


def _unfit(name: str, why: str) -> SpecError:
    hint = "Convolutional models with stages fit: resnets, convnexts, efficientnets, regnets, mobilenets."
    return SpecError([Problem(loc=("backbone",), message=f"{name} {why}", hint=hint)])


# ---- published weights -----------------------------------------------------------------------------------


def published_name(name: str, known: Container[str]) -> str | None:
    """What a tensor of a body is called in the classifier that the body was cut from.

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
