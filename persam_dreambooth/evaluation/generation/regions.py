"""A picture, its subject alone, and its background alone, as an image encoder is shown them."""

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from persam_dreambooth.segmentation.appearance import cut_out

Region = Literal["whole", "inside", "outside"]
REGIONS: Final[tuple[Region, ...]] = ("whole", "inside", "outside")


def region_of(picture: Image.Image, mask: NDArray[np.bool_], region: Region) -> Image.Image | None:
    """What of a picture counts.

    Args:
        picture: RGB.
        mask: (H, W) bool of the picture's size, True where the subject is.
        region: "whole"; "inside" for the subject cut out on grey, which no pixel beside it changes; "outside" for the
            picture with the background's mean colour where the subject is, which no pixel of the subject changes.

    Returns:
        RGB; None where nothing of it is left: inside an empty mask, outside a full one.
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
