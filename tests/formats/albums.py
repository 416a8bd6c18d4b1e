"""Small albums with everything that goes wrong between programs: rotated, transparent and oddly named photos."""

from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from persam_dreambooth.photos import files

CAPTIONS = {"Hündin am See": "a sks dog, ümläute\nsecond line", "turned": "a sks dog upside down"}
TURNED = {"turned.jpg": 6, "turned square.JPG": 5, "mirrored.png": 2}
PLAIN = ["Hündin am See.jpg", "a.b.webp", "grey.png", "test.jpg"]
ODD = ["alpha.png", "keyed.png", "scan.tif", "drawing.bmp", *TURNED]
NAMES = [*PLAIN, *ODD]
SIZES = [(13, 29), (31, 8), (16, 16), (1, 23), (40, 33), (9, 9), (17, 64), (6, 6), (21, 34), (25, 25), (12, 5)]
"""(width, height) of the stored pixels."""


def write_album(folder, seed=0):
    """Write photos and captions to `photos`, random masks (one empty, one full) to `masks`; return both folders."""
    random = np.random.default_rng(seed)
    photos, masks = folder / "photos", folder / "masks"
    photos.mkdir(parents=True)
    for number, (name, size) in enumerate(zip(NAMES, SIZES, strict=True)):
        path = photos / name
        write_photo(path, size, random)
        width, height = files.read_photo(path).size
        mask = random.random((height, width)) < (0, 1, 0.4)[min(number, 2)]
        files.write_mask(mask, masks / f"{path.stem}.png")
    for stem, words in CAPTIONS.items():
        (photos / f"{stem}.txt").write_text(words + "\n", encoding="utf-8")
    return photos, masks


def write_photo(path, size, random):
    """Write noise in the file's format, rotated or transparent as its name says."""
    width, height = size
    mode = {"alpha.png": "RGBA", "grey.png": "L"}.get(path.name, "RGB")
    levels = random.integers(0, 256, (height, width, len(mode)), dtype=np.uint8)
    image = Image.fromarray(levels.squeeze(-1) if mode == "L" else levels)
    exif = Image.Exif()
    if path.name in TURNED:
        exif[ExifTags.Base.Orientation] = TURNED[path.name]
    key = {"transparency": image.getpixel((0, 0))} if path.name == "keyed.png" else {}  # one colour is transparent
    image.save(path, exif=exif, **key)


def write_pair(folder, mask, name="dog.png"):
    """Write a photo of noise and its mask."""
    photos, masks = folder / "photos", folder / "masks"
    photos.mkdir(parents=True, exist_ok=True)
    write_photo(photos / name, mask.shape[::-1], np.random.default_rng(0))
    files.write_mask(mask, masks / f"{Path(name).stem}.png")
    return photos, masks


def masks_in(folder):
    """Read every mask, by stem."""
    return {path.stem: files.read_mask(path) for path in files.list_photos(folder)}


def photos_in(folder):
    """Read every photo as (H, W, 3) uint8, by stem."""
    return {path.stem: np.asarray(files.read_photo(path)) for path in files.list_photos(folder)}


def captions_in(folder):
    """Read every caption, by stem."""
    return {path.stem: path.read_text(encoding="utf-8").strip() for path in folder.glob("*.txt")}


def annotation(segmentation, category=7, image=11):
    """Return a mask as COCO's files hold it."""
    return {"id": 1, "image_id": image, "category_id": category, "segmentation": segmentation}
