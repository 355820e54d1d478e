"""Boxes drawn on pictures: visible on any background, with any name."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from PIL import Image, ImageColor

from gkd_core.figures import drawing
from gkd_core.figures.drawing import COLOURS, draw_boxes, free_plate, lettering, readable_on


@pytest.fixture(autouse=True)
def fresh() -> None:
    for cached in (drawing.lettering, drawing._has_glyph, drawing._glyph, drawing._font):
        cached.cache_clear()


def drawn(
    background: str, box: tuple[float, ...], name: str = "cell", size: tuple[int, int] = (200, 160)
) -> Image.Image:
    image = Image.new("RGB", size, background)
    return draw_boxes(image, np.array([box]), np.array([1]), np.array([0.5]), [name])


def contrast(one: str, other: str) -> float:
    """Return the contrast of WCAG 2.2, of colours of known luminance."""
    shares = [np.array(ImageColor.getrgb(colour)) / 255 for colour in (one, other)]
    linear = [np.where(s <= 0.04045, s / 12.92, ((s + 0.055) / 1.055) ** 2.4) for s in shares]
    bright, dark = sorted((float(values @ [0.2126, 0.7152, 0.0722]) for values in linear), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("background", ["white", "black", "gray", *COLOURS])
def test_a_box_is_seen_on_any_background(background: str) -> None:
    """Check both colours: that of the box or its dark edge may be the background's, but never both."""
    image = drawn(background, (50, 60, 150, 140))
    around = {image.getpixel((x, 100)) for x in range(40, 60)}
    seen = [f"rgb({','.join(map(str, pixel))})" for pixel in around]
    assert max(contrast(colour, background) for colour in seen) >= 2


@pytest.mark.parametrize("colour", COLOURS)
def test_letters_stand_out_on_their_plate(colour: str) -> None:
    assert contrast(readable_on(colour), colour) >= 4.5


@pytest.mark.parametrize(
    "box",
    [
        (0, 0, 200, 160),
        (-50, -50, 20, 20),
        (190, 150, 400, 300),
        (100, 80, 100, 80),
        (150.4, 0.2, 199.9, 159.9),
        (300, 300, 400, 400),
    ],
    ids=["all", "out at the top", "out at the bottom", "empty", "broken pixels", "beside it"],
)
def test_a_box_may_lie_anywhere(box: tuple[float, ...]) -> None:
    image = drawn("white", box)
    assert image.size == (200, 160)
    assert image.tobytes() != Image.new("RGB", (200, 160), "white").tobytes()


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (8, 8)])
def test_a_picture_may_be_tiny(size: tuple[int, int]) -> None:
    assert drawn("white", (0, 0, *size), size=size).size == size


def test_the_picture_itself_stays_as_it_was() -> None:
    image = Image.new("RGB", (50, 50), "white")
    before = image.tobytes()
    draw_boxes(image, np.array([[5, 5, 30, 30]]), np.array([1]), np.array([0.5]), ["cell"])
    assert image.tobytes() == before


def test_no_box_draws_nothing() -> None:
    image = Image.new("RGB", (50, 50), "teal")
    empty = draw_boxes(image, np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0), ["cell"])
    assert empty.tobytes() == image.tobytes()


@pytest.mark.parametrize("name", ["RBC", "Зелёный", "μ-Opfer", "كرية", "$x_2$", "a  b\nc"])
def test_names_are_written_as_they_are(name: str) -> None:
    text, file = lettering(name, 7)
    assert text == " ".join(name.split())
    assert file is not None


@pytest.mark.parametrize("name", ["\U0001f9a0\U0010ffff", "\0", "", " ", "\ud800"])
def test_what_no_font_can_write_is_a_number(name: str) -> None:
    assert lettering(name, 7)[0].startswith("#7")
    drawn("white", (50, 60, 150, 140), name)


def test_long_names_are_shortened() -> None:
    assert len(lettering("cell " * 100, 1)[0]) <= 40


def test_without_matplotlib_plain_letters_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    drawing.font_file.cache_clear()
    assert lettering("RBC", 7) == ("RBC", None)
    assert lettering("Зелёный", 7) == ("#7", None)
    drawing.font_file.cache_clear()


def test_no_label_covers_another_and_each_lies_in_the_picture() -> None:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 200, (60, 2))
    boxes = (
        np.concatenate([corners, corners + rng.uniform(2, 120, (60, 2))], axis=1)
        .round()
        .astype(int)
        .clip(0, 255)
    )
    taken: list[tuple[int, int, int, int]] = []
    without = 0
    for box in boxes.tolist():
        plate = free_plate(tuple(box), (60, 14), (256, 256), taken)
        if plate is None:
            without += 1
            continue
        left, top, right, bottom = plate
        assert 0 <= left < right <= 255
        assert 0 <= top < bottom <= 255
        for other in taken:
            apart = (right < other[0] or other[2] < left, bottom < other[1] or other[3] < top)
            assert any(apart), (plate, other)
        taken.append(plate)
    assert len(taken) > 20
    assert without, "in a crowd some go without"


def test_two_boxes_of_one_place_get_two_labels_that_can_be_read() -> None:
    image = Image.new("RGB", (300, 200), "white")
    boxes = np.array([[50, 60, 200, 150]] * 2)
    drawn = draw_boxes(image, boxes, np.array([1, 2]), np.array([0.9, 0.8]), ["first", "second"])
    alone = draw_boxes(image, boxes[:1], np.array([1]), np.array([0.9]), ["first"])
    plate = (50, 44, 100, 58)
    assert drawn.crop(plate).tobytes() == alone.crop(plate).tobytes(), "the better one's label is whole"
    assert drawn.tobytes() != alone.tobytes()
