"""Images and masks in memory: upright 8-bit RGB images, and (H, W) arrays of bool."""

from functools import lru_cache
from io import BytesIO
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms

from persam_dreambooth.errors import UserError

# EXIF orientation -> the transposition that makes the image upright.
TRANSPOSITIONS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
PROFILED_MODES: Final = {"RGB": ("RGB", "RGBA"), "CMYK": ("CMYK",), "GRAY": ("L",)}
"""Colour space of a profile -> the image modes that it describes."""
SRGB_TOLERANCE: Final = 2
"""A profile that changes no colour by more than this, of 255, counts as sRGB."""
LOSSY_FORMATS: Final = ("JPEG", "MPO", "WEBP", "AVIF", "HEIF")
COMPRESSION_NOISE: Final = 3
"""8-bit levels this close to black or white are black or white: lossy compression leaves such noise."""
NEARLY_BLACK: Final = 1 / 16
"""Share of the brightest level; the dimmest colour in use for a subject's number has 1/8."""
GREY_TOLERANCE: Final = 8


def orientation(image: Image.Image) -> int | None:
    """Return the EXIF orientation to correct; None if the image is upright or its EXIF is damaged."""
    try:
        found = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # Pillow's EXIF reader raises a dozen kinds of exception on damaged tags
        return None
    return found if found in TRANSPOSITIONS else None


def upright(image: Image.Image) -> Image.Image:
    """Rotate an image as its EXIF orientation says; one with damaged EXIF is returned unchanged.

    Pillow's own `exif_transpose` writes the EXIF back, and so fails on damaged tags that do not matter here.
    """
    turn = orientation(image)
    if turn is None:
        return image
    turned = image.transpose(TRANSPOSITIONS[turn])
    for key in ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"):  # wherever Pillow would find it again
        turned.info.pop(key, None)
    return turned


def to_rgb(image: Image.Image, managed: bool = True) -> Image.Image:
    """Convert any Pillow image to the form that every model here takes.

    Args:
        image: any mode (RGB, palette, grey, 16 bit, float, CMYK, with or without alpha), with
            or without an EXIF orientation or a colour profile.
        managed: convert colours to sRGB by the embedded profile; otherwise treat the stored values as sRGB.

    Returns:
        An upright 8-bit RGB image. Transparent areas become white, as viewers show them.
        16-bit values keep their high byte; floats are read as [0, 1], or as [0, 255] when any
        value is above 1.
    """
    image = upright(image)
    if managed:
        image = to_srgb(image)
    if image.mode.startswith(("I", "F")):
        image = Image.fromarray(_to_8_bit(np.asarray(image)))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def to_srgb(image: Image.Image) -> Image.Image:
    """Convert colours to sRGB by the embedded profile; unchanged if it is missing, damaged, or sRGB itself."""
    profile = image.info.get("icc_profile")
    conversion = _conversion(profile, image.mode) if isinstance(profile, bytes) else None
    converted = None if conversion is None else ImageCms.applyTransform(image, conversion)
    return image if converted is None else converted


