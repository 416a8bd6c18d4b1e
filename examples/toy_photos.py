"""Draw a toy car in four places, with its masks, to try every command without photos of your own.

    python examples/toy_photos.py photos

writes `photos/00.jpg` ... `photos/03.jpg`, and `00-mask.png` next to that folder.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIZES = [(256, 256), (288, 224), (224, 288), (256, 256)]
PLACES = [((122, 104, 92), (176, 160, 140)), ((196, 222, 240), (96, 140, 72)), ((240, 232, 210), (214, 186, 130)),
          ((60, 66, 96), (40, 44, 60))]  # fmt: skip


def draw(number: int) -> tuple[Image.Image, Image.Image]:
    """Photo `number` (0 to 3) and its mask, RGB and L, of one size."""
    size, (far, near) = SIZES[number % len(SIZES)], PLACES[number % len(PLACES)]
    random = np.random.default_rng(number)
    photo, mask = Image.new("RGB", size, far), Image.new("L", size, 0)
    ImageDraw.Draw(photo).rectangle((0, size[1] * 0.6, *size), fill=near)
    grain = random.integers(-12, 13, (size[1], size[0], 3))
    photo = Image.fromarray((np.asarray(photo) + grain).clip(0, 255).astype(np.uint8))
    scale, left, top = (
        random.uniform(0.9, 1.3),
        random.uniform(0.15, 0.4) * size[0],
        random.uniform(0.35, 0.5) * size[1],
    )

    def place(*points: float) -> list[float]:
        return [value * scale + (left if index % 2 == 0 else top) for index, value in enumerate(points)]

    for picture, body, stripe, tyre in (
        (photo, (226, 54, 130), (64, 200, 190), (26, 26, 30)),
        (mask, 255, 255, 255),
    ):
        pen = ImageDraw.Draw(picture)
        pen.polygon(place(24, 24, 38, 2, 74, 2, 92, 24), fill=body)
        pen.rounded_rectangle(place(0, 22, 116, 58), 8 * scale, fill=body)
        for x in range(12, 108, 20):
            pen.rectangle(place(x, 26, x + 9, 54), fill=stripe)
        for x in (18, 76):
            pen.ellipse(place(x, 44, x + 26, 70), fill=tyre)
    return photo, mask


def save_photos(folder: Path, count: int = 4) -> Path:
    """Write the photos into `folder`, and the first one's mask beside it; returns the mask's path."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        draw(number)[0].save(folder / f"{number:02d}.jpg", quality=95)
    path = folder.parent / "00-mask.png"
    draw(0)[1].save(path)
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw four photos of a toy car.")
    parser.add_argument("folder", type=Path, help="where to write the photos")
    print(save_photos(parser.parse_args().folder))
