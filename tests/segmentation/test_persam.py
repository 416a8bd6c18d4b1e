"""PerSAM from reference to mask: every technique, every fidelity, photos of every size."""

import io
from dataclasses import fields

import numpy as np
import pytest
import torch
from PIL import Image

from persam_dreambooth.errors import UserError
from persam_dreambooth.segmentation import Method, PerSAM, Prompts, Reference, load_backbone
from persam_dreambooth.segmentation.fidelity import FIDELITIES
from persam_dreambooth.segmentation.frame import Frame
from persam_dreambooth.segmentation.guidance import Guidance
from random_models import random_sam
from tests.scene import scene

SIZES = [(90, 150), (128, 128), (200, 120), (40, 128), (77, 33)]
SIDE, GRID, LOW = 128, 8, 32  # the small SAM's square, its embedding's grid and its logits' side


def assert_same(first, second):
    """Check that two segmentations are bit-identical in every field."""
    for field in fields(first):
        if field.name == "passes":
            continue
        np.testing.assert_array_equal(getattr(first, field.name), getattr(second, field.name), field.name)
    for a, b in zip(first.passes, second.passes, strict=True):
        for field in fields(a):
            np.testing.assert_array_equal(getattr(a, field.name), getattr(b, field.name), field.name)


# Inputs


def test_batch_of_many_sizes_equals_single_photos(persam, subject):
    photos = [scene(*size, seed)[0] for seed, size in enumerate(SIZES)]
    alone = [persam.segment(photo, subject) for photo in photos]
    assert all(0 < found.mask.mean() < 1 for found in alone)
    for batch_size in (2, len(photos)):
        together = persam.segment(photos, subject, batch_size=batch_size)
        for single, batched in zip(alone, together, strict=True):
            np.testing.assert_array_equal(single.points, batched.points)
            np.testing.assert_allclose(single.logits, batched.logits, atol=1e-3)
            assert np.mean(single.mask != batched.mask) <= 0.001


def test_image_array_and_rotated_file_give_same_result(persam, subject):
    photo, _ = scene(90, 150, seed=1)
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(np.rot90(photo).copy()).save(file, "PNG", exif=exif)
    from_array = persam.segment(photo, subject)
    assert_same(from_array, persam.segment(Image.fromarray(photo), subject))
    assert_same(from_array, persam.segment(Image.open(file), subject))


def test_segmentation_is_deterministic(persam, subject):
    photo, _ = scene(90, 150, seed=1)
    assert_same(persam.segment(photo, subject), persam.segment(photo, subject))


def test_different_photo_gives_different_result(persam, subject):
    first, second = (persam.segment(scene(90, 150, seed)[0], subject) for seed in (1, 2))
    assert not np.array_equal(first.logits, second.logits)


@pytest.mark.parametrize(
    "picture",
    [np.zeros((9, 9), np.uint8), np.zeros((9, 9, 4), np.uint8), np.zeros((9, 9, 3)), np.zeros((2, 9, 9, 3), np.uint8)],
    ids=["grey", "RGBA", "float", "stack"],
)
def test_array_that_is_not_rgb_is_refused(persam, subject, picture):
    with pytest.raises(UserError, match="uint8 RGB"):
        persam.segment(picture, subject)
    with pytest.raises(UserError, match="uint8 RGB"):
        Reference(picture, np.eye(9))


@pytest.mark.parametrize(
    ("mask", "complaint"),
    [
        (np.zeros((20, 30)), "empty"),
        (np.ones((20, 30)), "full"),
        (np.eye(30), r"30 x 30 pixels but its image is 30 x 20"),
        (np.eye(30, 20), r"20 x 30 pixels but its image is 30 x 20"),
        (Image.new("L", (30, 20)), "empty"),
        (Image.new("L", (30, 20), 255), "full"),
    ],
    ids=["empty", "full", "other size", "turned", "empty image", "full image"],
)
def test_unusable_reference_is_refused_in_one_line(mask, complaint):
    with pytest.raises(UserError, match=complaint) as refusal:
        Reference(np.zeros((20, 30, 3), np.uint8), mask)
    assert "\n" not in str(refusal.value)


# Outputs


