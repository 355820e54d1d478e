"""Paths stay under the roots, in any spelling."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.paths.data_roots import DataRootError, DataRoots


@pytest.fixture
def roots(tmp_path: Path) -> list[Path]:
    """Return two roots with a file each, and a secret beside them."""
    for name in ("first", "second", "secret"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.txt").touch()
    return [tmp_path / "first", tmp_path / "second"]


def test_relative_paths_are_looked_up_in_every_root(roots: list[Path]) -> None:
    places = DataRoots(roots)
    assert places.find("first.txt") == roots[0] / "first.txt"
    assert places.find("second.txt") == roots[1] / "second.txt"


def test_an_absolute_path_under_a_root_is_fine(roots: list[Path]) -> None:
    assert DataRoots(roots).find(str(roots[1] / "second.txt")) == roots[1] / "second.txt"


@pytest.mark.parametrize(
    "text",
    [
        "../secret/secret.txt",
        "{tmp}/secret/secret.txt",
        "/etc/passwd",
        "first/../../secret",
        "..",
        "link/secret.txt",
    ],
)
def test_a_path_that_leaves_the_roots_is_refused(roots: list[Path], tmp_path: Path, text: str) -> None:
    (roots[0] / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(DataRootError, match="leaves the data roots"):
        DataRoots(roots).find(text.format(tmp=tmp_path))


def test_whether_something_lies_outside_is_not_told(roots: list[Path], tmp_path: Path) -> None:
    answers = []
    for name in ("secret", "nothing"):
        with pytest.raises(DataRootError) as refusal:
            DataRoots(roots).find(str(tmp_path / name))
        answers.append(str(refusal.value).replace(name, "X"))
    assert answers[0] == answers[1]


def test_a_link_inside_a_root_is_followed(roots: list[Path]) -> None:
    (roots[0] / "link").symlink_to(roots[1])
    assert DataRoots(roots).find("link/second.txt") == roots[1] / "second.txt"


def test_a_root_may_itself_be_a_link(roots: list[Path], tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(roots[0])
    assert DataRoots([tmp_path / "data"]).find("first.txt") == roots[0] / "first.txt"


def test_what_is_not_there_is_named_with_where_it_was_looked_for(roots: list[Path]) -> None:
    with pytest.raises(DataRootError, match=r"there is no 'cells' under .*first or .*second"):
        DataRoots(roots).find("cells")


@pytest.mark.parametrize("text", ["a\0b", "x" * 5000, "loop"])
def test_what_is_no_path_is_refused_in_words(roots: list[Path], text: str) -> None:
    (roots[0] / "loop").symlink_to(roots[0] / "loop")
    with pytest.raises(DataRootError):
        DataRoots(roots).find(text)


def test_a_person_on_the_own_machine_may_read_anything(roots: list[Path], tmp_path: Path) -> None:
    places = DataRoots([roots[0]], confined=False)
    assert places.find("../secret/secret.txt") == tmp_path / "secret" / "secret.txt"
    assert places.find(str(tmp_path / "secret")) == tmp_path / "secret"
    assert places.find("first.txt") == roots[0] / "first.txt"


def test_a_folder_found_inside_a_root_must_not_lead_out(roots: list[Path], tmp_path: Path) -> None:
    (roots[0] / "images").symlink_to(tmp_path / "secret")
    with pytest.raises(DataRootError, match="leads out of the data roots by a link"):
        DataRoots(roots).must_allow(roots[0] / "images")
    DataRoots(roots).must_allow(roots[0] / "first.txt")


def test_links_out_of_a_folder_are_named_and_counted(roots: list[Path], tmp_path: Path) -> None:
    (roots[0] / "a" / "b").mkdir(parents=True)
    for name in ("one", "two", "a/three", "a/b/four"):
        (roots[0] / name).symlink_to(tmp_path / "secret")
    (roots[0] / "fine").symlink_to(roots[1])
    with pytest.raises(DataRootError, match=r"4 links lead out of the data roots: .*three.* and 1 more"):
        DataRoots(roots).must_allow_all_in(roots[0])


def test_circles_of_links_inside_the_roots_end_and_are_allowed(roots: list[Path]) -> None:
    (roots[0] / "back").symlink_to(roots[0])
    (roots[0] / "other").symlink_to(roots[1])
    (roots[1] / "first").symlink_to(roots[0])
    (roots[0] / "itself").symlink_to(roots[0] / "itself")
    (roots[0] / "gone").symlink_to(roots[0] / "nothing")
    DataRoots(roots).must_allow_all_in(roots[0])


def test_a_misspelt_path_gets_the_nearest_of_its_neighbours(roots: list[Path]) -> None:
    with pytest.raises(DataRootError) as caught:
        DataRoots(roots).find("secnd.txt")
    assert caught.value.hint.startswith("Did you mean 'second.txt'?")


def test_a_path_that_is_too_long_is_not_repeated_in_full(roots: list[Path]) -> None:
    with pytest.raises(DataRootError, match="is no path: File name too long") as caught:
        DataRoots(roots).find("x" * 5000)
    assert len(caught.value.message) < 300
