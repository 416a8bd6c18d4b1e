"""tinyworld's eight kinds of subject, drawn from parts; each individual has its own colours.

A subject's own frame is the square [-1, 1] x [-1, 1], x to the right and y *down*, feet near y = 0.8.
"""

import math
from dataclasses import dataclass

Point = tuple[float, float]
Shape = tuple[Point, ...]
"""A polygon in the subject's frame."""

COLOURS = {
    "red": (214, 40, 40),
    "orange": (240, 130, 30),
    "yellow": (242, 208, 40),
    "green": (46, 150, 60),
    "teal": (40, 190, 180),
    "blue": (40, 80, 210),
    "purple": (128, 50, 170),
    "pink": (238, 80, 160),
    "brown": (120, 74, 40),
    "white": (240, 240, 240),
}
"""RGB in [0, 255]."""
PATTERNS = ("plain", "striped", "dotted", "checked")
ACCESSORIES = ("none", "hat", "ribbon", "flag")


@dataclass(frozen=True)
class Identity:
    """The attributes that distinguish one individual from others of its kind.

    Attributes:
        kind: a key of `KINDS`.
        main: the body's colour, a key of `COLOURS`.
        second: the colour of its pattern and of some parts; different from `main`.
        pattern: one of `PATTERNS`.
        accessory: one of `ACCESSORIES`.
    """

    kind: str
    main: str
    second: str
    pattern: str
    accessory: str


@dataclass(frozen=True)
class Part:
    """A piece of a subject.

    Attributes:
        name: "head", or "head/eye" for a sub-part; pieces with the same name form one part.
        shape: its outline.
        colour: "main" or "second" for the individual's colours, or "dark" or "pale".
        patterned: whether the individual's pattern is drawn on it.
        swing: (pivot, reach): the pose rotates it about the pivot by up to `reach` radians.
    """

    name: str
    shape: Shape
    colour: str = "main"
    patterned: bool = False
    swing: tuple[Point, float] | None = None


@dataclass(frozen=True)
class Kind:
    """A class of subjects: its parts from back to front, and where accessories sit."""

    parts: tuple[Part, ...]
    top: Point
    """Position of a hat's brim."""
    neck: Point
    """Position of a ribbon's knot."""
    back: Point
    """Foot of a flag's pole."""


def ellipse(x: float, y: float, rx: float, ry: float, corners: int = 20) -> Shape:
    """Outline of an ellipse around (x, y)."""
    turns = [2 * math.pi * corner / corners for corner in range(corners)]
    return tuple((x + rx * math.cos(turn), y + ry * math.sin(turn)) for turn in turns)


def ring(x: float, y: float, rx: float, ry: float, thickness: float) -> Shape:
    """An ellipse with a hole in it."""
    outer, inner = ellipse(x, y, rx, ry), ellipse(x, y, rx - thickness, ry - thickness)
    return (*outer, outer[0], inner[0], *reversed(inner))


def box(left: float, top: float, right: float, bottom: float, bevel: float = 0.08) -> Shape:
    """A rectangle with corners cut off by `bevel`."""
    return (
        *((left + bevel, top), (right - bevel, top), (right, top + bevel), (right, bottom - bevel)),
        *((right - bevel, bottom), (left + bevel, bottom), (left, bottom - bevel), (left, top + bevel)),
    )


def stroke(start: Point, end: Point, width: float) -> Shape:
    """A bar from `start` to `end`."""
    (x0, y0), (x1, y1) = start, end
    length = math.hypot(x1 - x0, y1 - y0)
    dx, dy = (y0 - y1) / length * width / 2, (x1 - x0) / length * width / 2
    return ((x0 + dx, y0 + dy), (x1 + dx, y1 + dy), (x1 - dx, y1 - dy), (x0 - dx, y0 - dy))


def _dog() -> Kind:
    legs = [(-0.5, 0.5), (-0.25, -0.4), (0.22, 0.5), (0.45, -0.4)]
    return Kind(
        (
            Part("tail", stroke((-0.55, 0.0), (-0.95, -0.5), 0.16), swing=((-0.55, 0.0), 0.5)),
            *(Part("legs", box(x - 0.09, 0.2, x + 0.09, 0.8), swing=((x, 0.2), reach)) for x, reach in legs),
            Part("body", ellipse(-0.05, 0.08, 0.62, 0.32), patterned=True),
            Part("head", ellipse(0.55, -0.38, 0.32, 0.3), swing=((0.45, -0.1), 0.25)),
            Part("head/snout", box(0.7, -0.42, 1.0, -0.16, 0.06), swing=((0.45, -0.1), 0.25)),
            Part("head/nose", ellipse(0.97, -0.36, 0.08, 0.07, 10), "dark", swing=((0.45, -0.1), 0.25)),
            Part("head/ear", ellipse(0.36, -0.32, 0.13, 0.3), "second", swing=((0.45, -0.1), 0.25)),
            Part("head/eye", ellipse(0.64, -0.46, 0.06, 0.06, 10), "dark", swing=((0.45, -0.1), 0.25)),
        ),
        top=(0.52, -0.64),
        neck=(0.36, -0.08),
        back=(-0.3, -0.18),
    )


