"""SegGPT as a one-shot method, beyond its recordings: photos of any size, ensembles, files, boxes, flags."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import SegGptConfig, SegGptForImageSegmentation, SegGptImageProcessor

from persam_dreambooth.cli import main
from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from persam_dreambooth.photos.manifest import MANIFEST_NAME, read_manifest
from persam_dreambooth.segmentation import (
    PerSAM,
    PresenceMeter,
    PresenceRule,
    Reference,
    SegGPT,
    SegGptMethod,
    SegGptVideoSegmenter,
    Subject,
    reference_from,
    segment_together,
)
from random_models import draw_weights, random_sam
from tests.scene import save_scenes, scene

SIZES = [(90, 150), (70, 40)]
SIDE = 64


def random_seggpt(seed=0):
    config = SegGptConfig(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=(2 * SIDE, SIDE),
        pretrain_image_size=32,
        decoder_hidden_size=16,
        merge_index=1,
        intermediate_hidden_state_indices=(1, 2, 3),
    )
    return draw_weights(SegGptForImageSegmentation(config), seed, gain=1.5)


def built(**settings):
    return SegGPT(random_seggpt(), SegGptMethod(**settings), "cpu")


def reference(height=60, width=100, seed=0):
    return Reference(*scene(height, width, seed))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    saved = tmp_path_factory.mktemp("models") / "seggpt"
    random_seggpt().save_pretrained(saved)
    return saved


@pytest.fixture
def seggpt():
    return built()


# Photos and references


def test_masks_are_in_photo_frames_singly_and_in_batches(seggpt):
    subject = seggpt.personalize(reference())
    photos = [scene(*size, seed)[0] for seed, size in enumerate(SIZES)]
    found = seggpt.segment(photos, subject)
    assert [each.mask.shape for each in found] == [each.confidence_map.shape for each in found] == SIZES
    assert all(each.mask.dtype == bool and each.mask.any() and not each.mask.all() for each in found)
    for photo, one in zip(photos, found, strict=True):
        np.testing.assert_array_equal(seggpt.segment(Image.fromarray(photo), subject).mask, one.mask)
        frame = seggpt.encode([photo])[0].frame
        np.testing.assert_array_equal(frame.to_original(torch.from_numpy(one.logits)[None])[0] > 0, one.mask)
    assert seggpt.segment([], subject) == []


@torch.no_grad()
def test_mask_equals_that_of_model_and_processor(seggpt):
    (photo, _), (example, mask) = scene(SIDE, SIDE, 1), scene(SIDE, SIDE)
    own = SegGptImageProcessor(size={"height": SIDE, "width": SIDE})
    inputs = own(
        images=Image.fromarray(photo),
        prompt_images=Image.fromarray(example),
        prompt_masks=mask.astype(np.uint8),
        num_labels=1,
        return_tensors="pt",
    )
    expected = own.post_process_semantic_segmentation(random_seggpt()(**inputs), [(SIDE, SIDE)], num_labels=1)[0] == 1
    found = seggpt.segment(photo, seggpt.personalize(Reference(example, mask)))
    np.testing.assert_array_equal(found.mask, expected)


def test_score_is_iou_of_mask_with_what_was_painted(seggpt):
    found = seggpt.segment(scene(*SIZES[0])[0], seggpt.personalize(reference()))
    painted, mask = found.confidence_map.astype(float), found.mask
    expected = painted[mask].sum() / (mask.sum() + painted[~mask].sum())
    assert found.score == pytest.approx(expected, abs=1e-5)
    assert painted.min() > 0 and painted.max() < 1 and (painted[mask] > 0.5).all()
    assert found.points.shape == (0, 2) and found.attention_bias is None


@pytest.mark.parametrize("size", [(3000, 3), (3, 3000), (1, 2), (800, 20)])
def test_extreme_photos_and_tiny_subjects_are_learned(seggpt, size):
    mask = np.zeros(size, bool)
    mask[-1, -1] = True
    subject = seggpt.personalize(Reference(scene(*size)[0], mask))
    assert subject.examples.masks.any() and not subject.examples.masks.all()
    assert seggpt.segment(scene(*size)[0], subject).mask.shape == size


def test_excluded_pixels_are_neither_found_nor_seen(seggpt):
    photo, subject = seggpt.encode([scene(*SIZES[0])[0]])[0], seggpt.personalize(reference())
    exclude = np.zeros(SIZES[0], bool)
    exclude[:, :75] = True
    found, plain = seggpt.segment_encoded(photo, subject, exclude), seggpt.segment_encoded(photo, subject)
    assert not (found.mask & exclude).any()
    assert plain.mask[:, :75].any()
    assert abs(found.confidence_map - plain.confidence_map)[:, 90:].max() > 0.01


def test_two_subjects_share_no_pixel(seggpt):
    subjects = [seggpt.personalize(reference(seed=seed)) for seed in (0, 1)]
    first, second = segment_together(seggpt, scene(*SIZES[0])[0], subjects)
    assert not (first.mask & second.mask).any() and (first.mask | second.mask).any()


def test_filled_box_is_the_mask_and_points_are_refused(seggpt):
    pixels = scene(60, 100)[0]
    boxed = reference_from(seggpt, pixels, box=(10.5, 20, 40, 50))
    expected = np.zeros((60, 100), bool)
    expected[20:50, 10:40] = True
    np.testing.assert_array_equal(boxed.foreground, expected)
    with pytest.raises(UserError, match="no SAM to make a mask from points or a scribble"):
        reference_from(seggpt, pixels, points=[(30, 30)])
    with pytest.raises(UserError, match="not a box inside"):
        reference_from(seggpt, pixels, box=(10, 20, 400, 50))


# Several references


def test_every_reference_and_its_mask_matter():
    photo, first = scene(*SIZES[0])[0], reference()
    moved = Reference(first.pixels, np.roll(first.foreground, 30, axis=1))
    for ensemble in ("feature", "spatial"):
        seggpt = built(ensemble=ensemble)
        painted = [
            seggpt.segment(photo, seggpt.personalize(references)).confidence_map
            for references in ([first], [moved], [first, moved], [first, moved, reference(seed=3)])
        ]
        assert all(abs(a - b).max() > 1e-3 for n, a in enumerate(painted) for b in painted[:n])


def test_feature_ensemble_depends_on_neither_order_nor_repetition(seggpt):
    photo, references = scene(*SIZES[0])[0], [reference(seed=seed) for seed in range(3)]
    maps = [
        seggpt.segment(photo, seggpt.personalize(given)).confidence_map[3:]  # above, the first example shines through
        for given in (references, references[::-1], references * 2, references[:1], references[:1] * 3)
    ]
    np.testing.assert_allclose(maps[1], maps[0], atol=1e-5)
    np.testing.assert_allclose(maps[2], maps[0], atol=1e-5)
    np.testing.assert_allclose(maps[4], maps[3], atol=1e-5)
    assert abs(maps[3] - maps[0]).max() > 1e-3
    assert not any(module._forward_hooks for module in seggpt._model.modules())  # detached again


def test_spatial_ensemble_shows_one_picture():
    seggpt = built(ensemble="spatial")
    batches = []
    seggpt._model.register_forward_hook(lambda module, args, output: batches.append(len(output.pred_masks)))
    seggpt.segment(scene(*SIZES[0])[0], seggpt.personalize([reference(seed=seed) for seed in range(3)]))
    assert batches == [1]


# Subjects


def test_saved_subject_finds_the_same_and_fits_this_model_only(seggpt, tmp_path):
    subject = seggpt.personalize([reference(seed=seed) for seed in (0, 1)])
    subject.save(tmp_path / "subject.safetensors")
    again, photo = Subject.load(tmp_path / "subject.safetensors"), scene(*SIZES[0])[0]
    assert again.made_by == "SegGPT" and "2 examples" in repr(again)
    np.testing.assert_array_equal(seggpt.segment(photo, again).logits, seggpt.segment(photo, subject).logits)
    with pytest.raises(UserError, match="load that model"):
        SegGPT(random_seggpt(1), device="cpu").segment(photo, again)
    persam = PerSAM.from_pretrained(random_sam(), device="cpu")
    with pytest.raises(UserError, match="load that model"):
        persam.segment(photo, again)
    with pytest.raises(UserError, match="load that model"):
        seggpt.segment(photo, persam.personalize(reference()))


def test_missing_reference_and_foreign_model_folder_are_refused(seggpt, tmp_path):
    with pytest.raises(UserError, match="no reference"):
        seggpt.personalize([])
    random_sam().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="is not a SegGPT"):
        SegGPT.from_pretrained(tmp_path)


# Presence


def test_presence_scores_are_those_of_what_was_painted(seggpt):
    given, photo = reference(), scene(*SIZES[0])[0]
    subject = seggpt.personalize(given)
    found = seggpt.segment(photo, subject)
    scores = PresenceMeter(seggpt, subject, [given])(photo, seggpt.encode([photo])[0], found)
    painted, own = found.confidence_map, seggpt.segment(given.pixels, subject).confidence_map
    assert scores.likeness == pytest.approx(painted[found.mask].max() / own[given.foreground].max(), rel=1e-5)
    assert scores.contrast == pytest.approx(painted[found.mask].mean() - painted[~found.mask].mean(), rel=1e-4)
    back = seggpt.segment(given.pixels, seggpt.personalize(Reference(photo, found.mask))).mask
    assert scores.cycle == pytest.approx((back & given.foreground).sum() / (back | given.foreground).sum())
    assert scores.score == found.score


def test_presence_rule_judges_segmented_photos_and_fits_one_ensemble(album, folder, capsys):
    seggpt = SegGPT.from_pretrained(folder, device="cpu")
    usual = {"likeness": 1.0, "contrast": 0.2, "cycle": 0.5, "score": 0.5}
    rule = PresenceRule(dict.fromkeys(usual, 2.0), usual, 0.0, 0.9, 0.1, seggpt.calibration)
    rule.save(album / "presence.json")
    flags = [*masks_of(album, 1), "--presence", str(album / "presence.json")]
    assert segment(album, folder, "out", *flags, "--all_instances") == 0
    _, *entries = read_manifest(album / "out" / MANIFEST_NAME)
    assert all(0 < entry.probability < 1 and entry.presence for entry in entries)
    capsys.readouterr()
    two = [*masks_of(album, 2), "--presence", str(album / "presence.json"), "--ensemble", "spatial"]
    assert segment(album, folder, "other", *two, count=2) == 2
    assert "presence rule was calibrated" in capsys.readouterr().err


# The command line


@pytest.fixture
def album(tmp_path):
    """Three photos with their masks."""
    return save_scenes(tmp_path, 3)


def segment(album, folder, output, *flags, count=1):
    photos = [str(album / "photos" / f"{n}.png") for n in range(count)]
    argv = ["--images", str(album / "photos"), "--reference", *photos, "--output", str(album / output)]
    return main(["segment", *argv, "--method", "seggpt", "--seggpt", str(folder), "--device", "cpu", *flags])


def masks_of(album, count):
    return ["--reference_mask", *(str(album / f"mask-{n}.png") for n in range(count))]


def test_segment_writes_what_python_finds_and_its_subject_is_followed(album, folder, capsys):
    assert segment(album, folder, "out", *masks_of(album, 1), "--draw", "confidence") == 0
    seggpt = SegGPT.from_pretrained(folder, device="cpu")
    subject = seggpt.personalize(Reference(album / "photos" / "0.png", album / "mask-0.png"))
    found = seggpt.segment(album / "photos" / "2.png", subject)
    np.testing.assert_array_equal(files.read_mask(album / "out" / "masks" / "2.png"), found.mask)
    entry = read_manifest(album / "out" / MANIFEST_NAME)[2]
    assert (entry.source, entry.points) == ("seggpt", [])
    assert entry.score == pytest.approx(found.score, abs=1e-6)
    assert (album / "out" / "confidence" / "2.jpg").is_file()
    argv = ["--video", str(album / "photos"), "--subject", str(album / "out" / "subject.safetensors")]
    assert main(["video", *argv, "--output", str(album / "video"), "--device", "cpu"]) == 0
    followed = list(SegGptVideoSegmenter(seggpt, [subject]).follow(sorted((album / "photos").glob("*.png"))))
    for number, frame in enumerate(followed):
        written = np.asarray(Image.open(album / "video" / "masks" / f"{number:05d}.png"))
        np.testing.assert_array_equal(written, frame.labels)


def test_ensemble_and_box_change_the_masks(album, folder):
    assert segment(album, folder, "feature", *masks_of(album, 2), count=2) == 0
    assert segment(album, folder, "spatial", *masks_of(album, 2), "--ensemble", "spatial", count=2) == 0
    assert segment(album, folder, "box", "--reference_box", "30,5,80,45") == 0
    found = [files.read_mask(album / name / "masks" / "2.png") for name in ("feature", "spatial", "box")]
    assert not np.array_equal(found[0], found[1]) and not np.array_equal(found[0], found[2])


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--features", "dino"], "--features is not read by --method seggpt"),
        (["--fidelity", "official"], "--fidelity is not read by --method seggpt"),
        (["--tau", "0.5"], "--tau is not read by --method seggpt"),
        (["--sam", "sam.pth"], "--sam has no effect on --method seggpt"),
        (["--embedding_cache", "cache"], "--embedding_cache has no effect on --method seggpt"),
        (["--ensemble", "spatial"], "--ensemble combines several references of one subject"),
        (["--method", "persam", "--ensemble", "spatial"], "only by seggpt"),
        (["--method", "persam"], "--seggpt is not read by --method persam"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_flags_that_seggpt_does_not_read_are_refused(album, folder, capsys, flags, expected):
    assert segment(album, folder, "out", *masks_of(album, 1), *flags) == 2
    assert expected in capsys.readouterr().err
    assert not (album / "out").exists()


def video(album, output, *flags):
    argv = ["--video", str(album / "photos"), "--output", str(album / output), "--device", "cpu", *flags]
    return main(["video", *argv])


def test_memory_frames_change_the_video(album, folder):
    flags = ["--first_mask", str(album / "mask-0.png"), "--method", "seggpt", "--seggpt", str(folder)]
    assert video(album, "eight", *flags) == 0
    assert video(album, "none", *flags, "--memory_frames", "0") == 0
    last = [np.asarray(Image.open(album / name / "masks" / "00002.png")) for name in ("eight", "none")]
    assert not np.array_equal(*last)
    seggpt = SegGPT.from_pretrained(folder, device="cpu")
    subject = seggpt.personalize(Reference(album / "photos" / "0.png", album / "mask-0.png"))
    np.testing.assert_array_equal(last[1], seggpt.segment(album / "photos" / "2.png", subject).mask)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--memory_frames", "4"], "--memory_frames is read by SegGPT only"),
        (["--seggpt", "model"], "--seggpt is read by SegGPT only"),
        (["--method", "seggpt", "--lost_below", "0.5"], "--lost_below has no effect on SegGPT"),
        (["--method", "seggpt", "--sam", "sam.pth"], "--sam has no effect on --method seggpt"),
        (["--method", "seggpt", "--memory", "sam2"], "leave out --method, or --memory"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_video_flags_that_are_not_read_are_refused(album, capsys, flags, expected):
    assert video(album, "out", "--first_mask", str(album / "mask-0.png"), *flags) == 2
    assert expected in capsys.readouterr().err
    assert not (album / "out").exists()


def test_ensemble_of_a_single_reference_of_each_subject_is_refused(album, folder, capsys):
    for more in (["--subject_name", "a", "b"], ["--pick_reference"]):
        assert segment(album, folder, "out", *masks_of(album, 2), "--ensemble", "spatial", *more, count=2) == 2
        assert "--ensemble combines several references" in capsys.readouterr().err


def test_saved_subject_decides_the_method_of_a_video(album, capsys):
    assert video(album, "out", "--subject", "subject.safetensors", "--method", "seggpt") == 2
    assert "saved subjects are followed by the method that made them" in capsys.readouterr().err
    built().personalize(reference()).save(album / "subject.safetensors")
    assert video(album, "out", "--subject", str(album / "subject.safetensors"), "--lost_below", "0.5") == 2
    assert "--lost_below has no effect on SegGPT" in capsys.readouterr().err
