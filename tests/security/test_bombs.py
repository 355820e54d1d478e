"""Small files that would expand to large ones: pictures, models, YAML and XML. Each is refused at once."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from gkd_core.data.pictures import PictureError, read_picture

from .conftest import within


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *more: bytes, pixels: bytes = b"") -> bytes:
    """Return a PNG that declares a size, whatever it holds."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + b"".join(more)
        + chunk(b"IDAT", zlib.compress(pixels, 9))
        + chunk(b"IEND", b"")
    )


def zeros(megabytes: int) -> bytes:
    """Return zeros, compressed a thousandfold."""
    packer = zlib.compressobj(9)
    return b"".join([packer.compress(bytes(1 << 20)) for _ in range(megabytes)] + [packer.flush()])


PICTURES: dict[str, Callable[[], bytes]] = {
    "50,000 x 50,000": lambda: png(50_000, 50_000),
    "as many as a number holds": lambda: png(2**31 - 1, 2**31 - 1),
    "no pixels": lambda: png(0, 0),
    "text that unpacks to 200 MB": lambda: png(64, 48, chunk(b"zTXt", b"a\0\0" + zeros(200))),
    "a profile that unpacks to 200 MB": lambda: png(64, 48, chunk(b"iCCP", b"a\0\0" + zeros(200))),
    "a GIF of 65,535 x 65,535": lambda: b"GIF89a\xff\xff\xff\xff\x00\x00\x00",
    "a BMP of two billion rows": lambda: (
        b"BM" + struct.pack("<IHHIIiiHH", 100, 0, 0, 54, 40, 9, -(2**31), 1, 24)
    ),
}


@pytest.mark.parametrize("what", PICTURES)
def test_a_picture_that_unpacks_without_end_is_refused_before_it_is(
    service, send, train_spec, root: Path, what: str
):
    (root / "discs" / "images" / "val1.png").write_bytes(PICTURES[what]())
    with within(5):
        answer = send("/jobs", train_spec)
    assert answer.status_code == 422, answer.text
    assert "val1.png" in answer.json()["detail"]


def test_more_pixels_than_the_header_says_are_not_unpacked(tmp_path: Path):
    """Hide 100 MB behind a header of 64 x 48: memory is allocated by the header."""
    path = tmp_path / "long.png"
    path.write_bytes(png(64, 48).replace(chunk(b"IDAT", zlib.compress(b"", 9)), chunk(b"IDAT", zeros(100))))
    with within(5):
        assert read_picture(path).shape == (48, 64, 3)
    path.write_bytes(png(60_000, 40_000))
    with pytest.raises(PictureError, match="more than"):
        read_picture(path)


@pytest.mark.parametrize(
    "header", [2**63, 10**8, 2**64 - 1, 8, 0], ids=["2^63", "the most allowed", "2^64", "too short", "none"]
)
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_a_model_whose_header_is_larger_than_the_file_is_refused(
    service, send, train_spec, root: Path, suffix: str, header: int
):
    (root / f"m.{suffix}").write_bytes(header.to_bytes(8, "little") + b'{"a":')
    with within(5):
        answer = send("/jobs", train_spec | {"model": {"weights": f"m.{suffix}"}})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["loc"] == ["model", "weights"]


@pytest.mark.parametrize("card", ["[" * 100_000, '{"a":' * 100_000, "9" * 100_000, "NaN", '"\\ud800"'])
def test_a_card_that_nests_or_counts_without_end_is_refused(service, send, train_spec, root: Path, card: str):
    header = f'{{"__metadata__": {{"gkd": {card}'.encode()
    (root / "m.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    header = json.dumps({"__metadata__": {"gkd": card}}).encode()
    (root / "n.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    for name in ("m", "n"):
        with within(5):
            answer = send("/jobs", train_spec | {"model": {"weights": f"{name}.safetensors"}})
        assert answer.status_code == 422, answer.text


LAUGHS = "a0: &a0 [x,x]\n" + "\n".join(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))
YAMLS = {
    "billion laughs": LAUGHS,
    "deep": "names: " + "[" * 20_000,
    "python": "names: !!python/object/apply:os.system ['touch done']",
    "itself": "names: &a [*a]",
    "many": "names: [" + "a," * 120_000 + "]",
}


@pytest.mark.parametrize("what", YAMLS)
def test_a_data_yaml_that_grows_or_runs_is_refused(service, send, train_spec, root: Path, what: str):
    folder = root / "yolo"
    (folder / "images").mkdir(parents=True)
    (folder / "data.yaml").write_text(f"train: images\nval: images\n{YAMLS[what]}\n")
    with within(10):
        answer = send("/jobs", train_spec | {"data": "yolo"})
    assert answer.status_code == 422
    assert not Path("done").exists()


ENTITIES = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 9}">' for n in range(1, 12))
XMLS = {
    "billion laughs": f'<!DOCTYPE a [<!ENTITY e0 "ha">{ENTITIES}]><annotation>&e11;</annotation>',
    "a file of others": '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>',
    "a web page": '<!DOCTYPE a SYSTEM "http://127.0.0.1:9/x.dtd"><annotation/>',
    "deep": "<a>" * 50_000,
}


@pytest.mark.parametrize("what", XMLS)
def test_an_xml_that_grows_or_reads_other_files_is_refused(service, send, train_spec, root: Path, what: str):
    folder = root / "voc"
    (folder / "Annotations").mkdir(parents=True)
    (folder / "JPEGImages").mkdir()
    (folder / "Annotations" / "a.xml").write_text(XMLS[what])
    (folder / "JPEGImages" / "a.png").write_bytes((root / "discs" / "images" / "val1.png").read_bytes())
    split = {"images": "voc/JPEGImages", "annotations": "voc/Annotations"}
    with within(5):
        answer = send("/jobs", train_spec | {"data": {"format": "voc", "train": split, "val": split}})
    assert answer.status_code == 422
    assert "root:" not in answer.text
