"""Reading and checking of user-supplied masks, however their editors saved them."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image, ImageDraw, ImageFilter

from persam_dreambooth.errors import UserError
from persam_dreambooth.images import to_mask
from persam_dreambooth.masks import Looks, refuse_empty, refuse_full, refuse_picture
from tests.scene import iou

SIDE = 96


def ellipse(box=(24, 30, 70, 66), side=SIDE):
    mask = Image.new("L", (side, side))
    ImageDraw.Draw(mask).ellipse(box, fill=255)
    return mask


def truth():
    return np.asarray(ellipse()) > 127


def photo(seed=0, side=SIDE):
    """Draw smooth coloured clouds with some noise, which have the histogram of a photo."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((side, side), Image.BICUBIC)
    return Image.fromarray((np.asarray(coarse) * 0.9 + random.integers(0, 26, (side, side, 3))).astype(np.uint8))


def reread(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return Image.open(io.BytesIO(file.getvalue()))


def palette(levels, colours):
    image = Image.frombytes("P", levels.shape[::-1], np.uint8(levels).tobytes())
    image.putpalette([level for colour in colours for level in colour])
    return reread(image)


# Transparency

# Drawings in black and white whose alpha channel says nothing about the subject.


def one_pixel_less_opaque():
    drawn = ellipse().convert("RGBA")
    drawn.putpixel((3, 3), (0, 0, 0, 254))
    return drawn, truth()


def rotated():
    turned = ellipse().convert("RGBA").rotate(30, Image.BICUBIC, expand=True)
    return turned, np.asarray(ellipse().rotate(30, Image.BICUBIC, expand=True)) > 127


def with_margin():
    drawn = Image.new("RGBA", (SIDE, SIDE))
    drawn.paste(ellipse().crop((8, 8, 88, 88)).convert("RGBA"), (8, 8))
    return drawn, truth()


def grey_with_alpha():
    drawn = ellipse().convert("LA")
    drawn.putpixel((3, 3), (0, 0))
    return drawn, truth()


def black_named_transparent():
    large = ellipse((96, 120, 280, 264), 4 * SIDE)
    return reread(large.filter(ImageFilter.GaussianBlur(1)), transparency=0), np.asarray(large) > 127


@pytest.mark.parametrize(
    "draw", [one_pixel_less_opaque, rotated, with_margin, grey_with_alpha, black_named_transparent]
)
@pytest.mark.parametrize("as_array", [False, True], ids=["image", "array"])
def test_partly_transparent_black_and_white_drawing_is_read_by_colour(draw, as_array):
    drawn, true = draw()
    if as_array:
        drawn = np.asarray(drawn.convert("RGBA"))
    assert iou(to_mask(drawn), true) > 0.97
    refuse_picture(drawn, "mask")


@settings(max_examples=30, deadline=None)
@given(
    mask=arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=4, max_side=12)).filter(
        lambda mask: mask.any() and not mask.all()
    ),
    veil=st.integers(1, 127),
)
def test_alpha_of_black_and_white_drawing_never_changes_mask(mask, veil):
    """Some of the background becomes half transparent, but none of the subject."""
    alpha = np.where(mask, 255, 255 - veil)
    alpha[tuple(np.argwhere(~mask)[0])] = 255
    drawn = np.stack([mask * 255, mask * 255, mask * 255, alpha], axis=-1).astype(np.uint8)
    np.testing.assert_array_equal(to_mask(Image.fromarray(drawn)), mask)
    np.testing.assert_array_equal(to_mask(drawn), mask)


def test_cut_out_is_read_by_its_alpha():
    cut = photo()
    cut.putalpha(ellipse())
    assert iou(to_mask(reread(cut)), truth()) > 0.99
    refuse_picture(reread(cut), "mask")


# Palettes


@settings(max_examples=30, deadline=None)
@given(levels=arrays(np.uint8, (6, 7), elements=st.integers(0, 255)))
def test_grey_palette_is_read_like_grey_image(levels):
    greys = [(level,) * 3 for level in range(256)]
    np.testing.assert_array_equal(to_mask(palette(levels, greys)), to_mask(Image.fromarray(levels)))


@pytest.mark.parametrize("subject", [(128, 0, 0), (64, 0, 0), (0, 0, 255), (255, 255, 255)])
@pytest.mark.parametrize("background", [(0, 0, 0), (2, 2, 2)])
def test_nearly_black_palette_background_counts_as_black(subject, background):
    np.testing.assert_array_equal(to_mask(palette(truth(), [background, subject])), truth())


# What cannot be a mask


def solid_paint(picture):
    painted = picture.copy()
    painted.paste((255, 0, 0), mask=ellipse())
    return painted


def overlay(picture):
    return Image.composite(Image.blend(picture, Image.new("RGB", picture.size, (255, 0, 0)), 0.6), picture, ellipse())


def cut_out_on_black(picture):
    return Image.composite(picture, Image.new("RGB", picture.size), ellipse())


NO_MASKS = {
    "photo": lambda picture: picture,
    "grey photo": lambda picture: picture.convert("L"),
    "photo as JPEG": lambda picture: reread(picture, "JPEG"),
    "photo of 256 colours": lambda picture: reread(picture.quantize(256), "GIF"),
    "opaque photo with alpha": lambda picture: picture.convert("RGBA"),
    "overlay": overlay,
    "painted photo": solid_paint,
    "coloured cut-out on black": cut_out_on_black,
    "grey cut-out on black": lambda picture: cut_out_on_black(picture).convert("L"),
}