@lru_cache(maxsize=8)
def _conversion(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the transform from a profile to sRGB; None if it changes nothing or does not apply to the mode."""
    try:
        stored = ImageCms.ImageCmsProfile(BytesIO(profile))
        if mode not in PROFILED_MODES.get(stored.profile.xcolor_space.strip(), ()):
            return None
        target = ImageCms.createProfile("sRGB")
        conversion = ImageCms.buildTransform(stored, target, mode, "RGBA" if mode == "RGBA" else "RGB")
        if mode != "RGB":
            return conversion
        # Judged by its effect, not its name: many profiles are sRGB, and few are named so.
        before = np.stack(np.meshgrid(*[np.arange(0, 256, 51, dtype=np.uint8)] * 3), axis=-1).reshape(1, -1, 3)
        after = ImageCms.applyTransform(Image.fromarray(before), conversion)
        changed = np.abs(np.asarray(after).astype(int) - before).max()
    except (ImageCms.PyCMSError, AttributeError, OSError, TypeError, ValueError):
        return None
    return conversion if changed > SRGB_TOLERANCE else None


def _to_8_bit(levels: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Scale one channel of 16-bit integers or floats, (H, W), to uint8."""
    values = np.nan_to_num(levels.astype(np.float64))
    if np.issubdtype(levels.dtype, np.floating):
        values = values * 255 if values.max(initial=0) <= 1 else values
    elif levels.dtype.itemsize == 2 or values.max(initial=0) > 255:
        values = values // 256
    return values.clip(0, 255).astype(np.uint8)


def to_mask(mask: Image.Image | NDArray[np.generic]) -> NDArray[np.bool_]:
    """Convert a mask drawn in any way to foreground and background.

    Args:
        mask: a Pillow image of any mode, or an (H, W) or (H, W, 1..4) array of bool, integer or float. In
            a coloured palette image, whose colours number subjects, every pixel that is not black is foreground. In
            everything else, grey palettes included, foreground is what exceeds half of the brightest level in the
            file, so that {0, 1}, {0, 128} and soft 8-bit masks all mean what they show; a file of compression noise
            (see `to_levels`) is empty. The level of a cut-out (an alpha channel that is not constant) is its alpha;
            if its opaque part is itself black and white, as in a mask that an editor has rotated, it is colour times
            alpha.

    Returns:
        (H, W) bool, upright, True where the subject is; all False if nothing is drawn.

    Raises:
        UserError: the array has another number of dimensions or channels.
    """
    levels = _brightness(mask)
    if _numbers_subjects(mask):
        return np.asarray(levels > float(levels.max(initial=0)) * NEARLY_BLACK)
    if _is_noise(levels, mask):
        return np.zeros(levels.shape, bool)
    return above_half(levels)


def to_levels(mask: Image.Image | NDArray[np.generic]) -> NDArray[np.uint8]:
    """Convert a drawn mask to weights: black is 0, white 255, and grey in between.

    A drawing of one level on black, such as {0, 1} or {0, 128}, and a coloured palette image have no greys: they are
    read as `to_mask` reads them. In all others the stored level is the weight, 16-bit and float levels at 8 bits.
    Levels up to 3 count as black and from 252 on as white, since lossy compression leaves such noise.

    Args:
        mask: as `to_mask` takes it.

    Returns:
        (H, W) uint8, upright.

    Raises:
        UserError: the array has another number of dimensions or channels.
    """
    levels = _brightness(mask)
    if _numbers_subjects(mask) or _is_noise(levels, mask) or _has_one_level(levels):
        return to_mask(mask).astype(np.uint8) * np.uint8(255)
    values = levels if levels.dtype == np.uint8 else _to_8_bit(levels)
    return without_noise(values)


def without_noise(levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Make 8-bit levels that are almost black or almost white (within 3 of 255) black or white."""
    values = np.where(levels <= COMPRESSION_NOISE, np.uint8(0), levels)
    return np.where(values >= 255 - COMPRESSION_NOISE, np.uint8(255), values)


def above_half(levels: NDArray[Any]) -> NDArray[np.bool_]:
    """Return where levels, (H, W), exceed half of the brightest, (H, W) bool; nowhere if all are 0."""
    return np.asarray(levels > float(levels.max(initial=0)) * 0.5)


def _brightness(mask: Image.Image | NDArray[np.generic]) -> NDArray[Any]:
    """Return the levels of a drawn mask, (H, W): its brightest channel, or what `drawing` says."""
    levels: NDArray[Any] = drawing(mask)
    return levels.max(axis=-1) if levels.ndim == 3 else levels


def _has_one_level(levels: NDArray[Any]) -> bool:
    """Return whether levels, (H, W), are black and one other level, or a single level."""
    bright = levels[levels > 0]
    return bright.size == 0 or bool(bright.min() == bright.max() and (levels.min() <= 0 or bright[0] <= 1))


def _is_noise(levels: NDArray[Any], mask: Image.Image | NDArray[np.generic]) -> bool:
    """Return whether 8-bit levels, (H, W), are the noise of a black picture after lossy compression.

    {0, 1} from a lossless file or an array is a mask of numbers instead.
    """
    if levels.dtype != np.uint8 or levels.max(initial=0) > COMPRESSION_NOISE:
        return False
    is_lossy = isinstance(mask, Image.Image) and mask.format in LOSSY_FORMATS
    return is_lossy or not _has_one_level(levels)


def drawing(mask: Image.Image | NDArray[np.generic]) -> NDArray[np.generic]:
    """Return the levels of a drawn mask, (H, W), or its colours, (H, W, 1..3), upright, by the rules of `to_mask`.

    Raises:
        UserError: the array has another number of dimensions or channels.
    """
    if isinstance(mask, Image.Image):
        mask = upright(mask)
        if mask.mode in ("P", "PA") or mask.has_transparency_data:
            mask = mask.convert("RGBA")
        elif mask.mode not in ("1", "L", "RGB") and not mask.mode.startswith(("I", "F")):
            mask = mask.convert("RGB")
    array: NDArray[Any] = np.asarray(mask)
    if array.ndim not in (2, 3) or array.size == 0 or (array.ndim == 3 and not 1 <= array.shape[-1] <= 4):
        raise UserError(f"a mask is an (H, W) or (H, W, channels) array, not one of shape {array.shape}")
    if np.issubdtype(array.dtype, np.floating):
        array = np.nan_to_num(array)
    if array.ndim == 2 or array.shape[-1] in (1, 3):
        return array
    colours, alpha = array[..., :-1], array[..., -1]
    if alpha.min() == alpha.max():
        return colours
    if not _is_black_and_white(colours[alpha > alpha.max() / 2]):
        return alpha
    return np.asarray(colours.max(axis=-1) * (alpha / alpha.max()))


def mask_iou(mask: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Return the intersection over union of two (H, W) masks, in [0, 1]; 0 if both are empty."""
    return float((mask & other).sum() / max(1, (mask | other).sum()))


def _numbers_subjects(mask: Image.Image | NDArray[np.generic]) -> bool:
    """Return whether a mask is an opaque palette image whose colours are not all grey."""
    if not isinstance(mask, Image.Image) or mask.mode not in ("P", "PA"):
        return False
    colours = np.asarray(mask.convert("RGBA"))
    return bool(colours[..., 3].min() == 255 and np.ptp(colours[..., :3], axis=-1).max() > GREY_TOLERANCE)


def _is_black_and_white(colours: NDArray[np.generic]) -> bool:
    """Return whether colours, (N, channels), are black and white: both occur, and almost nothing else."""
    values = colours.astype(np.float32)
    levels = values.max(axis=-1)
    brightest = levels.max(initial=0)
    dark, light = levels < brightest / 4, levels > brightest * 3 / 4
    grey = levels - values.min(axis=-1) <= brightest / 8
    return bool(dark.mean() > 0.01 and light.any() and ((dark | light) & grey).mean() > 0.9)
