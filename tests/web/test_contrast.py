"""WCAG AA: the contrast of every pair of colours that the page sets on each other, light and dark."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

CSS = (files("assay.web") / "static" / "page.css").read_text("utf-8")
ON_PAGE = ("ink", "soft", "accent", "second", "holds", "fails", "broken", "undecided")
TEXT = [
    *((name, back) for name in ("ink", "soft", "accent") for back in ("page", "card")),
    *((name, f"{name}-back") for name in ("holds", "fails", "undecided", "broken", "stale")),
    ("on-accent", "accent"),
    ("ink", "undecided-back"),
    ("soft", "undecided-back"),
]
DRAWN = [(name, "page") for name in ON_PAGE]
"""What is drawn, without being text, needs 3 to 1."""


def palette(scheme: str) -> dict[str, str]:
    light, dark = (
        dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", block))
        for block in re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)
    )
    return light if scheme == "light" else light | dark


def luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def test_contrast_of_black_on_white() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("pair", "least"), [(TEXT, 4.5), (DRAWN, 3.0)], ids=["text", "drawn"])
def test_contrast(scheme: str, pair: list[tuple[str, str]], least: float) -> None:
    colours = palette(scheme)
    low = {
        names: round(ratio, 2)
        for names in pair
        if (ratio := contrast(colours[names[0]], colours[names[1]])) < least
    }
    assert not low


def test_every_colour_is_in_the_palette() -> None:
    rules = re.sub(r":root \{.*?\}", "", CSS, flags=re.DOTALL)
    # White and its ink, behind figures whose colours are matplotlib's own.
    assert set(re.findall(r"#[0-9a-f]{3,8}\b", rules)) <= {"#ffffff", "#1b1f24"}