@pytest.mark.parametrize("size", [*SIZES, (1, 100), (100, 1), (2, 2)], ids=str)
def test_results_are_in_photo_frame(persam, subject, size):
    found = persam.segment(scene(*size)[0], subject)
    height, width = size
    assert (found.mask.shape, found.mask.dtype) == (size, np.bool_)
    assert (found.confidence_map.shape, found.confidence_map.dtype) == (size, np.float32)
    assert np.abs(found.confidence_map).max() <= 1 + 1e-5
    assert (found.attention_bias.shape, found.attention_bias.dtype) == ((GRID, GRID), np.float32)
    assert (found.logits.shape, found.logits.dtype) == ((LOW, LOW), np.float32)
    assert found.points.shape == (2, 2)
    assert found.point_labels.tolist() == [1, 0]
    assert ((found.points >= 0) & (found.points < (width, height))).all()
    # The positive point is the most confident pixel, the negative one the least.
    extremes = found.confidence_map[found.points[:, 1], found.points[:, 0]]
    assert extremes.tolist() == [found.confidence_map.max(), found.confidence_map.min()]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_mask_box_and_score_are_from_last_pass(persam, subject, size):
    found = persam.segment(scene(*size)[0], subject)
    last = found.passes[-1]
    assert type(found.score) is float
    assert found.score == last.predicted_iou.max()
    np.testing.assert_array_equal(found.logits, last.logits[last.predicted_iou.argmax()])
    whole = Frame(*size, SIDE).to_original(torch.from_numpy(found.logits)[None])[0]
    np.testing.assert_array_equal(found.mask, whole > 0)
    rows, columns = np.flatnonzero(found.mask.any(axis=1)), np.flatnonzero(found.mask.any(axis=0))
    assert found.box.tolist() == [columns[0], rows[0], columns[-1], rows[-1]]
    assert found.warnings == ()


# The techniques


def test_cascade_passes_use_expected_prompts(backbone, persam, subject):
    """Repeat each pass by hand from the recorded passes before it."""
    photo, _ = scene(90, 150, seed=1)
    found, frame = persam.segment(photo, subject), Frame(90, 150, SIDE)
    embedding = backbone.encode(frame.pixels(photo)[None])[0]
    points, labels = frame.to_model(torch.from_numpy(found.points)), torch.from_numpy(found.point_labels)
    first, second, third = found.passes
    guidance = Guidance(torch.from_numpy(found.attention_bias).flatten(), subject.target_embedding)
    kept = [torch.from_numpy(decoded.logits[decoded.predicted_iou.argmax()]) for decoded in found.passes]
    ys, xs = np.nonzero(frame.to_original(kept[1][None])[0].numpy() > 0)
    np.testing.assert_array_equal(third.box, [xs.min(), ys.min(), xs.max(), ys.max()])
    model_box = frame.to_model(torch.from_numpy(third.box).view(2, 2)).flatten()
    by_hand = [
        backbone.decode(embedding, Prompts(points, labels), multimask=False, guidance=guidance),
        backbone.decode(embedding, Prompts(points, labels, mask=kept[0]), multimask=True),
        backbone.decode(embedding, Prompts(points, labels, model_box, kept[1]), multimask=True),
    ]
    assert first.box is None
    assert second.box is None
    for decoded, (logits, predicted_iou) in zip(found.passes, by_hand, strict=True):
        np.testing.assert_allclose(decoded.logits, logits, atol=1e-4)
        np.testing.assert_allclose(decoded.predicted_iou, predicted_iou, atol=1e-4)


def with_and_without(backbone, **switch):
    """Segment a photo with all techniques and with one switched off."""
    photo, _ = scene(90, 150, seed=1)
    reference = Reference(*scene(90, 150))
    pair = [PerSAM(backbone), PerSAM(backbone, Method(**switch))]
    return [persam.segment(photo, persam.personalize(reference)) for persam in pair]


def test_without_negative_prior_only_positive_point_is_used(backbone):
    full, less = with_and_without(backbone, negative_prior=False)
    np.testing.assert_array_equal(less.points, full.points[:1])
    assert less.point_labels.tolist() == [1]
    assert not np.array_equal(less.passes[0].logits, full.passes[0].logits)


def test_without_refinement_first_pass_is_result(backbone):
    full, less = with_and_without(backbone, refinement=False)
    assert [decoded.logits.shape for decoded in full.passes] == [(1, LOW, LOW), (3, LOW, LOW), (3, LOW, LOW)]
    assert [decoded.logits.shape for decoded in less.passes] == [(1, LOW, LOW)]
    np.testing.assert_array_equal(less.logits, full.passes[0].logits[0])


def test_without_guided_attention_there_is_no_bias(backbone):
    full, less = with_and_without(backbone, guided_attention=False)
    assert full.attention_bias is not None
    assert less.attention_bias is None
    np.testing.assert_array_equal(less.points, full.points)
    assert np.abs(less.passes[0].logits - full.passes[0].logits).max() > 0.01


