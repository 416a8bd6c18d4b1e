"""The demo's report: an image, and a page with the image and the numbers."""

import base64
from html import escape
from io import BytesIO
from pathlib import Path

from albums import Album
from persam_dreambooth.photos import files, rendering

TILE = 120
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>persam-dreambooth: the demo</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222 }}
img {{ max-width: 100%; height: auto; border: 1px solid #ddd }}
li {{ margin: .3em 0 }}
</style>
<h1>A dog with and without masks</h1>
<p>Five photos of one dog, all on the same sofa, and one mask. Top row: the photo whose mask was given and the masks
that were found in the others. Below: what the model draws when it was trained on whole photos, and when it was trained
on the dog alone, with a prior that holds the background where the base model had it. Both were trained at one learning
rate, at which whole photos leak; at a lower one they leak little, and the dog is learned as well or better.</p>
<img alt="reference, found masks, pictures without and with masks" src="data:image/png;base64,{picture}">
<ul>
{lines}
</ul>
<p>Everything here is drawn by tinyworld, a small world with small trained models: {scale}. What the numbers mean and
how far they hold is in docs/tinyworld.md.</p>
</html>
"""


def write_report(output: Path, album: Album, rows: list[tuple[str, list[Path]]], lines: list[str]) -> None:
    """Write `report.png`, `found.png` (only the masks, twice as large) and `report.html`.

    Args:
        output: the demo's folder, with the overlays in `found/overlays`.
        album: the photos.
        rows: title and images of each training.
        lines: sentences with the numbers.
    """
    tiles = []
    for path in sorted((output / "found" / "overlays").iterdir()):
        tiles.append((files.read_photo(path), "the one mask given" if path.stem == "00" else f"found in {path.stem}"))
    width = 1 + max(len(paths) for _, paths in rows)
    blocks = [rendering.sheet([tile for tile, _ in tiles], [text for _, text in tiles], columns=width, tile=TILE)]
    for title, paths in rows:
        pictures = [album.pictures[0].image, *map(files.read_photo, paths)]
        blocks.append(rendering.sheet(pictures, [title, *map(_scene, paths)], columns=width, tile=TILE))
    found = rendering.sheet(
        [tile for tile, _ in tiles], [text for _, text in tiles], columns=len(tiles), tile=2 * TILE
    )
    files.write_picture(found, output / "found.png")
    picture = rendering.joined(blocks)
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


def _scene(path: Path) -> str:
    return path.stem.rsplit("-", 1)[0].split("-", 3)[-1].replace("-", " ")
