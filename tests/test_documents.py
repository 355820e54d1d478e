"""What the documents say is held against the tree, so that they cannot fall behind it unnoticed."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from jobs.specs.spec import job_spec

ROOT = Path(__file__).parent.parent
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
LISTED_ONE_BY_ONE = ("api", "jobs", "worker", "client", "gkd_core")
"""Packages whose modules the map names; folders inside them have one line for the whole."""


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_to_a_file(document: Path):
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text())
    here = [target for target in targets if "://" not in target]
    assert [target for target in here if not (document.parent / target).exists()] == []


def test_the_map_names_every_module():
    text = (ROOT / "docs" / "architecture.md").read_text()
    modules = [path for package in LISTED_ONE_BY_ONE for path in (ROOT / package).glob("*.py")]
    assert [
        str(path.relative_to(ROOT)) for path in modules if path.name not in (*_named(text), "__init__.py")
    ] == []


def test_the_map_names_no_module_that_is_gone():
    tree = (ROOT / "docs" / "architecture.md").read_text().split("```")[1]
    there = {path.name for package in LISTED_ONE_BY_ONE for path in (ROOT / package).rglob("*.py")}
    assert _named(tree) - there == set()


def test_specs_in_the_readme_are_specs():
    specs = re.findall(r"-d '(\{.*?\n\})'", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    kinds = [job_spec.validate_python(json.loads(spec)).kind for spec in specs]
    assert kinds == ["train", "distill"]


def test_every_field_of_a_spec_is_explained():
    pages = " ".join((ROOT / "docs" / name).read_text() for name in ("jobs.md", "data.md"))
    fenced, inline = (
        re.findall(r"```.*?```", pages, re.DOTALL),
        re.sub(r"```.*?```", "", pages, flags=re.DOTALL),
    )
    code = " ".join([*fenced, *re.findall(r"`([^`]+)`", inline)])
    parts = job_spec.json_schema()["$defs"].items()
    fields = {f"{part}.{name}": name for part, shape in parts for name in shape.get("properties", {})}
    assert [where for where, name in fields.items() if not re.search(rf"\b{name}\b", code)] == []


def test_every_decision_is_in_the_index():
    folder = ROOT / "docs" / "decisions"
    index = (folder / "README.md").read_text()
    assert [path.name for path in folder.glob("0*.md") if f"({path.name})" not in index] == []


def test_decisions_are_numbered_without_holes():
    numbers = sorted(int(path.name[:4]) for path in (ROOT / "docs" / "decisions").glob("0*.md"))
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_decision_carries_its_number_and_its_title_of_the_index():
    folder = ROOT / "docs" / "decisions"
    rows = re.findall(r"\| \[(\d{4})\]\((\S+)\) \| (.*) \|", (folder / "README.md").read_text())
    assert [name for number, name, _ in rows if not name.startswith(number)] == []
    headings = {name: (folder / name).read_text().splitlines()[0] for _, name, _ in rows}
    assert headings == {name: f"# {number}: {title}" for number, name, title in rows}


def test_every_decision_that_the_code_names_exists():
    numbers = {path.name[:4] for path in (ROOT / "docs" / "decisions").glob("0*.md")}
    named = re.compile(r"docs/decisions/(\d{4})")
    sources = [
        path for folder in (*LISTED_ONE_BY_ONE, "tests", "bench") for path in (ROOT / folder).rglob("*.py")
    ]
    wrong = {str(path.relative_to(ROOT)): set(named.findall(path.read_text())) - numbers for path in sources}
    assert {path: missing for path, missing in wrong.items() if missing} == {}


def test_constraints_are_pins_and_nothing_else():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert pins
    assert [line for line in pins if not re.fullmatch(r"[\w.-]+==[\w.+]+", line)] == []


def test_make_knows_six_words():
    listed = subprocess.run(
        ["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    words = re.findall(r"make (\w+)", listed)
    assert words == ["help", "setup", "demo", "check", "test", "bench", "up"]


def _named(text: str) -> set[str]:
    return set(re.findall(r"\w+\.py\b", text))