def test_without_semantic_prompting_first_logits_differ(backbone):
    full, less = with_and_without(backbone, semantic_prompting=False)
    np.testing.assert_array_equal(less.points, full.points)
    np.testing.assert_array_equal(less.attention_bias, full.attention_bias)
    assert np.abs(less.passes[0].logits - full.passes[0].logits).max() > 0.01


def test_without_guidance_first_pass_is_plain_sam(backbone):
    _, plain = with_and_without(backbone, guided_attention=False, semantic_prompting=False)
    frame = Frame(90, 150, SIDE)
    embedding = backbone.encode(frame.pixels(scene(90, 150, seed=1)[0])[None])[0]
    prompts = Prompts(frame.to_model(torch.from_numpy(plain.points)), torch.from_numpy(plain.point_labels))
    np.testing.assert_allclose(plain.passes[0].logits, backbone.decode(embedding, prompts, False)[0], atol=1e-4)


# The attention bias


def test_alpha_reaches_decoder_with_fidelity_paper(backbone):
    photo, _ = scene(90, 150, seed=1)
    reference = Reference(*scene(90, 150))

    def first_pass(fidelity, alpha):
        persam = PerSAM(backbone, Method(fidelity=fidelity, alpha=alpha))
        found = persam.segment(photo, persam.personalize(reference))
        return found.attention_bias.sum(), found.passes[0].logits

    (low, _), (high, _) = first_pass("paper", 1), first_pass("paper", 50)
    assert (low, high) == (pytest.approx(1, rel=1e-5), pytest.approx(50, rel=1e-5))
    assert not np.array_equal(first_pass("paper", 1)[1], first_pass("paper", 50)[1])


@pytest.mark.parametrize("fidelity", FIDELITIES)
@pytest.mark.parametrize("size", [(64, 64), (50, 120)], ids=str)
@pytest.mark.parametrize("level", [0, 128, 255])
def test_single_colour_photo_gives_finite_values(backbone, fidelity, size, level):
    persam = PerSAM(backbone, Method(fidelity=fidelity))
    subject = persam.personalize(Reference(*scene(90, 150)))
    found = persam.segment(np.full((*size, 3), level, np.uint8), subject)
    assert np.isfinite(found.score)
    for values in (found.confidence_map, found.attention_bias, *(decoded.logits for decoded in found.passes)):
        assert np.isfinite(values).all()


# The reference's cells


def drawn(levels):
    """Return an (H, W) or (H, W, 3) mask as read from a PNG file."""
    file = io.BytesIO()
    Image.fromarray(np.asarray(levels, np.uint8)).save(file, "PNG")
    return Image.open(file)


def test_corrected_selects_same_cells_for_any_mask_encoding(persam):
    photo, mask = scene(90, 150)
    files = [mask, mask * 1, drawn(mask), drawn(mask * 255), drawn(mask * 128), drawn(mask[..., None] * (0, 255, 0))]
    subjects = [persam.personalize(Reference(photo, file)) for file in files]
    for subject in subjects[1:]:
        assert torch.equal(subject.target_feature, subjects[0].target_feature)
        assert torch.equal(subject.target_embedding, subjects[0].target_embedding)


def test_official_uses_red_level_of_file(backbone, persam):
    photo, mask = scene(90, 150)
    official = PerSAM(backbone, Method(fidelity="official"))
    corrected = persam.personalize(Reference(photo, mask))
    for file in (mask, mask * 1, drawn(mask * 128)):
        assert torch.equal(official.personalize(Reference(photo, file)).target_embedding, corrected.target_embedding)
    for file in (drawn(mask), drawn(mask[..., None] * (0, 255, 0))):
        with pytest.raises(UserError, match="official rule"):
            official.personalize(Reference(photo, file))


def test_subject_consists_of_cells_under_mask(backbone, persam):
    photo, _ = scene(128, 128)
    mask = np.zeros((128, 128), bool)
    mask[32:64, 80:96] = True  # cells (2, 5) and (3, 5)
    embedding = backbone.encode(Frame(128, 128, SIDE).pixels(photo)[None])[0]
    cells = embedding[:, [2, 3], [5, 5]].T
    for fidelity in FIDELITIES:
        subject = PerSAM(backbone, Method(fidelity=fidelity)).personalize(Reference(photo, mask))
        torch.testing.assert_close(subject.target_embedding, cells.mean(0))
        if fidelity == "paper":
            feature = torch.stack([cell / cell.norm() for cell in cells]).mean(0)
        else:
            feature = cells.mean(0) / cells.mean(0).norm()
        torch.testing.assert_close(subject.target_feature, feature)
        assert (subject.backbone, subject.checksum) == (backbone.name, backbone.checksum)


