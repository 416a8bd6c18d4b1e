"""tinyworld: pictures of known subjects in known scenes, with full ground truth.

A `Recipe` determines a picture completely; `draw` turns it into pixels, masks and a caption, always the same ones.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from recipes import Placement, Recipe, caption
from scenes import LIGHT, draw_scene, grain, occluder_shape
from subjects import COLOURS, Identity, Part, parts_of

SIDE = 64
"""Default side of a picture in pixels."""
SUPERSAMPLING = 3
_FIXED = {"dark": (40, 36, 44), "pale": (244, 238, 222)}


@dataclass(frozen=True, eq=False)
class Picture:
    """A drawn recipe.

    Attributes:
        image: RGB, side x side.
        recipe: the recipe that it was drawn from.
        labels: (side * SUPERSAMPLING,) * 2 uint8: 0 for the scene, otherwise an index into `names` plus 1.
        names: (subject's number, part's name) of each label.
    """

    image: Image.Image
    recipe: Recipe
    labels: NDArray[np.uint8]
    names: list[tuple[int, str]] = field(repr=False)

    @property
    def caption(self) -> str:
        """The caption of the recipe."""
        return caption(self.recipe)

    def mask(self, subject: int = 0, part: str = "") -> NDArray[np.bool_]:
        """Return the visible mask of a subject, or of one part with its sub-parts.

        Args:
            subject: its number in the recipe.
            part: "" for the whole subject, "head" for a part, "head/eye" for a sub-part.

        Returns:
            (side, side) bool.
        """
        wanted = [
            number + 1
            for number, (owner, name) in enumerate(self.names)
            if owner == subject and (not part or name == part or name.startswith(part + "/"))
        ]
        side = self.image.width
        fine = np.isin(self.labels, wanted).reshape(side, SUPERSAMPLING, side, SUPERSAMPLING)
        return fine.mean(axis=(1, 3)) >= 0.5

    def parts(self, subject: int = 0) -> list[str]:
        """Return the names of all parts and sub-parts of a subject."""
        own = [name for owner, name in self.names if owner == subject]
        return sorted({*own, *(name.split("/")[0] for name in own)})


def draw(recipe: Recipe, side: int = SIDE, build: Callable[[Identity], tuple[Part, ...]] = parts_of) -> Picture:
    """Draw a recipe.

    Args:
        recipe: the recipe.
        side: pixels of the square's side.
        build: returns the parts of an individual, from back to front; `damages.py` has others.
    """
    rng = np.random.default_rng(recipe.seed)
    fine = side * SUPERSAMPLING
    background = draw_scene(recipe.scene, fine, rng)
    canvas = np.asarray(background, dtype=np.float32) + grain(fine, rng)
    labels = Image.new("L", (fine, fine))
    names: list[tuple[int, str]] = []
    for number, (identity, placement) in enumerate(recipe.subjects):
        canvas = _draw_subject(canvas, labels, names, number, build(identity), identity, placement, recipe)
    if recipe.occluded:
        colour, ellipses = occluder_shape(recipe.scene, rng)
        cover = Image.new("L", (fine, fine))
        pen = ImageDraw.Draw(cover)
        for x, y, rx, ry in ellipses:
            pen.ellipse(tuple(fine * edge for edge in (x - rx, y - ry, x + rx, y + ry)), fill=1)
        covered = np.asarray(cover) > 0
        canvas[covered] = np.array(colour, dtype=np.float32)
        labels.paste(0, mask=Image.fromarray(covered))
    image = Image.fromarray(canvas.clip(0, 255).astype(np.uint8)).reduce(SUPERSAMPLING)
    return Picture(image, recipe, np.asarray(labels), names)


def _draw_subject(
    canvas: NDArray[np.float32],
    labels: Image.Image,
    names: list[tuple[int, str]],
    number: int,
    parts: tuple[Part, ...],
    identity: Identity,
    placement: Placement,
    recipe: Recipe,
) -> NDArray[np.float32]:
    """Draw one subject onto the canvas and the label map; return the canvas."""
    fine = labels.width
    layer, edges = Image.new("L", (fine, fine)), Image.new("L", (fine, fine))
    to_pixels = _frame(placement, fine)
    for index, part in enumerate(parts):
        corners = _corners(part, placement.pose, to_pixels)
        ImageDraw.Draw(layer).polygon(corners, fill=index + 1)
        ImageDraw.Draw(edges).polygon(corners, fill=0, outline=1, width=max(1, fine // 96))
    drawn = np.asarray(layer)
    colours, patterned = _colours(identity, parts)
    paint = colours[drawn]
    pattern = patterned[drawn] & _pattern(identity.pattern, to_pixels, fine)
    paint[pattern] = COLOURS[identity.second]
    paint[np.asarray(edges) > 0] *= 0.55
    paint *= recipe.light * LIGHT.get(recipe.scene, 1.0) * _shading(recipe.light_from, placement, fine)
    canvas = _shadow(canvas, placement, fine)
    inside = drawn > 0
    canvas[inside] = paint[inside]
    of_part = np.zeros(len(parts) + 1, dtype=np.uint8)
    for index, part in enumerate(parts):
        if (number, part.name) not in names:
            names.append((number, part.name))
        of_part[index + 1] = names.index((number, part.name)) + 1
    labels.paste(Image.fromarray(of_part[drawn]), mask=Image.fromarray(inside))
    return canvas


def _frame(placement: Placement, fine: int) -> NDArray[np.float64]:
    """Return the (2, 3) affine map from the subject's frame to pixels."""
    cos, sin = np.cos(placement.rotation), np.sin(placement.rotation)
    turn = np.array([[cos, -sin], [sin, cos]]) @ np.diag([-1.0 if placement.flip else 1.0, 1.0])
    return fine * np.column_stack([placement.scale * turn, [placement.x, placement.y]])