@pytest.mark.parametrize("draw", NO_MASKS.values(), ids=NO_MASKS)
@pytest.mark.parametrize("seed", range(4))
def test_photo_is_refused_despite_edits(draw, seed):
    for given_mask in (draw(photo(seed)), np.asarray(draw(photo(seed)).convert("RGB"))):
        with pytest.raises(UserError, match=r"dog\.png is not a mask but a photo") as refusal:
            refuse_picture(given_mask, "dog.png")
        assert "\n" not in str(refusal.value) and "white on black" in str(refusal.value)


MASKS = {
    "soft edge": lambda mask: mask.filter(ImageFilter.GaussianBlur(2)),
    "poor JPEG": lambda mask: reread(mask, "JPEG", quality=20),
    "red": lambda mask: Image.composite(Image.new("RGB", mask.size, (255, 0, 0)), Image.new("RGB", mask.size), mask),
    "red, soft": lambda mask: Image.composite(
        Image.new("RGB", mask.size, (255, 0, 0)), Image.new("RGB", mask.size), mask.filter(ImageFilter.GaussianBlur(1))
    ),
    "red as JPEG": lambda mask: reread(MASKS["red"](mask), "JPEG", quality=90),
    "enlarged": lambda mask: mask.resize((24, 24), Image.BICUBIC).resize(mask.size, Image.BICUBIC),
    "16 bit": lambda mask: Image.fromarray(np.asarray(mask).astype(np.uint16) * 257),
    "float": lambda mask: Image.fromarray(np.asarray(mask, dtype=np.float32) / 255),
    "black and white": lambda mask: mask.convert("1"),
}


@pytest.mark.parametrize("draw", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("box", [(24, 30, 70, 66), (2, 2, 94, 94), (40, 40, 52, 52)], ids=["usual", "large", "small"])
def test_drawn_mask_is_accepted_however_it_was_saved(draw, box):
    mask = draw(ellipse(box))
    refuse_picture(mask, "mask")
    assert iou(to_mask(mask), np.asarray(ellipse(box)) > 127) > 0.85


@pytest.mark.parametrize("quality", [20, 50, 75])
def test_large_red_mask_is_accepted_even_as_poorest_jpeg(quality):
    red = MASKS["red"](ellipse((200, 240, 500, 600), 800))
    refuse_picture(reread(red, "JPEG", quality=quality), "mask")


def test_thin_strokes_with_soft_edges_are_accepted():
    drawn = Image.new("L", (4 * SIDE, 4 * SIDE))
    ImageDraw.Draw(drawn).line([(20, 30), (200, 300), (350, 60)], fill=255, width=8)
    refuse_picture(drawn.resize((SIDE, SIDE), Image.BICUBIC), "scribble")


@settings(max_examples=40, deadline=None)
@given(mask=arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=30)))
def test_two_levels_are_always_mask(mask):
    for drawn in (Image.fromarray(mask), mask, mask.astype(np.uint8), Image.fromarray(mask.astype(np.uint8) * 255)):
        refuse_picture(drawn, "mask")


# Size and polarity


@pytest.mark.parametrize(("marked", "words"), [(0, "is empty"), (1, "marks 1 of 9216"), (15, "marks 15 of 9216")])
def test_mask_that_marks_almost_nothing_is_refused(marked, words):
    mask = np.zeros((SIDE, SIDE), bool)
    mask.flat[:marked] = True
    with pytest.raises(UserError, match=words):
        refuse_empty(mask, "m.png")
    mask.flat[:16] = True
    refuse_empty(mask, "m.png")


def test_full_mask_is_refused():
    with pytest.raises(UserError, match=r"m\.png is full"):
        refuse_full(np.ones((4, 4), bool), "m.png")
    refuse_full(np.eye(4, dtype=bool), "m.png")


def test_inverted_and_nearly_full_masks_cause_warnings():
    looks = Looks()
    looks.add("right.jpg", truth())
    assert looks.warnings() == []
    looks.add("inverted.jpg", ~truth())
    (words,) = looks.warnings()
    assert "inverted.jpg cover the border" in words and "right.jpg" not in words
    full = np.ones((SIDE, SIDE), bool)
    full[0, :20] = False
    looks.add("full.jpg", full)
    assert any("full.jpg cover nearly everything" in line for line in looks.warnings())


def test_nearly_full_masks_cause_a_single_warning():
    looks, full = Looks(), np.ones((SIDE, SIDE), bool)
    for name in ("a.jpg", "b.jpg"):
        looks.add(name, full)
    assert [line for line in looks.warnings() if "the masks of all photos" in line] == looks.warnings()


def test_smooth_grey_weights_are_no_photo():
    ramp = np.tile(np.linspace(0, 255, SIDE).astype(np.uint8), (SIDE, 1))
    refuse_picture(reread(Image.fromarray(ramp)), "mask")
    with pytest.raises(UserError, match="mostly shades of grey"):
        refuse_picture(reread(photo().convert("L")), "mask")


@pytest.mark.parametrize("mode", ["L", "LA", "I;16", "I", "F", "CMYK"])
def test_few_grey_levels_are_a_mask_in_every_mode(mode):
    """Small, so that most of the grey is near its edge, where it is not smooth."""
    levels = np.zeros((40, 48), np.uint8)
    levels[20:, 24:], levels[20, 24] = 128, 255
    image = Image.fromarray(levels)
    if mode == "I;16":
        image = Image.fromarray(levels.astype(np.uint16) * 257)
    elif mode == "CMYK":
        image = image.convert("RGB").convert("CMYK")
    else:
        image = image.convert(mode)
    assert image.mode == mode
    refuse_picture(image, "it")
