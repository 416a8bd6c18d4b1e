"""Draw what INSID3 + SAM finds of one subject in five crowds, searching the whole photo, and crops too.

    python experiments/tinyworld/crowds_picture.py docs/pictures/crowds.png

The subject is the fourth of `crowds.py`; the first picture of each row is the reference.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from crowds import crowd
from finders import tiny_dino, tiny_sam
from persam_dreambooth.photos import files, rendering
from persam_dreambooth.segmentation import INSID3, CropSearch, Insid3Sam, Reference, load_backbone
from presence import photo
from recipes import KIND_NAMES, random_identity

NUMBER, PHOTOS = 3, 5
SCALE = 2


def main(path: Path) -> None:
    """Draw the crowds, search them in both ways, and write the picture."""
    rng = np.random.default_rng([5, NUMBER])
    identity = random_identity(rng, KIND_NAMES[NUMBER], held_out=True)
    alone = photo(rng, identity, ("subject",))
    reference = Reference(alone.image, alone.mask())
    pictures = [crowd(rng, identity, True).image for _ in range(PHOTOS)]
    method = Insid3Sam(INSID3(tiny_dino()), load_backbone(tiny_sam(), "cpu", size=96))
    rows = []
    for search in (method, CropSearch(method)):
        found = search.segment(pictures, search.personalize(reference))
        masks = [reference.foreground, *(segmentation.mask for segmentation in found)]
        tiles = [_overlay(image, mask) for image, mask in zip([alone.image, *pictures], masks, strict=True)]
        rows.append(rendering.joined(tiles, across=True))
    files.write_picture(rendering.joined(rows), path)


def _overlay(image: Image.Image, mask: np.ndarray) -> Image.Image:
    size = (SCALE * image.width, SCALE * image.height)
    larger = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    return rendering.overlay(image.resize(size, Image.Resampling.BICUBIC), larger)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
