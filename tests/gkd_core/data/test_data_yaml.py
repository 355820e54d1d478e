"""`data.yaml` is read as text, within limits, and errors name line and key."""

import time
from pathlib import Path

import pytest

from gkd_core.data.data_yaml import MAX_BYTES, NamesError, parse, read_names


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "data.yaml"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("names: [no, 1e3, 'off']", {0: "no", 1: "1e3", 2: "off"}),
        ("names:\n  0: person\n  1: two words # comment\nnc: 2", {0: "person", 1: "two words"}),
        ("names: {3: c, 1: a}\nnc: 2", {1: "a", 3: "c"}),
        ("\ufeffnames:\n- café\n- 猫\n", {0: "café", 1: "猫"}),
        ("nc: 2\ntrain: x", {0: "class 0", 1: "class 1"}),
        ("names: [!!python/object/apply:os.system ['true'], b]", None),
        ("names: [!!python/name:os.system a, b]", {0: "a", 1: "b"}),
    ],
)
def test_names_are_what_is_written(file: Path, text: str, names: dict[int, str] | None) -> None:
    file.write_text(text)
    if names is None:
        with pytest.raises(NamesError, match="needed: a text to show"):
            read_names(file)
    else:
        assert read_names(file).names == names


def test_a_text_file_names_a_class_a_line(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("square\r\n\r\n disc \r\n")
    assert read_names(tmp_path / "classes.txt").names == {0: "square", 1: "disc"}


@pytest.mark.parametrize(
    ("text", "splits"),
    [
        ("train: a\nval: b", {"train": ("a",), "val": ("b",), "test": ()}),
        ("train: [a, b]\nvalid: c\ntest:", {"train": ("a", "b"), "val": ("c",), "test": ()}),
        ("train:\nval: ~", {"train": (), "val": (), "test": ()}),
        ("train: a\ntest: [b, c]", {"train": ("a",), "val": (), "test": ("b", "c")}),
    ],
)
def test_splits_may_be_one_or_several(file: Path, text: str, splits: dict[str, tuple[str, ...]]) -> None:
    file.write_text(f"names: [x]\n{text}")
    assert read_names(file).splits == splits


def test_the_root_is_the_path_where_it_is_there_and_else_the_folder_of_the_file(file: Path) -> None:
    (file.parent / "set").mkdir()
    for path, root in (("set", file.parent / "set"), ("/home/someone/set", file.parent), ("", file.parent)):
        file.write_text(f"path: {path}\nnames: [x]")
        assert read_names(file).root == root


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no keys"),
        ("- a\n- b", "has no keys"),
        ("train: x", "has no `names`"),
        ("names: []", "has no `names`"),
        ("names: square", "neither a list nor a mapping"),
        ("names: [a, '']", "class 1 has the name ''"),
        ('names: ["a\\0"]', "class 0 has the name"),
        ('names: ["\\ud800"]', "class 0 has the name"),
        ("names: {a: b}", "has the key 'a'"),
        ("names: {0: a, 00: b}", "has the key '00'"),
        ("names: {0: a, 0: b}", "has the key '0' twice below line 1"),
        ("names: [a]\nnc: 3", "`nc` says 3 classes, `names` has 1"),
        ("names: [a]\nnc: many", "`nc` is 'many'"),
        ("names: [a]\npath: [x]", "`path` is a list"),
        ("names: [a]\ntrain: {x: y}", "`train` is neither"),
        ("names: [a]\ntrain: [[x]]", "`train` is neither"),
        ("names: [a\ntrain: x", "is not YAML: .* at line 2"),
        ("names: [a]\n\x01", "is not YAML"),
        ("a: &x [1]\nb: *x", "uses an alias at line 2"),
        ("a: " + "[" * 9, "nests deeper than 8 levels"),
        ("? [a]\n: b", "a key that is no text"),
    ],
)
def test_what_is_wrong_is_said(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    with pytest.raises(NamesError, match=message):
        read_names(file)


@pytest.mark.parametrize(
    "text", ["x" * (MAX_BYTES + 1), "[" * MAX_BYTES, "? " * (MAX_BYTES // 2), "&a " * 80_000]
)
def test_a_bomb_goes_off_at_once(file: Path, text: str) -> None:
    file.write_text(text)
    start = time.perf_counter()
    with pytest.raises(NamesError):
        read_names(file)
    assert time.perf_counter() - start < 5  # it takes hundredths of a second


def test_a_file_that_is_no_text_is_told(file: Path) -> None:
    file.write_bytes(b"names: \xff")
    with pytest.raises(NamesError, match="not UTF-8 at byte 7"):
        read_names(file)
    with pytest.raises(NamesError, match="cannot be read"):
        read_names(file.parent / "gone.yaml")


def test_nesting_up_to_the_limit_is_read() -> None:
    assert parse("a: [[{b: [c]}]]") == {"a": [[{"b": ["c"]}]]}