def _cat() -> Kind:
    return Kind(
        (
            Part("tail", stroke((0.3, 0.65), (0.85, 0.1), 0.14), "second", swing=((0.3, 0.65), 0.5)),
            Part("body", ellipse(0.0, 0.35, 0.44, 0.48), patterned=True),
            Part("legs", ellipse(-0.2, 0.74, 0.17, 0.1), "second"),
            Part("legs", ellipse(0.2, 0.74, 0.17, 0.1), "second"),
            Part("head/ear", ((-0.46, -0.3), (-0.42, -0.95), (-0.08, -0.6)), "second"),
            Part("head/ear", ((0.46, -0.3), (0.42, -0.95), (0.08, -0.6)), "second"),
            Part("head", ellipse(0.0, -0.32, 0.48, 0.38)),
            Part("head/eye", ellipse(-0.19, -0.38, 0.08, 0.11, 10), "dark"),
            Part("head/eye", ellipse(0.19, -0.38, 0.08, 0.11, 10), "dark"),
            Part("head/nose", ((-0.08, -0.2), (0.08, -0.2), (0.0, -0.1)), "dark"),
        ),
        top=(0.0, -0.66),
        neck=(0.0, 0.03),
        back=(-0.42, 0.1),
    )


def _duck() -> Kind:
    back = ((-1.0, -0.2), (-0.62, 0.0), (-0.2, -0.1), (0.5, 0.0))
    hull = (*back, (0.6, 0.3), (0.35, 0.62), (-0.35, 0.65), (-0.8, 0.35))
    return Kind(
        (
            Part("feet", box(-0.3, 0.6, -0.02, 0.8, 0.06), "second", swing=((-0.16, 0.4), 0.3)),
            Part("feet", box(0.08, 0.6, 0.36, 0.8, 0.06), "second", swing=((0.2, 0.4), -0.3)),
            Part("body", hull, patterned=True),
            Part("body/wing", ellipse(-0.15, 0.25, 0.34, 0.2), "second", swing=((0.1, 0.2), 0.4)),
            Part("neck", stroke((0.38, 0.25), (0.44, -0.45), 0.3)),
            Part("head", ellipse(0.46, -0.52, 0.28, 0.26)),
            Part("head/bill", ((0.66, -0.6), (1.02, -0.48), (1.0, -0.36), (0.64, -0.38)), "second"),
            Part("head/eye", ellipse(0.54, -0.6, 0.06, 0.06, 10), "dark"),
        ),
        top=(0.44, -0.74),
        neck=(0.4, -0.2),
        back=(-0.45, 0.0),
    )


def _teapot() -> Kind:
    return Kind(
        (
            Part("handle", ring(-0.66, 0.1, 0.34, 0.38, 0.16), "second"),
            Part("spout", ((0.4, 0.35), (0.4, 0.05), (0.72, -0.15), (0.82, -0.45), (1.0, -0.4), (0.9, 0.1))),
            Part("body", ellipse(0.0, 0.2, 0.6, 0.56), patterned=True),
            Part("body/foot", box(-0.35, 0.66, 0.35, 0.8, 0.04), "second"),
            Part("lid", ellipse(0.0, -0.32, 0.42, 0.17), "second", swing=((-0.4, -0.3), -0.5)),
            Part("lid/knob", ellipse(0.0, -0.54, 0.12, 0.12), "dark", swing=((-0.4, -0.3), -0.5)),
        ),
        top=(0.0, -0.6),
        neck=(0.0, -0.18),
        back=(-0.45, -0.05),
    )


def _backpack() -> Kind:
    return Kind(
        (
            Part("handle", ring(0.0, -0.68, 0.22, 0.22, 0.1), "dark"),
            Part("straps", ellipse(-0.58, 0.2, 0.16, 0.5), "second"),
            Part("straps", ellipse(0.58, 0.2, 0.16, 0.5), "second"),
            Part("body", box(-0.54, -0.62, 0.54, 0.8, 0.24), patterned=True),
            Part(
                "flap",
                ((-0.54, -0.4), (-0.32, -0.64), (0.32, -0.64), (0.54, -0.4), (0.5, -0.05), (-0.5, -0.05)),
                "second",
            ),
            Part("flap/buckle", box(-0.09, -0.12, 0.09, 0.12, 0.03), "dark"),
            Part("body/pocket", box(-0.36, 0.28, 0.36, 0.68, 0.08), "second"),
        ),
        top=(0.0, -0.66),
        neck=(0.0, -0.3),
        back=(-0.48, -0.3),
    )


