"""Spec files in three formats, and what is said about those that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from client.spec_file import read
from gkd_core.errors import SpecError
from jobs.specs.spec import job_spec

SPEC = {
    "kind": "train",
    "name": "no",
    "data": "cells",
    "tags": {"since": "2026-01-31", "build": "012"},
    "model": {"backbone": "resnet18", "fpn": {"channels": 64}},
    "train": {"epochs": 3, "ema": 0.99, "optimizer": {"lr": 1e-3}, "augment": {"scale": [0.8, 1.2]}},
}
YAML = """\
# a comment
kind: train
name: no
data: cells
tags: {since: 2026-01-31, build: 012}
model:
  backbone: resnet18
  fpn: {channels: 64}
train:
  epochs: 3
  ema: 0.99
  optimizer: {lr: 1e-3}
  augment:
    scale: [.8, 1.2]
"""
TOML = """\
kind = "train"  # a comment
name = "no"
data = "cells"
tags = {since = "2026-01-31", build = "012"}
model = {backbone = "resnet18", fpn.channels = 64}
[train]
epochs = 3
ema = 0.99
optimizer.lr = 1e-3
augment.scale = [0.8, 1.2]
"""
TEXTS = {"spec.json": json.dumps(SPEC), "spec": json.dumps(SPEC), "spec.yaml": YAML, "spec.YML": YAML}
TEXTS |= {"spec.toml": TOML, "bom.toml": "\ufeff" + TOML}


def read_text(folder: Path, name: str, text: str) -> Any:
    path = folder / name
    path.write_text(text)
    return read(path)


@pytest.mark.parametrize("name", TEXTS)
def test_a_spec_is_the_same_in_every_format(tmp_path: Path, name: str):
    assert read_text(tmp_path, name, TEXTS[name]) == SPEC
    job_spec.validate_python(SPEC)


def test_yaml_has_the_values_of_json_and_can_use_aliases(tmp_path: Path):
    text = "a: &a {x: ~, y: null, z:}\nb: {<<: *a, on: off, w: true}\n1: [-1, +2.5, 1e3, .5, 0x10]\n"
    assert read_text(tmp_path, "spec.yaml", text) == {
        "a": {"x": None, "y": None, "z": None},
        "b": {"x": None, "y": None, "z": None, "on": "off", "w": True},
        "1": [-1, 2.5, 1000.0, 0.5, "0x10"],
    }


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        (
            "spec.json",
            '{"kind": "train",\n "data" "cells"}',
            "JSON: Expecting ':' delimiter: line 2 column 9",
        ),
        ("spec.json", '{"ema": NaN}', "NaN is no JSON"),
        ("spec.yaml", "kind: train\ndata: [cells\nmodel: x\n", r"YAML: .*: line 3 column 6"),
        ("spec.yaml", "kind: train\n\tdata: cells\n", r"YAML: .*: line 2 column 1"),
        ("spec.yaml", "train:\n  epochs: 3\n  epochs: 4\n", "YAML: `epochs` is there twice: line 3 column 3"),
        (
            "spec.yaml",
            "a: !!python/object/apply:os.system [ls]\n",
            r"YAML: could not determine.*line 1 column 4",
        ),
        ("spec.yaml", "a: !!timestamp 2026-01-31\n", "is no value of JSON"),
        ("spec.yaml", "a: &a [*a]\n", "YAML: Circular"),
        ("spec.yaml", "? [1]\n: a\n", "YAML: "),
        ("spec.yaml", "a: 1\n---\nb: 2\n", "line 2 column 1"),
        ("spec.yaml", "a: \x07\n", "YAML: unacceptable character"),
        ("spec.toml", 'kind = "train"\ndata = cells\n', r"TOML: .*at line 2, column 8"),
        ("spec.toml", "since = 2026-01-31\n", r"TOML: datetime.date\(2026, 1, 31\) is no value of JSON"),
        ("spec.toml", "ema = nan\n", "TOML: Out of range float"),
        ("spec.txt", "kind: train\n", "cannot be read as JSON"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_place(tmp_path: Path, name: str, text: str, told: str):
    with pytest.raises(SpecError, match=told) as caught:
        read_text(tmp_path, name, text)
    assert name in caught.value.message
    assert "\n" not in caught.value.message


def test_a_file_that_is_not_utf8_is_no_toml(tmp_path: Path):
    (tmp_path / "spec.toml").write_bytes(b"name = '\xff'\n")
    with pytest.raises(SpecError, match="TOML: 'utf-8'"):
        read(tmp_path / "spec.toml")


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(SpecError, match=r"spec\.yaml: there is no such file"):
        read(tmp_path / "spec.yaml")
