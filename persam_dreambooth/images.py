"""What a picture and a mask are in memory: upright 8-bit RGB, and an (H, W) array of bool."""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from persam_dreambooth.errors import UserError

# EXIF orientation -> what makes the picture upright.
TRANSPOSITIONS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def orientation(image: Image.Image) -> int | None:
    """The EXIF orientation by which an image is to be turned; None where it is upright, or its EXIF is damaged."""
    try:
        found = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # Pillow's EXIF reader answers damage with a dozen kinds of exception
        return None
    return found if found in TRANSPOSITIONS else None


def upright(image: Image.Image) -> Image.Image:
    """Turn an image as its EXIF orientation says; one whose EXIF is damaged stays as it is.

    Pillow's own `exif_transpose` writes the EXIF back, and so fails on damaged tags that do not matter here.
    """
    turn = orientation(image)
    if turn is None:
        return image
    turned = image.transpose(TRANSPOSITIONS[turn])
    for key in ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"):  # where Pillow would find it again
        turned.info.pop(key, None)
    return turned


def to_rgb(image: Image.Image) -> Image.Image:
    """Bring any Pillow image to what every model here takes.

    Args:
        image: any mode (RGB, palette, grey, 16 bit, float, CMYK, with or without alpha), with
            or without an EXIF orientation.

    Returns:
        An upright 8-bit RGB image. What is transparent becomes white, as a viewer shows it.
        16-bit values keep their high byte; floats are read as [0, 1], or as [0, 255] when any
        value is above 1.
    """
    image = upright(image)
    if image.mode.startswith(("I", "F")):
        image = Image.fromarray(_to_8_bit(np.asarray(image)))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _to_8_bit(levels: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Scale one channel of 16-bit integers or floats, (H, W), to uint8."""
    values = np.nan_to_num(levels.astype(np.float64))
    if np.issubdtype(levels.dtype, np.floating):
        values = values * 255 if values.max(initial=0) <= 1 else values
    elif levels.dtype.itemsize == 2 or values.max(initial=0) > 255:
        values = values // 256
    return values.clip(0, 255).astype(np.uint8)


def to_mask(mask: Image.Image | NDArray[np.generic]) -> NDArray[np.bool_]:
    """Read any drawing of a mask as foreground and background.

    Args:
        mask: a Pillow image of any mode, or an (H, W) or (H, W, 1..4) array of bool, integer or
            float. A cut-out (an alpha channel that is not constant) is read by its alpha; a
            palette image by which pixels are not black; everything else by which pixels exceed
            half of the brightest level in the file, so that {0, 1}, {0, 128} and soft 8-bit
            masks all mean what they show.

    Returns:
        (H, W) bool, upright, True where the subject is. All False where nothing is drawn.

    Raises:
        UserError: the array has another number of dimensions or channels.
    """
    if isinstance(mask, Image.Image):
        mask = upright(mask)
        has_palette = mask.mode in ("P", "PA")
        if has_palette or mask.has_transparency_data:
            mask = mask.convert("RGBA")
            *colours, alpha = (np.asarray(channel) for channel in mask.split())
            if has_palette and alpha.min() == 255:
                return np.asarray(np.any(colours, axis=0))
        elif mask.mode not in ("1", "L", "RGB") and not mask.mode.startswith(("I", "F")):
            mask = mask.convert("RGB")
        mask = np.asarray(mask)
    if mask.ndim not in (2, 3) or mask.size == 0 or (mask.ndim == 3 and not 1 <= mask.shape[-1] <= 4):
        raise UserError(f"a mask is an (H, W) or (H, W, channels) array, not one of shape {mask.shape}")
    levels = _levels(mask)
    return np.asarray(levels > levels.max(initial=0) / 2)


def _levels(mask: NDArray[np.generic]) -> NDArray[np.float64]:
    """The one channel, (H, W) float, that says how much each pixel belongs to the mask."""
    values = mask.astype(np.float64)
    if np.issubdtype(mask.dtype, np.floating):
        values = np.nan_to_num(values)
    if values.ndim == 2:
        return values
    if values.shape[-1] in (2, 4):
        alpha = values[..., -1]
        if alpha.min() != alpha.max():
            return alpha
        values = values[..., :-1]
    return np.asarray(values.max(axis=-1))