def _corners(part: Part, pose: float, to_pixels: NDArray[np.float64]) -> list[tuple[float, float]]:
    shape = np.array(part.shape)
    if part.swing is not None:
        pivot, reach = part.swing
        cos, sin = np.cos(pose * reach), np.sin(pose * reach)
        shape = (shape - pivot) @ np.array([[cos, sin], [-sin, cos]]) + pivot
    pixels = shape @ to_pixels[:, :2].T + to_pixels[:, 2]
    return [(float(x), float(y)) for x, y in pixels]


def _colours(identity: Identity, parts: tuple[Part, ...]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the colour of each label of a subject's layer, and whether the pattern is drawn on it."""
    palette = _FIXED | {"main": COLOURS[identity.main], "second": COLOURS[identity.second]}
    colours = [(0, 0, 0), *(palette[part.colour] for part in parts)]
    return np.array(colours, dtype=np.float32), np.array([False, *(part.patterned for part in parts)])


def _pattern(name: str, to_pixels: NDArray[np.float64], fine: int) -> NDArray[np.bool_]:
    """Return (fine, fine) bool: where a pattern has the second colour; it rotates and scales with the subject."""
    if name == "plain":
        return np.zeros((fine, fine), dtype=bool)
    inverse = np.linalg.inv(to_pixels[:, :2])
    xs, ys = np.arange(fine) - to_pixels[0, 2], np.arange(fine) - to_pixels[1, 2]
    u = inverse[0, 0] * xs[None] + inverse[0, 1] * ys[:, None]
    v = inverse[1, 0] * xs[None] + inverse[1, 1] * ys[:, None]
    across, along = np.sin(u * 14.0), np.sin(v * 14.0)
    if name == "striped":
        return across > 0
    if name == "checked":
        return across * along > 0
    return across + along > 1.0


def _shading(light_from: float, placement: Placement, fine: int) -> NDArray[np.float32]:
    """Return a (fine, fine, 1) float32 brightness, higher on the side of the light."""
    ramp = (np.arange(fine, dtype=np.float32) / fine - 0.5) / max(placement.scale, 0.1)
    shade = np.cos(light_from) * ramp[None] + np.sin(light_from) * ramp[:, None]
    return (1 + 0.09 * shade)[..., None].astype(np.float32)


def _shadow(canvas: NDArray[np.float32], placement: Placement, fine: int) -> NDArray[np.float32]:
    """Darken the ground below the feet."""
    ground = Image.new("L", (fine, fine))
    x, y, reach = placement.x, placement.y + 0.8 * placement.scale, placement.scale
    edges = (x - 0.8 * reach, y - 0.12 * reach, x + 0.8 * reach, y + 0.12 * reach)
    ImageDraw.Draw(ground).ellipse(tuple(fine * edge for edge in edges), fill=1)
    canvas[np.asarray(ground) > 0] *= 0.72
    return canvas
