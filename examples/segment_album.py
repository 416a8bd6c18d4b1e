"""Segmentation on its own: find one subject in a folder of photos and cut it out.

    python examples/segment_album.py facebook/sam-vit-huge dog.jpg dog-mask.png album cutouts

writes `cutouts/<name>.png`, each photo's subject on a transparent background.
"""

import argparse
from pathlib import Path

from PIL import Image

import persam_dreambooth as pd


def main() -> None:
    """Read the arguments, segment photo by photo, save the cut-outs."""
    parser = argparse.ArgumentParser(description="Cut one subject out of every photo of a folder.")
    parser.add_argument("sam", help="a SAM: hub name, folder or .pth checkpoint")
    parser.add_argument("reference", type=Path, help="one photo of the subject")
    parser.add_argument("mask", type=Path, help="its mask")
    parser.add_argument("album", type=Path, help="folder of photos")
    parser.add_argument("output", type=Path, help="folder for the cut-outs")
    given = parser.parse_args()
    if given.output.resolve() == given.album.resolve():
        parser.error("the cut-outs would replace photos of the same name; give another folder")
    given.output.mkdir(parents=True, exist_ok=True)
    persam = pd.PerSAM.from_pretrained(given.sam)
    subject = persam.personalize(pd.Reference(pd.read_photo(given.reference), pd.read_mask(given.mask)))
    for path in pd.find_photos(given.album, besides=(given.mask,)):
        try:
            photo = pd.read_photo(path)  # upright, as people see it
        except pd.UserError as error:
            print(f"left out: {error}")
            continue
        found = persam.segment(photo, subject)
        photo.putalpha(Image.fromarray(found.mask))
        photo.save(given.output / f"{path.stem}.png")
        print(f"{path.name}: score {min(found.score, 1):.2f}, box {None if found.box is None else found.box.tolist()}")


if __name__ == "__main__":
    main()
