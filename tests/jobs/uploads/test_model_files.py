"""Files of weights, read without torch; files that torch itself wrote show what must be understood."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest

from gkd_core.config import DetectorConfig
from gkd_core.detectors.model_card import ModelCard
from jobs.uploads.model_files import BadModel, inspect

CARD = ModelCard.of(DetectorConfig(), ("cat", "dog"), 64)


def write_safetensors(path: Path, header: Any, tensors: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + tensors)
    return path


def entry(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


# ---- safetensors -----------------------------------------------------------------------------------------


def test_a_model_of_gkd_shows_its_card(tmp_path: Path) -> None:
    header = {
        "__metadata__": {"gkd": CARD.model_dump_json()},
        "a": entry(0, 8, [2]),
        "b": entry(8, 10, [1], "F16"),
    }
    found = inspect(write_safetensors(tmp_path / "model", header, bytes(10)))
    assert (found.format, found.tensors, found.parameters) == ("safetensors", 2, 3)
    assert found.card == CARD
    assert found.dtypes == {"F32": 1, "F16": 1}


def test_a_plain_state_dict_has_no_card(tmp_path: Path) -> None:
    assert inspect(write_safetensors(tmp_path / "model", {"a": entry(0, 8, [2])}, bytes(8))).card is None


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ({"a": entry(0, 8, [3])}, "entry for the tensor 'a' makes no sense"),
        ({"a": entry(0, 8, [2], "X99")}, "makes no sense"),
        ({"a": entry(0, 8, [-2])}, "makes no sense"),
        ({"a": entry(0, 8, [2]), "b": entry(0, 8, [2])}, "overlap"),
        ({"a": entry(4, 8, [1])}, "leave gaps"),
        ({"a": entry(0, 16, [4])}, "cut short"),
        ({"a": entry(0, 4, [1])}, "8 bytes of tensors, announced are 4"),
        ({}, "8 bytes of tensors"),
        ({"__metadata__": {"gkd": "{}"}, "a": entry(0, 8, [2])}, "model card is damaged"),
        (b'{"a": 1, "a": 2}', "a name comes twice"),
        (b"{" + b'"a":[' * 100_000, "no JSON"),
        (b"{]", "no JSON"),
    ],
)
def test_damaged_safetensors_are_refused(tmp_path: Path, header: Any, why: str) -> None:
    with pytest.raises(BadModel, match=why):
        inspect(write_safetensors(tmp_path / "model", header, bytes(8)))


def test_a_header_longer_than_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(struct.pack("<Q", 10**9) + b"{")
    with pytest.raises(BadModel, match="cut short"):
        inspect(tmp_path / "model")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x00" * 100])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model").write_bytes(content)
    with pytest.raises(BadModel, match="neither a safetensors file nor"):
        inspect(tmp_path / "model")


# ---- what torch.save writes ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch")


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_what_torch_saved_is_understood(tmp_path: Path, torch: Any, legacy: bool) -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8))
    state = network.state_dict()
    torch.save(state, tmp_path / "model.pth", _use_new_zipfile_serialization=not legacy)
    found = inspect(tmp_path / "model.pth")
    assert (found.format, found.tensors) == ("pth", len(state))
    assert found.parameters == sum(tensor.numel() for tensor in state.values())
    assert found.dtypes == {"float32": 6, "int64": 1}


def test_a_state_dict_among_other_things_is_found(tmp_path: Path, torch: Any) -> None:
    weight = torch.nn.Parameter(torch.ones(2, 3).half())
    saved = {
        "epoch": 3,
        "model": OrderedDict(weight=weight, view=weight.detach().t()),
        "rate": [0.1, {1, 2}, b"x"],
    }
    torch.save(saved, tmp_path / "model.pth")
    found = inspect(tmp_path / "model.pth")
    assert (found.tensors, found.parameters, found.dtypes) == (2, 12, {"float16": 2})


def test_what_is_let_through_torch_lets_through_too(tmp_path: Path, torch: Any) -> None:
    torch.save({"a": torch.ones(2), "dtype": torch.float16, "size": torch.Size([2])}, tmp_path / "model.pth")
    with pytest.raises(
        BadModel, match="holds no state dict"
    ):  # read without an error, but not all are tensors
        inspect(tmp_path / "model.pth")
    torch.load(tmp_path / "model.pth", weights_only=True)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_pickle_in_a_pth_is_not_run(tmp_path: Path, torch: Any, legacy: bool) -> None:
    mark = tmp_path / "it-ran"
    torch.save(
        {"a": torch.ones(2), "b": Evil(mark)},
        tmp_path / "model.pth",
        _use_new_zipfile_serialization=not legacy,
    )
    with pytest.raises(BadModel, match=r"holds more than tensors: 'posix\.mkdir'; .* it is not loaded"):
        inspect(tmp_path / "model.pth")
    assert not mark.exists()
    torch.load(tmp_path / "model.pth", weights_only=False)  # what would have happened
    assert mark.exists()


@pytest.mark.parametrize("cut", [0.3, 0.6, 0.9])
def test_a_pth_that_is_cut_short_is_refused(tmp_path: Path, torch: Any, cut: float) -> None:
    torch.save({"a": torch.ones(5000)}, tmp_path / "model.pth")
    whole = (tmp_path / "model.pth").read_bytes()
    (tmp_path / "model.pth").write_bytes(whole[: int(len(whole) * cut)])
    with pytest.raises(BadModel, match="cut short"):
        inspect(tmp_path / "model.pth")


def write_pth(path: Path, pickled: bytes, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, content in members.items():
            archive.writestr(f"archive/data/{name}", content)
    return path


def call(module: str, name: str, *args: str) -> bytes:
    """Return a pickle that calls a function of a module with texts."""
    texts = b"".join(b"X" + struct.pack("<I", len(text)) + text.encode() for text in args)
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"(" + texts + b"tR."


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("__builtin__", "exec"),
        ("subprocess", "Popen"),
        ("torch", "load"),
        ("torch.hub", "load"),
        ("collections", "OrderedDict.__init__"),
        ("torch._utils", "os.system"),
        ("jobs.uploads.model_files", "inspect"),
    ],
)
def test_no_name_but_those_of_tensors_is_looked_up(tmp_path: Path, module: str, name: str) -> None:
    evil = write_pth(tmp_path / "model.pth", call(module, name, f"touch {tmp_path}/it-ran"))
    with pytest.raises(BadModel, match="holds more than tensors"):
        inspect(evil)
    assert not (tmp_path / "it-ran").exists()


def test_names_on_the_stack_are_no_way_around(tmp_path: Path) -> None:
    pickled = b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R."
    with pytest.raises(BadModel, match=r"holds more than tensors: 'os\.system'"):
        inspect(write_pth(tmp_path / "model.pth", pickled))


@pytest.mark.parametrize(
    "pickled",
    [
        pickle.dumps({"a": 1}, 2),
        pickle.dumps([1, 2], 2),
        call("torch._utils", "_rebuild_tensor_v2", "x"),
        b"\x80\x02",
        b"\x80\x02Q.",
        b"\x80\x02X\xff\xff\xff\x7fa.",
        b"\x80\x02\x82\x01.",
        b"\x80\x02" + b"(" * 1000 + b".",
    ],
)
def test_pickles_without_a_state_dict_are_refused(tmp_path: Path, pickled: bytes) -> None:
    with pytest.raises(BadModel):
        inspect(write_pth(tmp_path / "model.pth", pickled))


def test_a_pickle_alone_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.pth").write_bytes(call("os", "system", f"touch {tmp_path}/it-ran"))
    with pytest.raises(BadModel, match="holds more than tensors"):
        inspect(tmp_path / "model.pth")
    (tmp_path / "model.pth").write_bytes(pickle.dumps(3, 2))
    with pytest.raises(BadModel, match="a pickle that torch did not write"):
        inspect(tmp_path / "model.pth")
    assert not (tmp_path / "it-ran").exists()


def test_a_packed_pth_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, 2))
    with pytest.raises(BadModel, match="it is a packed archive"):
        inspect(tmp_path / "model.pth")
