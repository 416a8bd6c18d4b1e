"""The demo's report: an image, and a page with the image and the numbers."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from albums import Album
from persam_dreambooth.photos import files, rendering

TILE, DPI = 120, 100
FRONTIER = Path(__file__).parent / "frontier.json"
"""The `results.json` that `frontier.py` wrote for the same background in all photos; see docs/tinyworld.md."""
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>persam-dreambooth: the demo</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222 }}
img {{ max-width: 100%; height: auto; border: 1px solid #ddd }}
li {{ margin: .3em 0 }}
</style>
<h1>A dog with and without masks</h1>
<p>Five photos of one dog, all on the same sofa, and one mask. Top row: the photo whose mask was given and the masks
that were found in the others. Below: images from a model that was trained on whole photos, and from one that was
trained on the dog alone, with a prior that keeps the background close to the base model's. Both are LoRAs,
trained for the same number of steps at the same rate, which were best with masks on other subjects. At the bottom:
twelve other subjects at several lengths (lines), and this dog (stars).</p>
<img alt="reference, found masks, pictures without and with masks" src="data:image/png;base64,{picture}">
<ul>
{lines}
</ul>
<p>Everything here is drawn by tinyworld, a small world with small trained models: {scale}. docs/tinyworld.md
explains the numbers and their limits.</p>
</html>
"""


@dataclass(frozen=True)
class Row:
    """The images of one training, its row in `FRONTIER`, and its scores in [0, 1], by the frontier's measures."""

    title: str
    curve: str
    images: list[Path]
    scene: float
    identity: float
    whole: float


def write_report(output: Path, album: Album, rows: Sequence[Row], lines: Sequence[str]) -> None:
    """Write `report.png`, `found.png` (only the masks, twice as large) and `report.html`.

    Args:
        output: the demo's folder, with the overlays in `found/overlays`.
        album: the photos.
        rows: the trainings.
        lines: sentences with the numbers.
    """
    tiles = []
    for path in sorted((output / "found" / "overlays").iterdir()):
        tiles.append((files.read_photo(path), "the one mask given" if path.stem == "00" else f"found in {path.stem}"))
    width = 1 + max(len(row.images) for row in rows)
    blocks = [rendering.sheet([tile for tile, _ in tiles], [text for _, text in tiles], columns=width, tile=TILE)]
    for row in rows:
        pictures = [album.pictures[0].image, *map(files.read_photo, row.images)]
        blocks.append(rendering.sheet(pictures, [row.title, *map(_scene, row.images)], columns=width, tile=TILE))
    found = rendering.sheet(
        [tile for tile, _ in tiles], [text for _, text in tiles], columns=len(tiles), tile=2 * TILE
    )
    files.write_picture(found, output / "found.png")
    picture = rendering.joined([*blocks, draw_frontier(rows, blocks[-1].width)])
    files.write_picture(picture, output / "report.png")
    packed = BytesIO()
    picture.save(packed, "PNG")
    page = PAGE.format(
        picture=base64.b64encode(packed.getvalue()).decode(),
        lines="\n".join(f"<li>{escape(line)}</li>" for line in lines),
        scale="64 x 64 pixels, minutes of training on two CPU cores",
    )
    with files.replacing(output / "report.html") as beside:
        beside.write_text(page, encoding="utf-8")


def draw_frontier(rows: Sequence[Row], width: int) -> Image.Image:
    """Plot the recorded frontiers of the trainings, means over other subjects, and the demo's own points on them."""
    curves = json.loads(FRONTIER.read_text())
    figure, panels = plt.subplots(1, 2, figsize=(width / DPI, 3), layout="constrained", dpi=DPI)
    for panel, (measure, label) in zip(
        panels, {"scene": "prompted scene shown", "whole": "one whole subject"}.items(), strict=True
    ):
        for number, row in enumerate(rows):
            curve = curves[f"scene/{row.curve}"]
            x, y = (100 * np.array(curve[name]) for name in ("identity", measure))
            panel.plot(x, y, ".-", color=f"C{number}", label=f"{row.title}, other subjects")
            for step, *place in zip(curve["steps"], x, y, strict=True):
                panel.annotate(f"{step} steps" if step == curve["steps"][0] else step, place, fontsize=7)
            own = 100 * row.identity, 100 * getattr(row, measure)
            panel.plot(*own, "*", color=f"C{number}", markersize=14, label=f"{row.title}, this dog")
        panel.set(xlabel="the right individual among 20 look-alikes, %", ylabel=f"{label}, %", xlim=(0, 105))
        panel.set_ylim(-3, 108)
    panels[0].legend(fontsize=7, loc="lower right")
    drawn = BytesIO()
    figure.savefig(drawn, format="png")
    plt.close(figure)
    return Image.open(drawn).convert("RGB")


def _scene(path: Path) -> str:
    return path.stem.rsplit("-", 1)[0].split("-", 3)[-1].replace("-", " ")
