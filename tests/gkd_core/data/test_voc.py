"""Reading VOC: one XML a picture, nothing executed or fetched, a broken file costs its picture alone."""

from collections.abc import Callable
from pathlib import Path
from xml.parsers.expat import ExpatError

import pytest

from gkd_core.config import DataConfig
from gkd_core.data.check import check
from gkd_core.data.reading import load
from gkd_core.data.voc import parse_xml
from gkd_core.errors import DataError

OBJECT = (
    "<object><name>{name}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>"
    "{more}</object>"
)


class VocFolder:
    """Four pictures `a` to `d` of 96 x 64, two in train and two in val, with a square and a disc each."""

    def __init__(self, folder: Path, picture: Callable[..., None]) -> None:
        self.folder = folder
        for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
            (folder / name).mkdir(parents=True)
        for stem in "abcd":
            picture(folder / "JPEGImages" / f"{stem}.jpg", 96, 64)
            self.write(stem, self.object("square", 10, 12, 34, 40) + self.object("disc", 50, 20, 82, 52))
        self.list("train", "a\nb\n")
        self.list("val", "c\nd\n")

    @staticmethod
    def object(name: str, *corners: object, more: str = "") -> str:
        return OBJECT.format(*corners, name=name, more=more)

    def write(self, stem: str, objects: str) -> None:
        size = "<size><width>96</width><height>64</height></size>"
        xml = f"<annotation><filename>{stem}.jpg</filename>{size}{objects}</annotation>"
        (self.folder / "Annotations" / f"{stem}.xml").write_text(xml)

    def list(self, split: str, text: str) -> None:
        (self.folder / "ImageSets" / "Main" / f"{split}.txt").write_text(text)

    def config(self) -> DataConfig:
        return DataConfig(path=str(self.folder))


@pytest.fixture
def voc(tmp_path: Path, picture: Callable[..., None]) -> VocFolder:
    return VocFolder(tmp_path, picture)


def test_corners_are_taken_as_they_stand(voc: VocFolder) -> None:
    data = load(voc.config())
    assert data.classes == ("disc", "square")
    assert data.train.images[0].boxes.tolist() == [[10, 12, 34, 40], [50, 20, 82, 52]]
    assert data.train.images[0].labels.tolist() == [2, 1]
    assert [record.image_id for record in data.train.images] == [1, 2]
    assert data.warnings == ()


def test_difficult_objects_are_kept_apart(voc: VocFolder) -> None:
    disc = voc.object("disc", 50, 20, 82, 52, more="<difficult>1</difficult>")
    voc.write("a", voc.object("square", 10, 12, 34, 40) + disc)
    assert load(voc.config()).train.images[0].crowd.tolist() == [False, True]


def test_truncated_objects_are_objects_and_counted(voc: VocFolder) -> None:
    disc = voc.object("disc", 50, 20, 82, 52, more="<truncated>1</truncated>")
    voc.write("a", voc.object("square", 10, 12, 34, 40) + disc)
    report = check(voc.config())
    assert (report.train.boxes, report.train.truncated, report.val.truncated) == (4, 1, 0)
    assert load(voc.config()).train.images[0].crowd.tolist() == [False, False]


@pytest.mark.parametrize(
    ("text", "difficult", "remark"),
    [
        ("1", True, False),
        (" true ", True, False),
        ("True", True, False),
        ("0", False, False),
        ("false", False, False),
        ("Unspecified", False, True),
        ("", False, True),
        ("2", False, True),
    ],
)
def test_flags_are_read_strictly(voc: VocFolder, text: str, difficult: bool, remark: bool) -> None:
    disc = voc.object("disc", 50, 20, 82, 52, more=f"<difficult>{text}</difficult>")
    voc.write("a", voc.object("square", 10, 12, 34, 40) + disc)
    data = load(voc.config())
    assert data.train.images[0].crowd.tolist() == [False, difficult]
    told = [warning.message for warning in data.warnings]
    assert any("`difficult` is neither 0, 1, true nor false" in text for text in told) == remark
    assert any("a.xml object 2" in text for text in told) == remark


