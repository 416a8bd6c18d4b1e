"""Small albums for the tests of the review page."""

import numpy as np
from PIL import Image

from finders import photos
from persam_dreambooth.photos import files
from persam_dreambooth.photos.manifest import MANIFEST_NAME, ManifestEntry, append_entry
from persam_dreambooth.preprocessing import SETTINGS_NAME
from persam_dreambooth.preprocessing.mask_writer import draw
from recipes import random_identity
from tests.scene import scene


def draw_photos(folder, names, height=48, width=64):
    """Draw photos of these names; return the true mask of each."""
    masks = {}
    for seed, name in enumerate(names):
        pixels, masks[name] = scene(height, width, seed)
        files.write_picture(Image.fromarray(pixels), folder / name)
    return masks


def write_found(folder, output, masks, scores):
    """Write the output of a segmentation run with these masks and scores."""
    files.write_json({}, output / SETTINGS_NAME)
    for name, mask in sorted(masks.items()):
        photo = folder / name
        entry = ManifestEntry(f"../{name}", files.digest(photo), score=scores.get(name, 0.9), points=[[5, 5]])
        entry = draw(output, files.read_photo(photo), mask, ManifestEntry(**{**vars(entry), "point_labels": [1]}))
        append_entry(output / MANIFEST_NAME, entry)


def beside_a_look_alike(folder):
    """Write an album: a.png shows a cat alone, b.png beside a look-alike, whose mask it has; return the true masks."""
    rng = np.random.default_rng(11)
    cat = random_identity(rng, "cat", held_out=True)
    alone, beside = photos(cat, rng, 1, "alone")[0], photos(cat, rng, 1, "beside a look-alike")[0]
    for name, picture in {"a.png": alone, "b.png": beside}.items():
        files.write_picture(picture.image, folder / name)
    write_found(folder, folder / "segmented", {"a.png": alone.mask(), "b.png": beside.mask(1)}, {"b.png": 0.8})
    return {"a.png": alone.mask(), "b.png": beside.mask()}


def contents(folder):
    """Return the bytes of every file except the lock."""
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".manifest.lock"
    }


def middle(mask):
    """Return a pixel (x, y) inside a mask, horizontally as far from its edge as possible."""
    rows, _ = np.nonzero(mask)
    row = np.bincount(rows).argmax()
    inside = np.nonzero(mask[row])[0]
    return float(inside[len(inside) // 2]), float(row)
