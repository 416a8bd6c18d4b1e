"""Segmentation on its own: find one subject in a folder of photos and cut it out.

    python examples/segment_album.py facebook/sam-vit-huge dog.jpg dog-mask.png album cutouts

writes `cutouts/<name>.png`, each photo's subject on a transparent background.
"""

import argparse
from pathlib import Path

from PIL import Image

from persam_dreambooth.segmentation import PerSAM, Reference


def main() -> None:
    """Read the arguments, segment photo by photo, save the cut-outs."""
    parser = argparse.ArgumentParser(description="Cut one subject out of every photo of a folder.")
    parser.add_argument("sam", help="a SAM: hub name, folder or .pth checkpoint")
    parser.add_argument("reference", help="one photo of the subject")
    parser.add_argument("mask", help="its mask")
    parser.add_argument("album", type=Path, help="folder of .jpg photos")
    parser.add_argument("output", type=Path, help="folder for the cut-outs")
    given = parser.parse_args()
    persam = PerSAM.from_pretrained(given.sam)
    subject = persam.personalize(Reference(Image.open(given.reference), Image.open(given.mask)))
    given.output.mkdir(parents=True, exist_ok=True)
    for path in sorted(given.album.glob("*.jpg")):
        photo = Image.open(path).convert("RGB")
        found = persam.segment(photo, subject)
        photo.putalpha(Image.fromarray(found.mask))
        photo.save(given.output / f"{path.stem}.png")
        print(f"{path.name}: score {found.score:.2f}, box {None if found.box is None else found.box.tolist()}")


if __name__ == "__main__":
    main()
