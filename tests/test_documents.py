"""The documents are compared with the tree, so that no outdated statement goes unnoticed."""

from __future__ import annotations

import configparser
import json
import re
import subprocess
from pathlib import Path

import pytest

from jobs.specs.spec import job_spec

ROOT = Path(__file__).parent.parent
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "recipes" / "README.md"]
PACKAGES = ("api", "jobs", "worker", "client", "gkd_core")
VOCABULARY = "0001-name-rooms-and-symbols-by-the-fields-terms.md"
"""The one page, beside the changelog, that names modules as they were called before."""
PAGES = [path for path in DOCUMENTS if path.name not in (VOCABULARY, "CHANGELOG.md")]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_to_a_file(document: Path):
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text())
    here = [target for target in targets if "://" not in target]
    assert [target for target in here if not (document.parent / target).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_anchor_of_a_link_is_a_heading(document: Path):
    links = re.findall(r"\]\(([^)#:\s]*)#([^)\s]+)\)", document.read_text())
    pages = {target: document.parent / target if target else document for target, _ in links}
    assert [anchor for target, anchor in links if anchor not in _anchors(pages[target])] == []


def test_the_map_names_the_rooms_of_the_tree_and_no_others():
    rooms = {
        f"{path.parent.relative_to(ROOT).as_posix()}/"
        for package in PACKAGES
        for path in [*(ROOT / package).glob("__init__.py"), *(ROOT / package).glob("*/__init__.py")]
    }
    assert set(re.findall(r"^\| `([\w/]+/)` \|", _architecture(), re.MULTILINE)) == rooms


def test_the_map_has_the_order_of_imports_that_is_enforced():
    rules = configparser.ConfigParser()
    rules.read(ROOT / ".importlinter")
    layers = [rules[section]["layers"] for section in rules.sections() if "layers" in rules[section]]
    orders = [re.sub(r"\b(jobs|gkd_core)\.", "", " > ".join(text.split("\n")[1:])) for text in layers]
    assert _architecture().split("```")[1].strip().splitlines() == orders


@pytest.mark.parametrize("document", PAGES, ids=lambda path: path.name)
def test_every_module_that_a_page_names_exists(document: Path):
    named = re.findall(rf"`((?:{'|'.join(PACKAGES)}|tests|bench)/[\w/]+\.py)`", document.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_specs_in_the_readme_are_specs():
    specs = re.findall(r"-d '(\{.*?\n\})'", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    kinds = [job_spec.validate_python(json.loads(spec)).kind for spec in specs]
    assert kinds == ["train", "distill"]


def test_every_field_of_a_spec_is_explained():
    pages = " ".join((ROOT / "docs" / name).read_text() for name in ("jobs.md", "data.md", "losses.md"))
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


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "README.md").read_text()
    pages = [path.name for path in (ROOT / "docs").glob("*.md") if path.name != "README.md"]
    assert [name for name in pages if f"({name})" not in index] == []


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
    sources = [path for folder in (*PACKAGES, "tests", "bench") for path in (ROOT / folder).rglob("*.py")]
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


def _architecture() -> str:
    return (ROOT / "docs" / "architecture.md").read_text()


def _anchors(document: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