def test_a_part_of_an_object_is_no_object(voc: VocFolder) -> None:
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></part>"
    voc.write("a", voc.object("square", 10, 12, 34, 40, more=part))
    data = load(voc.config())
    assert len(data.train.images[0].boxes) == 1
    assert "head" not in data.classes


@pytest.mark.parametrize("corners", [(34, 12, 10, 40), (10, 12, 10, 40), ("nan", 1, 2, 3), ("ten", 1, 2, 3)])
def test_a_flawed_object_is_left_out_and_named(voc: VocFolder, corners: tuple[object, ...]) -> None:
    voc.write("a", voc.object("square", *corners) + voc.object("disc", 50, 20, 82, 52))
    data = load(voc.config())
    assert len(data.train.images[0].boxes) == 1
    assert "a.xml object 1" in data.warnings[0].message


@pytest.mark.parametrize(
    "text", ["", "<annotation>", "<html/>", '<!DOCTYPE a [<!ENTITY x "y">]><annotation/>']
)
def test_a_picture_whose_xml_is_no_good_is_left_out_and_named(voc: VocFolder, text: str) -> None:
    (voc.folder / "Annotations" / "a.xml").write_text(text)
    data = load(voc.config())
    assert [record.path.stem for record in data.train.images] == ["b"]
    assert "a.xml" in data.warnings[0].message


def test_entities_are_never_expanded() -> None:
    bomb = b'<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;">]><annotation>&y;</annotation>'
    with pytest.raises(ValueError, match="DOCTYPE"):
        parse_xml(bomb)
    with pytest.raises(ExpatError):
        parse_xml(b"<annotation>&y;</annotation>")


@pytest.mark.parametrize(
    "text", ["a\r\nb\r\n", "\na\n\n  b  \n", "a  1\nb -1\n", "a.jpg\nb.jpg\n", "a\na\nb\n", "\ufeffa\nb"]
)
def test_lists_are_read_in_all_their_dialects(voc: VocFolder, text: str) -> None:
    voc.list("train", text)
    assert [record.path.name for record in load(voc.config()).train.images] == ["a.jpg", "b.jpg"]


def test_a_stem_that_leads_out_of_the_folder_is_refused(voc: VocFolder) -> None:
    (voc.folder / "secret.xml").write_text("<annotation/>")
    voc.list("train", "a\n../secret\n")
    data = load(voc.config())
    assert len(data.train.images) == 1
    assert "no plain file name" in data.warnings[0].message


def test_a_list_of_nothing_usable_is_an_error(voc: VocFolder) -> None:
    voc.list("train", "x\ny\n")
    with pytest.raises(DataError, match="none of the 2 listed pictures"):
        load(voc.config())


def test_val_may_lack_a_class_but_not_add_one(voc: VocFolder) -> None:
    for stem in "cd":
        voc.write(stem, voc.object("square", 10, 12, 34, 40))
    data = load(voc.config())
    assert data.val.images[0].labels.tolist() == [2]
    assert any("disc" in problem.message for problem in data.warnings)
    voc.write("c", voc.object("Disc", 10, 12, 34, 40))
    with pytest.raises(DataError, match=r"'Disc' .did you mean 'disc'"):
        load(voc.config())


# ---- which picture -----------------------------------------------------------------------------------------


def filename(voc: VocFolder, stem: str, name: str | None) -> None:
    """Set the file name in the XML of a picture, or remove it."""
    file = voc.folder / "Annotations" / f"{stem}.xml"
    given = "" if name is None else f"<filename>{name}</filename>"
    file.write_text(file.read_text().replace(f"<filename>{stem}.jpg</filename>", given))


def read(voc: VocFolder) -> tuple[list[str], str]:
    """Return the pictures of train, and all remarks."""
    data = load(voc.config())
    return [record.path.name for record in data.train.images], " | ".join(w.message for w in data.warnings)


