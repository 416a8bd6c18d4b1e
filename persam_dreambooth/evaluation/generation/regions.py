"""Regions of a picture for an image encoder: the whole picture, the subject alone, the background alone."""

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from persam_dreambooth.segmentation.appearance import cut_out

Region = Literal["whole", "inside", "outside"]
REGIONS: Final[tuple[Region, ...]] = ("whole", "inside", "outside")


def region_of(picture: Image.Image, mask: NDArray[np.bool_], region: Region) -> Image.Image | None:
    """Extract a region of a picture.

    Args:
        picture: RGB.
        mask: (H, W) bool of the picture's size, True where the subject is.
        region: "whole"; "inside" for the subject cut out on grey, independent of all background pixels; "outside" for
            the picture with the subject filled with the background's mean colour, independent of all subject pixels.

    Returns:
        RGB; None if the region is empty: inside an empty mask, outside a full one.
    """
    if region == "whole":
        return picture
    pixels = np.asarray(picture)
    if region == "inside":
        return cut_out(pixels, mask) if mask.any() else None
    if mask.all():
        return None
    filling = pixels[~mask].mean(0).round().astype(np.uint8)
    return Image.fromarray(np.where(mask[..., None], filling, pixels))
