"""tinyworld's eight scenes, each drawn from random numbers."""

from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Draw = ImageDraw.ImageDraw

PHRASES = {
    "jungle": "in the jungle",
    "snow": "in the snow",
    "beach": "on the beach",
    "city": "in the city",
    "sofa": "on a sofa",
    "forest": "in the forest",
    "desert": "in the desert",
    "night": "at night",
}
"""The words for each scene in a caption."""
UNNAMED = "kitchen"
"""A scene for which no caption has a word; it is never drawn for training."""


def draw_scene(name: str, side: int, rng: Generator) -> Image.Image:
    """Draw a background.

    Args:
        name: a key of `PHRASES`.
        side: pixels of the square's side.
        rng: the random numbers to draw from.

    Returns:
        RGB, side x side.
    """
    top, bottom = (_vary(colour, rng) for colour in _SKIES[name])
    image = _gradient(top, bottom, side)
    _SCENES[name](ImageDraw.Draw(image), side, rng)
    return image


def occluder_shape(name: str, rng: Generator) -> tuple[Colour, list[tuple[float, float, float, float]]]:
    """Return an occluder: a colour and ellipses (x, y, rx, ry) in units of the picture's side."""
    colour = _vary(_OCCLUDERS[name], rng)
    x = rng.uniform(0.1, 0.9)
    spread, wide, high = rng.uniform(-0.12, 0.12, 3), rng.uniform(0.06, 0.16, 3), rng.uniform(0.12, 0.32, 3)
    return colour, [(x + spread[piece], 1.0, wide[piece], high[piece]) for piece in range(3)]


def grain(side: int, rng: Generator) -> NDArray[np.float32]:
    """Return a (side, side, 1) float32 texture around 0: slow waves and fine grain, in RGB units."""
    slow = Image.fromarray(rng.normal(0, 9, (6, 6)).astype(np.float32)).resize((side, side), Image.Resampling.BICUBIC)
    fine = rng.normal(0, 3, (side, side))
    return (np.asarray(slow) + fine).astype(np.float32)[..., None]


def _vary(colour: Colour, rng: Generator, reach: float = 18) -> Colour:
    light, tint = rng.uniform(-reach, reach), rng.uniform(-reach / 2, reach / 2, 3)
    red, green, blue = (np.array(colour) + light + tint).clip(0, 255)
    return int(red), int(green), int(blue)


def _gradient(top: Colour, bottom: Colour, side: int) -> Image.Image:
    rows = np.linspace(top, bottom, side).astype(np.uint8)
    return Image.fromarray(np.broadcast_to(rows[:, None], (side, side, 3)).copy())


def _ellipse(draw: Draw, x: float, y: float, rx: float, ry: float, colour: Colour) -> None:
    draw.ellipse((x - rx, y - ry, x + rx, y + ry), fill=colour)


def _ground(draw: Draw, side: int, rng: Generator, level: float, colour: Colour, waves: float = 0.04) -> None:
    phase, length = rng.uniform(0, 6.3), rng.uniform(3, 9)
    xs = np.linspace(0, side, 16)
    ys = side * (level + waves * np.sin(phase + length * xs / side))
    draw.polygon([(0, side), *zip(xs.tolist(), ys.tolist(), strict=True), (side, side)], fill=colour)


