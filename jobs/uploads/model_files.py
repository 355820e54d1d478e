"""Inspection of weights files without loading them and without torch: safetensors, or the format of torch.save.

A `.pth` is a pickle, and a pickle is a program. Here an unpickler runs it that knows only inert stand-ins for
the few names that a state dict needs; the file is refused if it asks for any other name.
"""

from __future__ import annotations

import json
import math
import pickle
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from pydantic import BaseModel, ConfigDict

from gkd_core.detectors.model_card import LONGEST_HEADER, ModelCard, carries_card, read_card
from gkd_core.errors import SpecError
from gkd_core.process.named_files import open_named
from jobs.uploads.archive_members import BadArchive, must_not_overlap

LARGEST_PICKLE = 64 * 1024**2
"""Maximum bytes of the pickle in a `.pth`; the tensors are separate. A thousand tensors take a tenth of a
megabyte."""
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
"""Magic number of files of `torch.save` before it wrote zip archives."""
_UNDER = ("model", "state_dict", "model_state_dict")
"""Keys under which training scripts store the state dict."""


class BadModel(Exception):
    """Why a file is not a usable model."""


class ModelFindings(BaseModel):
    """What is in a weights file."""

    model_config = ConfigDict(frozen=True)

    format: Literal["safetensors", "pth"]
    tensors: int
    parameters: int
    """Number of elements of all tensors together."""
    dtypes: dict[str, int]
    """Number of tensors of each dtype."""
    card: ModelCard | None
    """The model card of a GKD model. Null: a plain state dict, for which a spec must give architecture,
    backbone, layout and classes."""


@dataclass(frozen=True)
class _Tensor:
    """The description of a tensor; its elements are not read."""

    dtype: str
    shape: tuple[int, ...]


def inspect(path: Path) -> ModelFindings:
    """Return what a weights file contains.

    Raises:
        BadModel: it is damaged, no such file, or one that runs code when it is loaded.
    """
    with open_named(path) as file:
        start = file.read(9)
    if start[:2] == b"PK":
        return _findings("pth", _state(_read_zip(path)), None)
    if start[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        return _findings("pth", _state(_read_legacy(path)), None)
    if start[8:] == b"{":
        return _findings("safetensors", _read_safetensors(path), _card(path))
    raise BadModel("it is neither a safetensors file nor what torch.save writes")


def _findings(
    kind: Literal["safetensors", "pth"], tensors: Iterable[_Tensor], card: ModelCard | None
) -> ModelFindings:
    listed = list(tensors)
    if not listed:
        raise BadModel("it holds no tensors")
    parameters = sum(math.prod(tensor.shape) for tensor in listed)
    dtypes = dict(Counter(tensor.dtype for tensor in listed))
    return ModelFindings(format=kind, tensors=len(listed), parameters=parameters, dtypes=dtypes, card=card)


# ---- safetensors -----------------------------------------------------------------------------------------

_SAFE_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2"), 8),
}


def _read_safetensors(path: Path) -> list[_Tensor]:
    size = path.stat().st_size
    with open_named(path) as file:
        length = int.from_bytes(file.read(8), "little")
        if size - 8 >= length > LONGEST_HEADER:
            raise BadModel(f"its header has {length} bytes, and at most {LONGEST_HEADER} are read")
        if not 2 <= length <= size - 8:
            raise BadModel("it is cut short: its header is longer than the file")
        header = _header(file.read(length))
    header.pop("__metadata__", None)
    entries = sorted((_entry(name, entry) for name, entry in header.items()), key=lambda entry: entry[0])
    end = 0
    for begin, stop, _ in entries:
        if begin != end:
            raise BadModel("its tensors overlap, or leave gaps between them")
        end = stop
    if end != size - 8 - length:
        raise BadModel(
            f"it is cut short or damaged: {size - 8 - length} bytes of tensors, announced are {end}"
        )
    return [tensor for _, _, tensor in entries]


def _header(text: bytes) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a name comes twice")
        return dict(pairs)

    try:
        header = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise BadModel(f"its header is no JSON: {str(error)[:200]}") from None
    if not isinstance(header, dict):
        raise BadModel("its header is no JSON object")
    return header


def _entry(name: str, entry: Any) -> tuple[int, int, _Tensor]:
    """Return the begin and end offset of a tensor in bytes, and its description."""
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(begin), int(stop)]} if (
            dtype in _SAFE_BITS and all(_is_count(side) for side in shape) and _is_count(begin)
        ):
            if (stop - begin) * 8 == math.prod(shape) * _SAFE_BITS[dtype]:
                return begin, stop, _Tensor(dtype, tuple(shape))
    raise BadModel(f"its entry for the tensor {ascii(name)[:120]} makes no sense")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**48


def _card(path: Path) -> ModelCard | None:
    if not carries_card(path):
        return None
    try:
        return read_card(path)
    except SpecError:
        raise BadModel("its model card is damaged, or of another version of GKD") from None


# ---- torch.save ------------------------------------------------------------------------------------------