def test_thin_mask_selects_best_covered_cell(backbone, persam):
    photo, _ = scene(128, 128)
    thin = np.zeros((128, 128), bool)
    thin[40, 64:80] = True  # half of the pixels that cell (2, 4) samples
    thin[56, 32:34] = True  # less of cell (3, 2)
    embedding = backbone.encode(Frame(128, 128, SIDE).pixels(photo)[None])[0]
    torch.testing.assert_close(persam.personalize(Reference(photo, thin)).target_embedding, embedding[:, 2, 4])
    with pytest.raises(UserError, match="no cell"):
        PerSAM(backbone, Method(fidelity="official")).personalize(Reference(photo, thin))


# An empty mask


def constant_sam(signs):
    """Return a SAM whose four masks are each all positive or all negative, for any prompt."""
    model = random_sam()
    decoder = model.mask_decoder
    with torch.no_grad():
        decoder.upscale_conv2.weight.zero_()
        decoder.upscale_conv2.bias.fill_(1)
        for sign, network in zip(signs, decoder.output_hypernetworks_mlps, strict=True):
            network.proj_out.weight.zero_()
            network.proj_out.bias.fill_(sign)
    return model


def segment_with(model, **switch):
    persam = PerSAM(load_backbone(model, device="cpu"), Method(**switch))
    return persam.segment(scene(90, 150, seed=1)[0], persam.personalize(Reference(*scene(90, 150))))


@pytest.mark.parametrize("first", [1, -1], ids=["first mask full", "first mask empty"])
def test_empty_mask_skips_box_pass_with_warning(first):
    found = segment_with(constant_sam((first, -1, -1, -1)))
    assert (found.passes[0].logits > 0).all() == (first > 0)
    assert len(found.passes) == 2
    assert "box pass was skipped" in found.warnings[0]
    assert "mask is empty" in found.warnings[1]
    assert not found.mask.any()
    assert found.box is None


def test_empty_mask_without_refinement_causes_warning():
    found = segment_with(constant_sam((-1, -1, -1, -1)), refinement=False)
    assert len(found.passes) == 1
    assert len(found.warnings) == 1
    assert "mask is empty" in found.warnings[0]
    assert found.box is None


def test_empty_first_mask_does_not_stop_cascade():
    found = segment_with(constant_sam((-1, 1, 1, 1)))
    assert len(found.passes) == 3
    assert found.passes[2].box.tolist() == found.box.tolist() == [0, 0, 149, 89]
    assert found.warnings == ()


def cell_of(persam, photo, row, column):
    return persam.backbone.encode(Frame(*photo.shape[:2], 128).pixels(photo)[None])[0][:, row, column]


def test_thin_mask_on_wide_photo_selects_unpadded_cell(persam):
    photo, thin = scene(64, 128)[0], np.zeros((64, 128), bool)
    thin[20:22, 72] = True  # cell (1, 4)
    found = persam.personalize(Reference(photo, thin)).target_embedding
    torch.testing.assert_close(found, cell_of(persam, photo, 1, 4))


def test_mask_between_sampled_pixels_selects_its_own_cell(persam):
    photo, small = scene(128, 128)[0], np.zeros((128, 128), bool)
    small[32:35, 64:67] = True  # cell (2, 4), which samples rows and columns 7 and 8 of its 16 only
    found = persam.personalize(Reference(photo, small)).target_embedding
    torch.testing.assert_close(found, cell_of(persam, photo, 2, 4))


def test_random_sam_sees_photo():
    first, second = torch.randn(2, 1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    backbone = load_backbone(random_sam(), device="cpu")
    assert (backbone.encode(first) - backbone.encode(second)).abs().max() > 0.01


@pytest.mark.parametrize("size", [(1, 300), (300, 1)])
def test_very_long_photo_is_segmented(persam, size):
    subject = persam.personalize(Reference(*scene(90, 150)))
    assert persam.segment(scene(*size)[0], subject).mask.shape == size


def test_one_pixel_photo_gives_finite_values(persam):
    found = persam.segment(scene(1, 1)[0], persam.personalize(Reference(*scene(90, 150))))
    assert np.isfinite(found.attention_bias).all()


def test_raw_levels_are_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(np.rot90(np.uint8(np.eye(4, 6) * 128)).copy()).save(file, "PNG", exif=exif)
    reference = Reference(np.zeros((4, 6, 3), np.uint8), Image.open(file))
    np.testing.assert_array_equal(reference.raw_levels() > 0, reference.foreground)