def _jungle(draw: Draw, side: int, rng: Generator) -> None:
    for _ in range(int(rng.integers(14, 26))):
        x, y, turn = rng.uniform(0, side), rng.uniform(0, side), rng.uniform(0, 3.14)
        long, wide = side * rng.uniform(0.12, 0.3), side * rng.uniform(0.03, 0.08)
        along, across = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])
        corners = [along * long, across * wide, -along * long, -across * wide]
        leaf = _vary((20, 84, 34), rng, 26)
        draw.polygon([(x + corner[0], y + corner[1]) for corner in corners], fill=leaf)
    for _ in range(int(rng.integers(2, 5))):
        x = rng.uniform(0, side)
        bend = x + side * rng.uniform(-0.15, 0.15)
        vine = [(x, 0), (bend, side * rng.uniform(0.3, 0.8))]
        draw.line(vine, fill=_vary((70, 60, 20), rng), width=max(1, side // 48))


def _snow(draw: Draw, side: int, rng: Generator) -> None:
    if rng.random() < 0.6:
        peak = side * rng.uniform(0.2, 0.8)
        high = side * rng.uniform(0.1, 0.3)
        draw.polygon([(peak - side * 0.4, side * 0.6), (peak, high), (peak + side * 0.4, side * 0.6)],
                     fill=_vary((176, 190, 214), rng))  # fmt: skip
    _ground(draw, side, rng, rng.uniform(0.4, 0.65), _vary((238, 242, 250), rng, 8))
    for _ in range(int(rng.integers(10, 30))):
        flake = side * rng.uniform(0.006, 0.016)
        _ellipse(draw, rng.uniform(0, side), rng.uniform(0, side), flake, flake, (255, 255, 255))


def _beach(draw: Draw, side: int, rng: Generator) -> None:
    horizon = rng.uniform(0.25, 0.5)
    draw.rectangle((0, side * horizon, side, side), fill=_vary((30, 110, 190), rng))
    shore = horizon + rng.uniform(0.1, 0.22)
    _ground(draw, side, rng, shore + 0.02, (225, 240, 245))
    _ground(draw, side, rng, shore + 0.05, _vary((232, 208, 146), rng))
    if rng.random() < 0.5:
        sun = side * rng.uniform(0.05, 0.1)
        _ellipse(draw, rng.uniform(0, side), side * rng.uniform(0.05, 0.2), sun, sun, (255, 246, 190))


def _city(draw: Draw, side: int, rng: Generator) -> None:
    x = -side * 0.05
    while x < side:
        wide, high = side * rng.uniform(0.12, 0.26), side * rng.uniform(0.1, 0.5)
        wall = _vary((128, 122, 124), rng, 34)
        draw.rectangle((x, high, x + wide, side), fill=wall)
        lit = (232, 220, 150) if rng.random() < 0.4 else (70, 84, 104)
        pane = side * 0.035
        for row in np.arange(high + pane, side * 0.7, 2.2 * pane):
            for column in np.arange(x + pane, x + wide - pane, 2.0 * pane):
                draw.rectangle((column, row, column + pane, row + pane), fill=lit)
        x += wide
    road = side * rng.uniform(0.68, 0.8)
    draw.rectangle((0, road, side, side), fill=_vary((72, 72, 76), rng, 10))
    for start in np.arange(-side * rng.uniform(0, 0.2), side, side * 0.24):
        draw.rectangle((start, road + side * 0.1, start + side * 0.12, road + side * 0.125), fill=(220, 220, 210))


def _sofa(draw: Draw, side: int, rng: Generator) -> None:
    if rng.random() < 0.5:
        left, top = side * rng.uniform(0.05, 0.6), side * rng.uniform(0.02, 0.12)
        draw.rectangle((left, top, left + side * 0.25, top + side * 0.18), fill=_vary((120, 150, 180), rng, 50),
                       outline=(90, 60, 40), width=max(1, side // 64))  # fmt: skip
    cloth = _vary(((120, 112, 120), (142, 96, 80), (96, 112, 142), (110, 126, 96))[int(rng.integers(4))], rng)
    darker = (int(cloth[0] * 0.8), int(cloth[1] * 0.8), int(cloth[2] * 0.8))
    lighter = tuple(min(255, int(value * 1.15)) for value in cloth)
    back, seat, end = side * rng.uniform(0.26, 0.4), side * rng.uniform(0.58, 0.68), side * rng.uniform(0.9, 0.96)
    left, right = side * rng.uniform(0.0, 0.08), side * rng.uniform(0.92, 1.0)
    draw.rounded_rectangle((left, back, right, end), radius=side * 0.08, fill=cloth)
    for cushion in (0, 1):
        start = left + side * 0.1 + cushion * (right - left - side * 0.2) / 2
        stop = start + (right - left - side * 0.2) / 2
        draw.rounded_rectangle((start, seat, stop, end), radius=side * 0.03, fill=lighter, outline=darker,
                               width=max(1, side // 64))  # fmt: skip
    for arm in (left, right - side * 0.12):
        draw.rounded_rectangle((arm, seat - side * 0.1, arm + side * 0.12, end), radius=side * 0.05, fill=darker)


def _forest(draw: Draw, side: int, rng: Generator) -> None:
    ground = rng.uniform(0.6, 0.75)
    _ground(draw, side, rng, ground, _vary((88, 116, 60), rng))
    for _ in range(int(rng.integers(5, 9))):
        x, base = rng.uniform(0, side), side * (ground + rng.uniform(-0.02, 0.1))
        high, wide = side * rng.uniform(0.4, 0.62), side * rng.uniform(0.09, 0.16)
        draw.rectangle((x - side * 0.02, base - high * 0.4, x + side * 0.02, base), fill=_vary((92, 62, 36), rng))
        needles = _vary((40, 92, 56), rng, 22)
        for tier in (0.2, 0.45, 0.7):
            tip, foot = base - high * (tier + 0.45), base - high * tier
            spread = wide * (1.15 - tier)
            draw.polygon([(x - spread, foot), (x, tip), (x + spread, foot)], fill=needles)


def _desert(draw: Draw, side: int, rng: Generator) -> None:
    _ground(draw, side, rng, rng.uniform(0.38, 0.5), _vary((214, 150, 80), rng), 0.08)
    _ground(draw, side, rng, rng.uniform(0.55, 0.72), _vary((230, 172, 98), rng), 0.06)
    for _ in range(int(rng.integers(0, 3))):
        x, base, high = side * rng.uniform(0.05, 0.95), side * rng.uniform(0.55, 0.8), side * rng.uniform(0.2, 0.35)
        thick, green = max(2, int(side * 0.05)), _vary((70, 120, 60), rng)
        draw.line([(x, base), (x, base - high)], fill=green, width=thick)
        arm = side * 0.09 * (1 if rng.random() < 0.5 else -1)
        draw.line([(x, base - high * 0.4), (x + arm, base - high * 0.4), (x + arm, base - high * 0.75)], fill=green,
                  width=max(1, thick * 2 // 3))  # fmt: skip


def _night(draw: Draw, side: int, rng: Generator) -> None:
    for _ in range(int(rng.integers(18, 40))):
        star, glow = side * rng.uniform(0.004, 0.012), int(rng.integers(150, 256))
        x, y = rng.uniform(0, side), rng.uniform(0, side * 0.65)
        _ellipse(draw, x, y, star, star, (glow, glow, min(255, glow + 20)))
    if rng.random() < 0.7:
        x, y, moon = side * rng.uniform(0.1, 0.9), side * rng.uniform(0.08, 0.25), side * rng.uniform(0.05, 0.09)
        _ellipse(draw, x, y, moon, moon, (236, 234, 210))
        if rng.random() < 0.5:
            _ellipse(draw, x + moon * 0.5, y - moon * 0.2, moon * 0.9, moon * 0.9, (20, 20, 56))
    _ground(draw, side, rng, rng.uniform(0.55, 0.7), _vary((26, 28, 52), rng, 8), 0.07)
    _ground(draw, side, rng, rng.uniform(0.74, 0.85), _vary((14, 16, 34), rng, 6), 0.05)


def _kitchen(draw: Draw, side: int, rng: Generator) -> None:
    pane, grout = side * rng.uniform(0.1, 0.14), _vary((120, 150, 160), rng)
    for edge in np.arange(0, side, pane):
        draw.line([(edge, 0), (edge, side * 0.62)], fill=grout, width=max(1, side // 64))
        draw.line([(0, edge), (side, edge)], fill=grout, width=max(1, side // 64))
    counter = side * rng.uniform(0.58, 0.66)
    draw.rectangle((0, counter, side, side), fill=_vary((150, 108, 150), rng))
    draw.rectangle((0, counter, side, counter + side * 0.05), fill=_vary((232, 226, 214), rng, 8))
    for number in range(3):
        x, wide = side * (0.12 + 0.32 * number + rng.uniform(-0.04, 0.04)), side * 0.05
        draw.rectangle((x - wide, side * 0.16, x + wide, side * 0.3), fill=_vary((214, 90, 80), rng))


_SCENES: dict[str, Callable[[Draw, int, Generator], None]] = {
    "jungle": _jungle,
    "snow": _snow,
    "beach": _beach,
    "city": _city,
    "sofa": _sofa,
    "forest": _forest,
    "desert": _desert,
    "night": _night,
    UNNAMED: _kitchen,
}
# Top and bottom colour of the background gradient: sky, wall or undergrowth.
_SKIES: dict[str, tuple[Colour, Colour]] = {
    "jungle": ((18, 58, 26), (34, 80, 30)),
    "snow": ((150, 180, 220), (206, 220, 240)),
    "beach": ((90, 170, 236), (190, 224, 246)),
    "city": ((160, 170, 188), (204, 200, 198)),
    "sofa": ((206, 188, 164), (186, 160, 136)),
    "forest": ((150, 190, 170), (120, 160, 110)),
    "desert": ((246, 178, 96), (252, 216, 150)),
    "night": ((12, 12, 40), (38, 36, 86)),
    UNNAMED: ((196, 222, 226), (178, 206, 214)),
}
_OCCLUDERS: dict[str, Colour] = {
    "jungle": (24, 96, 40),
    "snow": (244, 246, 252),
    "beach": (216, 190, 130),
    "city": (60, 60, 64),
    "sofa": (150, 70, 90),
    "forest": (60, 100, 44),
    "desert": (200, 140, 74),
    "night": (10, 12, 26),
}
LIGHT: dict[str, float] = {"jungle": 0.85, "night": 0.62}
"""Brightness of a subject in a scene; 1 if not listed."""