def _car() -> Kind:
    wheels = [Part("wheels", ellipse(x, 0.58, 0.24, 0.24), "dark") for x in (-0.5, 0.5)]
    hubs = [Part("wheels/hub", ellipse(x, 0.58, 0.1, 0.1, 12), "second") for x in (-0.5, 0.5)]
    return Kind(
        (
            Part("roof", ((-0.55, 0.02), (-0.36, -0.48), (0.28, -0.48), (0.58, 0.02)), "second"),
            Part("roof/window", ((-0.4, -0.02), (-0.27, -0.36), (-0.06, -0.36), (-0.06, -0.02)), "dark"),
            Part("roof/window", ((0.06, -0.02), (0.06, -0.36), (0.22, -0.36), (0.42, -0.02)), "dark"),
            Part("body", box(-1.0, 0.0, 1.0, 0.56, 0.14), patterned=True),
            *wheels,
            *hubs,
        ),
        top=(-0.04, -0.5),
        neck=(0.72, 0.2),
        back=(-0.85, 0.02),
    )


def _robot() -> Kind:
    return Kind(
        (
            Part("legs", box(-0.32, 0.4, -0.08, 0.8, 0.03), "dark"),
            Part("legs", box(0.08, 0.4, 0.32, 0.8, 0.03), "dark"),
            Part("arms", box(-0.72, -0.2, -0.46, 0.4, 0.06), "second", swing=((-0.55, -0.15), 1.2)),
            Part("arms", box(0.46, -0.2, 0.72, 0.4, 0.06), "second", swing=((0.55, -0.15), -1.2)),
            Part("body", box(-0.46, -0.25, 0.46, 0.5, 0.05), patterned=True),
            Part("antenna", stroke((0.0, -0.8), (0.0, -1.0), 0.1), "dark"),
            Part("head", box(-0.4, -0.86, 0.4, -0.26, 0.05)),
            Part("head/eye", box(-0.28, -0.7, -0.06, -0.48, 0.02), "second"),
            Part("head/eye", box(0.06, -0.7, 0.28, -0.48, 0.02), "second"),
            Part("head/mouth", box(-0.22, -0.4, 0.22, -0.32, 0.02), "dark"),
        ),
        top=(0.0, -0.86),
        neck=(0.0, -0.2),
        back=(-0.4, -0.2),
    )


def _clock() -> Kind:
    bells = [Part("bells", ellipse(x, -0.62, 0.26, 0.2), "second") for x in (-0.4, 0.4)]
    return Kind(
        (
            Part("feet", stroke((-0.3, 0.5), (-0.5, 0.8), 0.16), "dark"),
            Part("feet", stroke((0.3, 0.5), (0.5, 0.8), 0.16), "dark"),
            *bells,
            Part("body", ellipse(0.0, 0.05, 0.68, 0.66), patterned=True),
            Part("face", ellipse(0.0, 0.05, 0.44, 0.43), "pale"),
            Part("face/hands", stroke((0.0, 0.08), (0.0, -0.3), 0.1), "dark", swing=((0.0, 0.05), 3.0)),
            Part("face/hands", stroke((0.0, 0.05), (0.24, 0.14), 0.1), "dark", swing=((0.0, 0.05), 2.0)),
        ),
        top=(0.0, -0.6),
        neck=(0.0, 0.6),
        back=(-0.62, -0.1),
    )


KINDS: dict[str, Kind] = {
    "dog": _dog(),
    "cat": _cat(),
    "duck": _duck(),
    "teapot": _teapot(),
    "backpack": _backpack(),
    "car": _car(),
    "robot": _robot(),
    "clock": _clock(),
}


def accessory(kind: Kind, name: str) -> tuple[Part, ...]:
    """Return the parts of an accessory in its place on a kind, in the individual's second colour."""
    if name == "hat":
        x, y = kind.top
        crown = box(x - 0.22, y - 0.42, x + 0.22, y, 0.03)
        return (
            Part("hat", crown, "second"),
            Part("hat/brim", box(x - 0.42, y - 0.05, x + 0.42, y + 0.08, 0.03), "dark"),
        )
    if name == "ribbon":
        x, y = kind.neck
        left, right = (
            ((x, y), (x - 0.3, y - 0.18), (x - 0.3, y + 0.18)),
            ((x, y), (x + 0.3, y - 0.18), (x + 0.3, y + 0.18)),
        )
        knot = Part("ribbon/knot", ellipse(x, y, 0.09, 0.09, 12), "dark")
        return (Part("ribbon", left, "second"), Part("ribbon", right, "second"), knot)
    if name == "flag":
        x, y = kind.back
        pole = Part("flag/pole", stroke((x, y), (x, y - 0.85), 0.07), "dark")
        return (pole, Part("flag", ((x, y - 0.85), (x - 0.5, y - 0.68), (x, y - 0.5)), "second"))
    return ()


def parts_of(identity: Identity) -> tuple[Part, ...]:
    """Return all parts of an individual, from back to front."""
    kind = KINDS[identity.kind]
    return (*kind.parts, *accessory(kind, identity.accessory))