def _read_zip(path: Path) -> Any:
    """Return the unpickled value of torch's zip format: a pickle, and each storage as a member."""
    try:
        with open_named(path) as whole, zipfile.ZipFile(whole) as archive:
            must_not_overlap(archive)
            sizes = {info.filename: info.file_size for info in archive.infolist()}
            if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
                raise BadModel("it is a packed archive; torch.save packs nothing")
            [pickled] = [name for name in sizes if name.rpartition("/")[2] == "data.pkl"]
            if sizes[pickled] > LARGEST_PICKLE:
                raise BadModel(f"its pickle has more than {LARGEST_PICKLE} bytes, not counting tensors")
            folder = pickled.removesuffix("data.pkl") + "data/"
            with archive.open(pickled) as file:
                return _unpickled(file, lambda key: sizes.get(f"{folder}{key}"))
    except BadArchive as error:
        raise BadModel(str(error)) from None
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, RuntimeError) as error:
        raise BadModel(f"it is cut short, or not what torch.save writes: {str(error)[:200]}") from None


def _read_legacy(path: Path) -> Any:
    """Return the unpickled value of torch's format before 1.6: several pickles, followed by the storages."""
    with open_named(path) as file:
        if _unpickled(file) != _LEGACY_MAGIC:
            raise BadModel("it is a pickle that torch did not write; loading it would run code from it")
        _unpickled(file)  # version of the format
        _unpickled(file)  # sizes of numbers on the machine that wrote it
        return _unpickled(file)


def _unpickled(file: IO[bytes], size_of: Callable[[str], int | None] | None = None) -> Any:
    try:
        return _Inert(file, size_of).load()
    except BadModel:
        raise
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise BadModel(f"its pickle is damaged: {type(error).__name__}") from None


@dataclass(frozen=True)
class _StorageType:
    dtype: str
    bytes_each: int


@dataclass(frozen=True)
class _Storage:
    dtype: str
    count: int


class _Inert(pickle.Unpickler):
    """An unpickler of inert stand-ins: nothing that a pickle can name has an effect.

    Args:
        file: The pickle.
        size_of: Returns the bytes of a storage by key, None if there is none; None: sizes are not checked.
    """

    def __init__(self, file: IO[bytes], size_of: Callable[[str], int | None] | None) -> None:
        super().__init__(file, encoding="utf-8")
        self._size_of = size_of

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in for a name.

        Raises:
            BadModel: the file asks for another name, which torch's loader would refuse, too.
        """
        if module == "torch" and name in _DTYPES:
            return name
        try:
            return _STAND_INS[module, name]
        except KeyError:
            wanted = ascii(f"{module}.{name}")[:120]
            raise BadModel(
                f"it holds more than tensors: {wanted}; loading it could run code from it, so it is not loaded"
            ) from None

    def persistent_load(self, pid: Any) -> _Storage:
        """Return the stand-in for a storage.

        Raises:
            BadModel: it is missing, or smaller than declared.
        """
        match pid:
            case ("storage", _StorageType(dtype, bytes_each), str(key), str(), int(count), *_) if _is_count(
                count
            ):
                there = self._size_of(key) if self._size_of else count * bytes_each
                if there is None or there < count * bytes_each:
                    raise BadModel(f"it is cut short: the numbers of storage {ascii(key)[:80]} are missing")
                return _Storage(dtype, count)
        raise BadModel("it refers to something that is no storage of tensors")


def _rebuilt(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> _Tensor:
    """Replace torch's functions that rebuild a tensor."""
    shape = tuple(size)
    counts = (offset, *shape, *stride)
    if not isinstance(storage, _Storage) or len(shape) != len(stride) or not all(map(_is_count, counts)):
        raise BadModel("it describes a tensor that makes no sense")
    last = offset + sum((side - 1) * step for side, step in zip(shape, stride, strict=True))
    if math.prod(shape) and last >= storage.count:
        raise BadModel("it describes a tensor that is larger than its numbers")
    return _Tensor(storage.dtype, shape)


def _unwrapped(value: Any, *_: Any) -> Any:
    """Replace functions that wrap a tensor: return the tensor."""
    return value


def _nothing(*_: Any) -> None:
    """Replace values that are irrelevant to a model: return None."""


_STORAGES = {
    "Double": ("float64", 8),
    "Float": ("float32", 4),
    "Half": ("float16", 2),
    "BFloat16": ("bfloat16", 2),
    "Long": ("int64", 8),
    "Int": ("int32", 4),
    "Short": ("int16", 2),
    "Char": ("int8", 1),
    "Byte": ("uint8", 1),
    "Bool": ("bool", 1),
}
_DTYPES = {dtype for dtype, _ in _STORAGES.values()}
_STAND_INS: Mapping[tuple[str, str], Any] = {
    **{("torch", f"{name}Storage"): _StorageType(*kind) for name, kind in _STORAGES.items()},
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "Counter"): _nothing,
    ("torch._utils", "_rebuild_tensor"): _rebuilt,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuilt,
    ("torch._utils", "_rebuild_parameter"): _unwrapped,
    ("torch.nn.parameter", "Parameter"): _unwrapped,
    ("torch", "Size"): tuple,
    ("torch", "device"): _nothing,
    ("_codecs", "encode"): _nothing,
    ("__builtin__", "set"): set,
    ("builtins", "set"): set,
}
"""Names that a state dict and its usual companions consist of; torch's own safe loader allows all of them,
too."""


def _state(found: Any) -> list[_Tensor]:
    """Return the tensors of the state dict in a checkpoint, found as by `gkd_core.detectors.weights`."""
    for key in _UNDER:
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not all(isinstance(value, _Tensor) for value in found.values()):
        raise BadModel("it holds no state dict: tensors by name")
    return list(found.values())
