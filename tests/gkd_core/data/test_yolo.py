"""Reading YOLO: fractions become pixels, a flawed line is left out alone, a list reads nothing outside its folder."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gkd_core.config import DataConfig, Split
from gkd_core.data.check import check
from gkd_core.data.find import find_layout
from gkd_core.data.pictures import ORIENTATION_TAG
from gkd_core.data.reading import load
from gkd_core.errors import DataError

SQUARE, DISC = "0 0.229167 0.406250 0.250000 0.437500", "1 0.6875 0.5625 0.333333 0.5"
"""Lines of boxes (10, 12, 34, 40) and (50, 20, 82, 52) in a picture of 96 x 64."""


class YoloFolder:
    """Four pictures `a` to `d` of 96 x 64, two in train and two in val, with a square and a disc each."""

    def __init__(self, folder: Path, picture: Callable[..., None]) -> None:
        self.folder = folder
        self.picture = picture
        for split, stems in (("train", "ab"), ("val", "cd")):
            for stem in stems:
                self.add(f"images/{split}/{stem}.png", f"{SQUARE}\n{DISC}\n")
        self.yaml("path: .\ntrain: images/train\nval: images/val\nnames: [square, disc]\n")

    def add(self, name: str, lines: str | None = "") -> Path:
        """Add a picture, and its labels in their place."""
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        self.picture(file, 96, 64)
        if lines is not None:
            labels = self.folder / "labels".join(name.rsplit("images", 1))
            labels = labels.with_suffix(".txt")
            labels.parent.mkdir(parents=True, exist_ok=True)
            labels.write_text(lines)
        return file

    def write(self, stem: str, *lines: str) -> None:
        (self.folder / "labels" / "train" / f"{stem}.txt").write_text("\n".join(lines))

    def yaml(self, text: str) -> None:
        (self.folder / "data.yaml").write_text(text)

    def config(self, **fields: object) -> DataConfig:
        return DataConfig.model_validate({"path": str(self.folder), **fields})


@pytest.fixture
def yolo(tmp_path: Path, picture: Callable[..., None]) -> YoloFolder:
    return YoloFolder(tmp_path / "set", picture)


def train_boxes(yolo: YoloFolder) -> list[list[float]]:
    record = load(yolo.config()).train.images[0]
    return [[round(number, 2) for number in box] for box in record.boxes.tolist()]


def test_fractions_become_pixels_and_labels_count_from_one(yolo: YoloFolder) -> None:
    data = load(yolo.config())
    assert data.classes == ("square", "disc")
    assert train_boxes(yolo) == [[10, 12, 34, 40], [50, 20, 82, 52]]
    record = data.train.images[0]
    assert (record.labels.tolist(), record.image_id) == ([1, 2], 1)
    assert record.area.tolist() == pytest.approx([672, 1024], rel=1e-3)
    assert data.warnings == ()


def test_fractions_are_of_the_picture_as_people_see_it(
    yolo: YoloFolder, picture: Callable[..., None]
) -> None:
    from PIL import Image

    exif = Image.Exif()
    exif[ORIENTATION_TAG] = 6
    picture(yolo.folder / "images" / "train" / "a.png", 64, 96, exif=exif)  # 96 x 64 when shown
    assert train_boxes(yolo) == [[10, 12, 34, 40], [50, 20, 82, 52]]


@pytest.mark.parametrize("lines", [None, "", "\n\n  \n"])
def test_a_picture_without_labels_shows_no_object(yolo: YoloFolder, lines: str | None) -> None:
    yolo.add("images/train/aa.png", lines)
    data = load(yolo.config())
    assert [len(record.boxes) for record in data.train.images] == [2, 0, 2]
    assert data.warnings == ()


def test_pictures_without_labels_are_told_when_they_are_most(yolo: YoloFolder) -> None:
    for number in range(3):
        yolo.add(f"images/train/e{number}.png", None)
    assert "most pictures have no file of labels" in load(yolo.config()).warnings[0].message
    for file in (yolo.folder / "labels" / "train").iterdir():
        file.unlink()
    with pytest.raises(DataError, match="no file of labels for any of 5 pictures"):
        load(yolo.config())


def test_labels_without_a_picture_are_told(yolo: YoloFolder) -> None:
    yolo.write("gone", SQUARE)
    yolo.write("classes", "square")
    message = load(yolo.config()).warnings[0].message
    assert "file of labels without a picture; not used (1: gone.txt)" in message


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("0 0.2 0.4 0.2", "fewer than five numbers"),
        ("0 22 26 24 28", "no fractions"),
        ("0 0.2 0.4 -0.2 0.3", "not above 0"),
        ("0 0.2 0.4 0 0.3", "not above 0"),
        ("0 0.1 0.1 50 0.1 50 40", "no fractions"),
        ("0 1.5 0.4 0.2 0.3", "lies outside the picture"),
        ("0 -0.5 0.4 0.2 0.3", "lies outside the picture"),
        ("0 nan 0.4 0.2 0.3", "finite"),
        ("0 1e999 0.4 0.2 0.3", "finite"),
        ("0 0.2 x 0.2 0.3", "finite"),
        ("square 0.2 0.4 0.2 0.3", "its class is a name"),
        ("star 0.2 0.4 0.2 0.3", "its class is no number"),
        ("0.5 0.2 0.4 0.2 0.3", "no whole number"),
        ("nan 0.2 0.4 0.2 0.3", "no whole number"),
        ("0 0.1 0.2 0.3 0.4 0.5 0.6 0.7", "neither a box nor a polygon"),
    ],
)
def test_a_flawed_line_is_left_out_and_named(yolo: YoloFolder, line: str, why: str) -> None:
    yolo.write("a", line, DISC)
    data = load(yolo.config())
    assert data.train.images[0].labels.tolist() == [2]
    [warning] = data.warnings
    assert why in warning.message
    assert "box left out" in warning.message
    assert "a.txt line 1" in warning.message


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("7 0.2 0.4 0.2 0.3", r"a\.txt line 1 has class 7, which `names` does not list \(0 square, 1 disc\)"),
        ("-1 0.2 0.4 0.2 0.3", "class -1"),
        ("1e300 0.2 0.4 0.2 0.3", "which `names` does not list"),
        ("0,0.2,0.4,0.2,0.3", "a.txt line 1 has commas"),
        ("0 0,2 0,4 0,2 0,3", "a.txt line 1 has commas"),
    ],
)
def test_a_line_that_can_mean_several_things_stops_the_reading(
    yolo: YoloFolder, line: str, message: str
) -> None:
    yolo.write("a", line, DISC)
    with pytest.raises(DataError, match=message) as caught:
        load(yolo.config())
    assert caught.value.problems[0].loc == ("data", "train", "annotations")


def test_a_class_may_be_written_as_a_decimal(yolo: YoloFolder) -> None:
    yolo.write("a", SQUARE.replace("0 ", "0.0 ", 1))
    assert train_boxes(yolo) == [[10, 12, 34, 40]]


def test_a_polygon_becomes_its_bounding_box_and_keeps_its_area(yolo: YoloFolder) -> None:
    yolo.write("a", "0 0.25 0.25 0.75 0.25 0.5 0.75")
    data = load(yolo.config())
    assert train_boxes(yolo) == [[24, 16, 72, 48]]
    assert data.train.images[0].area.tolist() == [24 * 32]
    assert "polygon; its bounding box was taken" in data.warnings[0].message


def test_scores_and_key_points_are_not_used(yolo: YoloFolder) -> None:
    yolo.write("a", f"{SQUARE} 0.87")
    assert "sixth number" in load(yolo.config()).warnings[0].message
    yolo.write("a", f"{SQUARE} 0.1 0.1 2 0.2 0.2 1")
    yolo.yaml("kpt_shape: [2, 3]\ntrain: images/train\nval: images/val\nnames: [square, disc]")
    assert train_boxes(yolo) == [[10, 12, 34, 40]]
    assert "key points" in load(yolo.config()).warnings[0].message


def test_a_box_that_sticks_out_is_clipped_and_said(yolo: YoloFolder) -> None:
    yolo.write("a", "0 0.9 0.5 0.6 0.4")
    [warning] = load(yolo.config()).warnings
    assert train_boxes(yolo) == [[57.6, 19.2, 96, 44.8]]
    assert "clipped" in warning.message
    assert warning.hint == ""


@pytest.mark.parametrize(
    ("line", "box", "most"),
    [
        ("0 0.50 -0.06 0.70 0.20 0.50 0.46 0.30 0.20", [28.8, 0, 67.2, 29.44], 640),  # rotated box
        ("0 0.5 0.6 0.7 0.8 0.5 1.04 0.3 0.8", [28.8, 38.4, 67.2, 64], 640),
        ("0 -0.2 0.5 1.2 0.5 0.5 1.5", [0, 32, 96, 64], 96 * 32),  # outline over three borders
        ("0 -0.05 0.25 0.3 0.25 0.1 0.5", [0, 16, 28.8, 32], 28.8 * 16),
        ("0 1.05 0.5 0.3 0.5", [86.4, 16, 96, 48], 9.6 * 32),  # centre outside
        ("0 -0.05 -0.05 0.3 0.5", [0, 0, 9.6, 12.8], 9.6 * 12.8),
        ("0 0.5 0.5 1.4 1.2", [0, 0, 96, 64], 96 * 64),  # over all borders
    ],
)
def test_bounds_are_taken_first_and_clipped_then(
    yolo: YoloFolder, line: str, box: list[float], most: float
) -> None:
    yolo.write("a", line)
    data = load(yolo.config())
    [found] = train_boxes(yolo)
    assert found == pytest.approx(box, abs=0.02)
    assert data.train.images[0].area[0] <= most + 0.1
    told = [warning.message for warning in data.warnings]
    assert any("box sticks out of the picture; clipped (1: a.txt line 1)" in text for text in told)


@pytest.mark.parametrize(
    "suffix", ["JPG", "jfif", "mpo", "pgm", "PNM", "BMP", "tiff", "Jpe", "webp", "jp2", "dib"]
)
def test_pictures_of_any_suffix_count_in_either_case(yolo: YoloFolder, suffix: str) -> None:
    (yolo.folder / "images/train/a.png").rename(yolo.folder / f"images/train/a.{suffix}")
    data = load(yolo.config())
    assert [(record.path.name, len(record.boxes)) for record in data.train.images] == [
        (f"a.{suffix}", 2),
        ("b.png", 2),
    ]
    assert data.warnings == ()


def test_labels_that_are_no_text_cost_their_picture(yolo: YoloFolder) -> None:
    (yolo.folder / "labels" / "train" / "a.txt").write_bytes(bytes(range(128, 256)))
    data = load(yolo.config())
    assert [record.path.stem for record in data.train.images] == ["b"]
    assert "picture left out: its labels are no text (1: a.txt)" in data.warnings[0].message


def test_a_set_in_pixels_is_told_why_nothing_is_left(yolo: YoloFolder) -> None:
    for stem in "ab":
        yolo.write(stem, "0 22 26 24 28")
    with pytest.raises(
        DataError, match="not one usable box on 2 pictures; box left out: its numbers are no fractions"
    ):
        load(yolo.config())


# ---- classes -----------------------------------------------------------------------------------------------


def test_nothing_in_data_yaml_is_ever_run(yolo: YoloFolder, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    script = f"download: |\n  open({str(mark)!r}, 'w')\n"
    yolo.yaml(f"train: images/train\nval: images/val\nnames: [square, disc]\n{script}")
    warnings = load(yolo.config()).warnings
    assert any("nothing is downloaded or run" in warning.message for warning in warnings)
    assert not mark.exists()


def test_class_numbers_may_have_gaps_and_names_may_be_shared(yolo: YoloFolder) -> None:
    yolo.yaml("train: images/train\nval: images/val\nnames: {0: thing, 1: thing, 7: other}")
    data = load(yolo.config())
    assert data.classes == ("thing", "other")
    assert data.train.images[0].labels.tolist() == [1, 1]
    assert any("several classes have one name" in warning.message for warning in data.warnings)


def test_a_split_that_is_spelt_out_needs_names(yolo: YoloFolder) -> None:
    places = {"images": str(yolo.folder / "images/train"), "annotations": str(yolo.folder / "labels/train")}
    with pytest.raises(DataError, match="nothing names the classes") as caught:
        load(DataConfig(format="yolo", train=Split(**places), val=Split(**places)))
    assert caught.value.problems[0].loc == ("data", "train", "names")


# ---- pictures ----------------------------------------------------------------------------------------------


def listed(yolo: YoloFolder, text: str) -> list[str]:
    """Return the pictures of train, named by a list."""
    (yolo.folder / "train.txt").write_text(text)
    yolo.yaml("train: train.txt\nval: images/val\nnames: [square, disc]")
    return [record.path.name for record in load(yolo.config()).train.images]


@pytest.mark.parametrize(
    "text",
    [
        "./images/train/b.png\nimages/train/a.png\n",
        "\ufeffimages/train/b.png\r\n\r\nimages/train/a.png",
        "{folder}/images/train/b.png\n{folder}/images/train/a.png",
        "images/train/../train/b.png\nimages/train/a.png\nimages/train/b.png",
    ],
)
def test_a_text_file_may_list_the_pictures(yolo: YoloFolder, text: str) -> None:
    assert listed(yolo, text.format(folder=yolo.folder)) == ["b.png", "a.png"]


@pytest.mark.parametrize(
    "line", ["../secret.png", "/etc/passwd", "images/../../secret.png", "images/a\0.png"]
)
def test_a_list_names_nothing_outside_the_folder(yolo: YoloFolder, line: str) -> None:
    yolo.picture(yolo.folder.parent / "secret.png", 8, 8)
    with pytest.raises(DataError, match="leads out of") as caught:
        listed(yolo, f"images/train/a.png\n{line}")
    assert caught.value.problems[0].loc == ("data", "train", "images")


@pytest.mark.parametrize("place", ["images", "labels"])
def test_links_inside_the_folder_are_followed_for_a_list(
    yolo: YoloFolder, tmp_path: Path, place: str
) -> None:
    (tmp_path / "elsewhere").mkdir()
    yolo.picture(tmp_path / "elsewhere" / "x.png", 96, 64)
    (yolo.folder / "images" / "linked").mkdir()
    yolo.picture(yolo.folder / "images" / "linked" / "x.png", 96, 64)
    link = yolo.folder / place / "linked"
    if link.exists():
        (link / "x.png").unlink()
        link.rmdir()
    link.symlink_to(tmp_path / "elsewhere")
    assert listed(yolo, "images/train/a.png\nimages/linked/x.png") == ["a.png", "x.png"]


def test_a_missing_picture_of_a_list_is_named(yolo: YoloFolder) -> None:
    with pytest.raises(DataError, match=r"1 of 2 pictures \(images/train/z.png\)"):
        listed(yolo, "images/train/a.png\nimages/train/z.png")
    with pytest.raises(DataError, match="missing in"):
        listed(yolo, "images/train/a.png\n" + "x" * 5000)


def test_several_folders_and_lists_make_one_split(yolo: YoloFolder) -> None:
    yolo.add("more/images/e.png", SQUARE)
    yolo.add("even/images/f.png", DISC)
    (yolo.folder / "list.txt").write_text("even/images/f.png\n")
    yolo.yaml("train: [images/train, more/images, list.txt]\nval: images/val\nnames: [square, disc]")
    data = load(yolo.config())
    assert [record.path.name for record in data.train.images] == ["a.png", "b.png", "e.png", "f.png"]
    assert [record.labels.tolist() for record in data.train.images] == [[1, 2], [1, 2], [1], [2]]


def test_a_folder_that_is_one_of_several_must_lie_in_the_data_set(yolo: YoloFolder, tmp_path: Path) -> None:
    yolo.picture(tmp_path / "x.png", 8, 8)
    yolo.yaml(f"train: [images/train, {tmp_path}]\nval: images/val\nnames: [square, disc]")
    with pytest.raises(DataError, match="leads out of"):
        load(yolo.config())


@pytest.mark.parametrize(
    "train", ["[images/train, {alias}/images/val]", "{alias}/list.txt", "[{alias}, list.txt]"]
)
def test_the_folder_may_be_called_by_another_name(yolo: YoloFolder, tmp_path: Path, train: str) -> None:
    alias = (
        tmp_path / "alias"
    )  # such as a root that is a link, and paths that were written before it was resolved
    alias.symlink_to(yolo.folder)
    (yolo.folder / "list.txt").write_text(f"{alias}/images/train/a.png")
    yolo.yaml(f"train: {train.format(alias=alias)}\nval: images/val\nnames: [square, disc]")
    records = load(yolo.config()).train.images
    assert records[0].path == yolo.folder / "images" / "train" / "a.png"
    assert all(len(record.boxes) == 2 for record in records)


def test_pictures_may_lie_deeper_and_share_no_labels(yolo: YoloFolder) -> None:
    yolo.add("images/train/night/a.png", DISC)
    yolo.add("images/train/b.jpg", None)
    data = load(yolo.config())
    assert [record.labels.tolist() for record in data.train.images] == [[1, 2], [1, 2], [1, 2], [2]]
    assert "pictures share one file of labels (1: b.jpg, b.png)" in data.warnings[0].message


# ---- layouts -----------------------------------------------------------------------------------------------


def test_roboflow_writes_paths_of_the_parent_folder(tmp_path: Path, picture: Callable[..., None]) -> None:
    yolo = YoloFolder(tmp_path / "set", picture)
    for split in ("train", "valid"):
        yolo.add(f"{split}/images/x.png", f"{SQUARE}\n{DISC}")
    yolo.yaml(
        "train: ../train/images\nval: ../valid/images\nnc: 2\nnames: ['square', 'disc']\nroboflow:\n  x: y"
    )
    data = load(yolo.config())
    assert data.train.images[0].path == yolo.folder / "train" / "images" / "x.png"
    assert data.warnings == ()


def test_paths_of_another_machine_are_replaced_by_the_usual_ones_and_said(yolo: YoloFolder) -> None:
    yolo.yaml("path: /content/set\ntrain: /content/set/images/train\nval: images/val\nnames: [square, disc]")
    data = load(yolo.config())
    assert len(data.train.images) == 2
    [warning] = data.warnings
    assert "names another place for the pictures" in warning.message
    assert "/content/set/images/train" in warning.message


def test_classes_txt_does_where_there_is_no_data_yaml(yolo: YoloFolder) -> None:
    (yolo.folder / "data.yaml").unlink()
    (yolo.folder / "labels" / "classes.txt").write_text("square\ndisc\n")
    assert load(yolo.config()).classes == ("square", "disc")


def test_a_text_among_the_pictures_is_not_taken_for_labels(yolo: YoloFolder) -> None:
    (yolo.folder / "images" / "train" / "README.txt").write_text("0 0.5 0.5 1 1")
    assert train_boxes(yolo) == [[10, 12, 34, 40], [50, 20, 82, 52]]


def test_labels_may_lie_beside_their_pictures(tmp_path: Path, picture: Callable[..., None]) -> None:
    yolo = YoloFolder(tmp_path / "set", picture)
    for split in ("train", "val"):
        yolo.add(f"obj_{split}/x.png", SQUARE)
    yolo.yaml("train: obj_train\nval: obj_val\nnames: [square, disc]")
    assert train_boxes(yolo) == [[10, 12, 34, 40]]


def test_a_folder_above_images_and_labels_will_do(tmp_path: Path, picture: Callable[..., None]) -> None:
    yolo = YoloFolder(tmp_path / "set", picture)
    for split in ("learn", "judge"):
        yolo.add(f"{split}/images/x.png", SQUARE)
    yolo.yaml("train: learn\nval: judge\nnames: [square, disc]")
    assert train_boxes(yolo) == [[10, 12, 34, 40]]


def test_the_data_yaml_itself_may_be_named_and_lie_elsewhere(yolo: YoloFolder, tmp_path: Path) -> None:
    (tmp_path / "cells.yaml").write_text(
        "path: set\ntrain: images/train\nval: images/val\nnames: [square, disc]"
    )
    found = find_layout(DataConfig(path=str(tmp_path / "cells.yaml")))
    assert found.train == Split(
        images=str(yolo.folder / "images" / "train"),
        annotations=str(yolo.folder / "labels" / "train"),
        names=str(tmp_path / "cells.yaml"),
    )
    assert load(found).warnings == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [a", "data.yaml is not YAML"),
        ("train: nowhere\nval: images/val\nnames: [a]", "names 'nowhere' for train"),
        ("train: [images/val, nowhere]\nval: images/val\nnames: [a]", "names 'nowhere' for train"),
        ("val: images/val\nnames: [a]", "names nothing for train"),
    ],
)
def test_a_wrong_data_yaml_is_an_error_of_the_path(yolo: YoloFolder, text: str, message: str) -> None:
    (yolo.folder / "images" / "train").rename(yolo.folder / "images" / "learn")
    yolo.yaml(text)
    with pytest.raises(DataError, match=message) as caught:
        load(yolo.config())
    assert caught.value.problems[0].loc == ("data", "path")


@pytest.mark.parametrize("train", ["images/train", "train.txt", "[images/train, images/more]"])
def test_everything_that_is_read_lies_in_what_the_resolved_config_names(yolo: YoloFolder, train: str) -> None:
    yolo.add("images/more/e.png", SQUARE)
    (yolo.folder / "train.txt").write_text("images/train/a.png\n")
    yolo.yaml(f"train: {train}\nval: images/val\nnames: [square, disc]")
    found = check(yolo.config()).resolved
    assert found.train is not None
    allowed = [Path(path) for path in (found.train.images, found.train.annotations)]
    for record in load(found).train.images:
        assert any(record.path.is_relative_to(path) for path in allowed)
    assert check(found) == check(yolo.config())


@pytest.mark.parametrize("name", ["data.yaml", "train.txt", "labels/train/a.txt"])
def test_any_byte_may_be_odd_without_a_traceback(yolo: YoloFolder, name: str) -> None:
    (yolo.folder / "train.txt").write_text("images/train/a.png\nimages/train/b.png\n")
    yolo.yaml(
        "path: .\ntrain: [train.txt, images/val]\nval: images/val\nnc: 2\nnames: {0: square, 1: disc}\n"
    )
    sound = (yolo.folder / name).read_bytes()
    for seed in range(150):
        rng = np.random.default_rng(seed)
        content = bytearray(sound)
        for position in rng.integers(0, len(content), rng.integers(1, 5)):
            content[position] = rng.choice(list(b"\0\n .,:-[]{}&*!?/0189eEnN~\x80\xff"))
        (yolo.folder / name).write_bytes(content)
        try:
            data = load(yolo.config())
        except DataError as error:
            assert error.problems  # noqa: PT017
        else:
            assert all(np.isfinite(record.boxes).all() for record in data.train.images)