@pytest.mark.parametrize(
    "suffix", sorted({"JPG", "BMP", "Png", "TIF", "jfif", "jpe", "mpo", "pgm", "PPM", "jp2"})
)
def test_pictures_of_any_suffix_are_found_in_either_case(
    voc: VocFolder, picture: Callable[..., None], suffix: str
) -> None:
    (voc.folder / "JPEGImages" / "a.jpg").rename(voc.folder / "JPEGImages" / f"a.{suffix}")
    filename(voc, "a", f"a.{suffix}")
    assert read(voc) == ([f"a.{suffix}", "b.jpg"], "")


@pytest.mark.parametrize(
    "name", ["a.png", "JPEGImages/a.png", r"C:\\Users\\me\\a.png", "A.PNG", "\n  a.png\n"]
)
def test_the_file_name_tells_pictures_with_one_stem_apart(
    voc: VocFolder, picture: Callable[..., None], name: str
) -> None:
    picture(voc.folder / "JPEGImages" / "a.png", 96, 64)
    filename(voc, "a", name)
    found, told = read(voc)
    assert found == ["a.png", "b.jpg"]
    assert "several pictures share a stem; the one that `filename` names was used (1: a.png)" in told


@pytest.mark.parametrize("name", [None, "", "a", "other.jpg"])
def test_where_the_file_name_names_none_the_stem_decides_and_it_is_said(
    voc: VocFolder, picture: Callable[..., None], name: str | None
) -> None:
    picture(voc.folder / "JPEGImages" / "a.png", 96, 64)
    filename(voc, "a", name)
    found, told = read(voc)
    assert found == ["a.jpg", "b.jpg"]
    assert "several pictures share a stem and `filename` names none; the first was used (1: a.jpg)" in told


def test_a_file_name_of_another_stem_decides_and_is_said(
    voc: VocFolder, picture: Callable[..., None]
) -> None:
    picture(voc.folder / "JPEGImages" / "IMG_1.png", 96, 64)
    filename(voc, "a", "IMG_1.png")
    found, told = read(voc)
    assert found == ["IMG_1.png", "b.jpg"]
    assert "`filename` has another stem than the XML; the picture that it names was used (1: a.xml)" in told


def test_a_file_name_that_was_copied_along_does_not_decide(voc: VocFolder) -> None:
    filename(voc, "b", "a.jpg")
    found, told = read(voc)
    assert found == ["a.jpg", "b.jpg"]
    assert "names the picture of another XML too; the one with the XML's stem was used (1: b.xml)" in told


def test_a_file_name_that_is_not_there_gives_way_to_the_stem_and_is_said(voc: VocFolder) -> None:
    filename(voc, "a", "a.png")
    found, told = read(voc)
    assert found == ["a.jpg", "b.jpg"]
    assert (
        "`filename` names no picture that is there; the one with the XML's stem was used (1: a.xml)" in told
    )


def test_a_missing_picture_is_called_as_the_file_name_says(voc: VocFolder) -> None:
    (voc.folder / "JPEGImages" / "a.jpg").unlink()
    filename(voc, "a", "a.tif")
    with pytest.raises(DataError, match=r"missing in .*: 1 of 2 pictures \(a\.tif\)"):
        load(voc.config())


def test_no_file_name_leads_out_of_the_folder_of_pictures(
    voc: VocFolder, picture: Callable[..., None]
) -> None:
    picture(voc.folder / "secret.jpg", 96, 64)
    filename(voc, "a", "../secret.jpg")
    assert read(voc)[0] == ["a.jpg", "b.jpg"]


def test_case_of_xml_and_picture_may_differ(voc: VocFolder) -> None:
    (voc.folder / "JPEGImages" / "a.jpg").rename(voc.folder / "JPEGImages" / "A.JPG")
    (voc.folder / "Annotations" / "a.xml").rename(voc.folder / "Annotations" / "a.XML")
    assert read(voc)[0] == ["A.JPG", "b.jpg"]
