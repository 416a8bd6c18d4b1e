"""Search in crops: where the crops lie, which mask is kept, and that subjects in a crowd are found."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from crowds import crowd
from finders import tiny_dino, tiny_sam
from models import DINO, SAM
from persam_dreambooth.cli import main
from persam_dreambooth.cli.evaluate_flags import EvaluateFlags
from persam_dreambooth.cli.sam_flags import SamFlags
from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from persam_dreambooth.photos.manifest import MANIFEST_NAME, read_manifest
from persam_dreambooth.preprocessing import SegmentationJob
from persam_dreambooth.preprocessing.references import ReferenceFiles
from persam_dreambooth.segmentation import (
    INSID3,
    CropSearch,
    Insid3Method,
    Insid3Sam,
    PerSAM,
    Reference,
    SegGptMethod,
    VideoSegmenter,
    load_backbone,
    load_segmenter,
    segment_instances,
    segment_together,
)
from persam_dreambooth.segmentation.crops import is_cut
from persam_dreambooth.segmentation.multi_mask import mostly_inside
from persam_dreambooth.segmentation.proposals import prototype
from persam_dreambooth.segmentation.types import Crop
from presence import photo
from recipes import KIND_NAMES, random_identity
from tests.scene import iou

SIZE = (128, 128)


@pytest.fixture(scope="module")
def method():
    return Insid3Sam(INSID3(tiny_dino()), load_backbone(tiny_sam(), "cpu", size=96))


@pytest.fixture(scope="module")
def crowds():
    """Four subjects, each alone and in two crowds."""
    made = []
    for number in range(4):
        rng = np.random.default_rng([5, number])
        identity = random_identity(rng, KIND_NAMES[number], held_out=True)
        alone = photo(rng, identity, ("subject",))
        made.append((Reference(alone.image, alone.mask()), [crowd(rng, identity, True) for _ in range(2)]))
    return made


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 2))
def test_crops_lie_in_the_photo_and_cover_it(height, width, layers):
    search = CropSearch(INSID3(tiny_dino()), layers)
    (encoded,) = search.encode([np.zeros((height, width, 3), np.uint8)])
    covered, counted = np.zeros((height, width), bool), 4 * (4**layers - 1) // 3
    for crop in encoded.crops:
        left, top, right, bottom = crop.box
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        assert (crop.photo.frame.height, crop.photo.frame.width) == (bottom - top, right - left)
        crop.of(covered)[:] = True
    assert len(encoded.crops) == counted or min(height, width) <= 2 ** (layers + 1)
    assert covered.all() or not encoded.crops or min(height, width) <= 2 ** (layers + 1)


def test_inner_edges_of_a_crop_cut_a_mask_and_the_photos_edges_do_not():
    mask = np.zeros((4, 6), bool)
    mask[0, 2] = True  # touches the upper edge only
    assert not is_cut(mask, (3, 0, 9, 4), (10, 9))
    assert is_cut(mask, (3, 1, 9, 5), (10, 9))
    for turned, box in ((mask[::-1], (0, 6, 6, 10)), (mask.T, (0, 3, 4, 9)), (mask.T[:, ::-1], (5, 0, 9, 6))):
        left, top, right, bottom = box
        assert not is_cut(turned, box, (bottom, right)), "the photo ends where the crop does"
        assert is_cut(turned, (left + 1, top + 1, right + 1, bottom + 1), (bottom + 9, right + 9))


def test_best_of_all_views_is_kept(method, crowds):
    """With each view segmented on its own: in a crowd the best one is often a crop."""
    search, chosen = CropSearch(method), set()
    for reference, pictures in crowds:
        subject = search.personalize(reference)
        target = F.normalize(subject.target_feature, dim=0)
        for picture in pictures:
            pixels = np.asarray(picture.image)
            (encoded,) = search.encode([pixels])
            found = search.segment(encoded, subject)
            views = [(0, 0, 128, 128), *(crop.box for crop in encoded.crops)]
            masks, rates = [], []
            for left, top, right, bottom in views:
                part = pixels[top:bottom, left:right].copy()
                own = method.segment(part, subject)
                whole = np.zeros(SIZE, bool)
                whole[top:bottom, left:right] = own.mask
                edges = np.zeros(SIZE, bool)  # the inner edges of this view
                edges[top, left:right] = edges[bottom - 1, left:right] = True
                edges[top:bottom, left] = edges[top:bottom, right - 1] = True
                edges[[0, -1]] = edges[:, [0, -1]] = False
                kept = own.mask.any() and not (whole & edges).any()
                masks.append(whole)
                encoded_part = method.encode([part])[0].compared
                rates.append(float(prototype(encoded_part, torch.from_numpy(own.mask)) @ target) if kept else -2.0)
            if max(rates) == -2:
                assert not found.mask.any()
                continue
            best = int(np.argmax(rates))
            np.testing.assert_array_equal(found.mask, masks[best])
            chosen.add(best > 0)
            ys, xs = np.nonzero(found.mask)
            assert found.box.tolist() == [xs.min(), ys.min(), xs.max(), ys.max()]
            left, top, right, bottom = views[best]
            own = method.segment(pixels[top:bottom, left:right].copy(), subject)
            np.testing.assert_array_equal(found.points - own.points, np.full(own.points.shape, [left, top]))
            drawn = encoded.frame.to_original(torch.from_numpy(found.logits)[None])[0].numpy() > 0
            assert iou(drawn, found.mask) > 0.7, "the logits lie where the mask does"
            assert found.confidence_map.shape == SIZE
    assert chosen == {True, False}


def test_crops_find_subjects_in_crowds(method, crowds):
    plain, search = [], []
    for reference, pictures in crowds:
        subject = method.personalize(reference)
        for picture in pictures:
            plain.append(iou(method.segment(picture.image, subject).mask, picture.mask()))
            search.append(iou(CropSearch(method).segment(picture.image, subject).mask, picture.mask()))
    assert np.mean(search) > np.mean(plain) + 0.1


def test_excluded_pixels_are_not_searched_in_crops_either(crowds):
    """INSID3 finds nothing in excluded pixels."""
    search, again = CropSearch(INSID3(tiny_dino())), 0
    for reference, pictures in crowds:
        subject = search.personalize(reference)
        (encoded,) = search.encode([pictures[0].image])
        first = search.segment_encoded(encoded, subject)
        assert first.mask.any()
        second = search.segment_encoded(encoded, subject, exclude=first.mask)
        assert (second.mask & first.mask).sum() <= 0.2 * second.mask.sum()  # cells are coarser than pixels
        again += bool(second.mask.any())
        assert not search.segment_encoded(encoded, subject, exclude=np.ones(SIZE, bool)).mask.any()
        masks = [found.mask for found in segment_instances(search, encoded, subject, lambda *_: True, at_most=3)]
        assert np.sum(masks, axis=0).max() == 1
    assert again >= 1


def test_mask_that_was_found_before_is_kept_only_if_there_is_no_other(method, crowds):
    search, others = CropSearch(method), 0
    for reference, pictures in crowds:
        subject = search.personalize(reference)
        for picture in pictures:
            (encoded,) = search.encode([picture.image])
            first = search.segment_encoded(encoded, subject).mask
            second = search.segment_encoded(encoded, subject, exclude=first).mask
            views = [(Crop((0, 0, *SIZE), lambda encoded=encoded: encoded)), *encoded.crops]
            parts = [(crop, method.segment_encoded(crop.photo, subject, crop.of(first))) for crop in views]
            left = [
                found
                for crop, found in parts
                if found.mask.any()
                and not mostly_inside(found.mask, crop.of(first))
                and not is_cut(found.mask, crop.box, SIZE)
            ]
            assert bool(left) != mostly_inside(second, first)
            others += bool(left)
    assert others


def test_several_subjects_share_no_pixel_and_keep_their_outlines(method, crowds):
    """In a photo of 1024 pixels, whose logits are coarser than the masks of crops."""
    search, shapes = CropSearch(method), []
    for (reference, pictures), (other, _) in pairwise([*crowds, crowds[0]]):
        image = pictures[0].image.resize((1024, 1024))
        subjects = [search.personalize(given) for given in (reference, other)]
        own = [search.segment(image, subject).mask for subject in subjects]
        found = [segmentation.mask for segmentation in segment_together(search, image, subjects)]
        assert not (found[0] & found[1]).any()
        contested = own[0] & own[1]
        for mask, alone in zip(found, own, strict=True):
            np.testing.assert_array_equal(mask & ~contested, alone & ~contested)
        shapes.append(any(mask.any() for mask in own))
    assert any(shapes)


def test_subject_and_reference_are_those_without_crops(method, crowds):
    reference, pictures = crowds[0]
    search = CropSearch(method)
    assert search.encode_references([reference])[0].crops == ()
    subject = search.personalize(reference)
    assert torch.equal(subject.target_feature, method.personalize(reference).target_feature)
    assert method.segment(pictures[0].image, subject).mask.shape == SIZE  # the method itself accepts it
    assert search.calibration != method.calibration != CropSearch(method, 2).calibration != search.calibration


def test_seggpt_and_other_numbers_of_layers_are_refused(method):
    with pytest.raises(UserError, match="leave out the crops"):
        load_segmenter(SegGptMethod(str(SAM.parent / "none")), str(SAM), crop_n_layers=1)
    for layers in (0, 4):
        with pytest.raises(UserError, match="choose 1 to 3"):
            CropSearch(method, layers)
    reference = (ReferenceFiles("a.jpg", box=(0, 0, 1, 1)),)
    for refused in (
        lambda: load_segmenter(Insid3Method(), "none", "none", crop_n_layers=4),
        lambda: SegmentationJob("p", reference, "o", SAM, crop_n_layers=-1),
    ):
        with pytest.raises(UserError, match="choose 1 to 3"):
            refused()
    with pytest.raises(UserError, match="leave out the crops"):
        SegmentationJob("p", reference, "o", SAM, SegGptMethod(), crop_n_layers=1)


def test_videos_are_not_searched_in_crops(method, crowds):
    search = CropSearch(method)
    with pytest.raises(UserError, match="not searched in crops"):
        VideoSegmenter(search, [search.personalize(crowds[0][0])])


def test_flag_reaches_masks_settings_and_evaluation(tmp_path, crowds, capsys):
    reference, pictures = crowds[3]
    for name, image in (("0", reference.pixels), ("1", pictures[0].image), ("2", pictures[1].image)):
        files.write_picture(Image.fromarray(np.asarray(image)), tmp_path / "photos" / f"{name}.png")
    files.write_mask(reference.foreground, tmp_path / "mask.png")
    given = ["--images", tmp_path / "photos", "--reference", tmp_path / "photos" / "0.png", "--reference_mask"]
    given += [tmp_path / "mask.png", "--sam", SAM, "--method", "insid3-sam", "--features", DINO, "--features_size", 64]
    given += ["--device", "cpu", "--output", tmp_path / "out"]
    assert main(["segment", *map(str, [*given, "--crop_n_layers", 1])]) == 0
    method = load_segmenter(Insid3Method(with_sam=True), str(SAM), str(DINO), 64, "cpu")
    subject, differ = method.personalize(reference), False
    for entry in read_manifest(tmp_path / "out" / MANIFEST_NAME)[1:]:
        mask, image = (
            files.read_mask(tmp_path / "out" / entry.mask),
            files.read_photo(tmp_path / "photos" / Path(entry.photo).name),
        )
        np.testing.assert_array_equal(mask, CropSearch(method).segment(image, subject).mask)
        differ |= bool((mask != method.segment(image, subject).mask).any())
    assert differ, "crops change nothing here"
    assert main(["segment", *map(str, given)]) == 2  # another run
    assert "--again" in capsys.readouterr().err
    flags = EvaluateFlags(data="d", output="o", method="insid3", features=str(DINO), features_size=64, crop_n_layers=2)
    sam = SamFlags(sam=str(SAM), device="cpu")
    assert flags.segmenter(sam).calibration.endswith("-crops2")
    assert flags.settings("perseg", sam)["crop_n_layers"] == 2
    assert main(["evaluate", "davis", "--data", "d", "--output", "o", "--crop_n_layers", "1"]) == 2
    assert "--crop_n_layers has no effect on davis" in capsys.readouterr().err


def test_agreement_compares_with_insid3_on_crops(tmp_path, crowds):
    reference, pictures = crowds[3]
    for name, image in (("0", reference.pixels), ("1", pictures[0].image), ("2", pictures[1].image)):
        files.write_picture(Image.fromarray(np.asarray(image)), tmp_path / "photos" / f"{name}.png")
    files.write_mask(reference.foreground, tmp_path / "mask.png")
    given = ["--images", tmp_path / "photos", "--reference", tmp_path / "photos" / "0.png", "--reference_mask"]
    given += [tmp_path / "mask.png", "--sam", SAM, "--features", DINO, "--features_size", 64, "--crop_n_layers", 1]
    given += ["--presence", "agreement", "--presence_features", DINO, "--presence_features_size", 64]
    assert main(["segment", *map(str, [*given, "--device", "cpu", "--output", tmp_path / "out"])]) == 0
    plain = INSID3(tiny_dino())
    subject, search, differ = plain.personalize(reference), CropSearch(plain), False
    for entry in read_manifest(tmp_path / "out" / MANIFEST_NAME)[1:]:
        mask = files.read_mask(tmp_path / "out" / entry.mask)
        image = files.read_photo(tmp_path / "photos" / Path(entry.photo).name)
        in_crops, whole = (iou(mask, finder.segment(image, subject).mask) for finder in (search, plain))
        assert entry.probability == pytest.approx(in_crops, abs=1e-5)
        differ |= abs(in_crops - whole) > 1e-3
    assert differ, "crops change nothing here"


def test_rule_beside_the_sam_is_not_used_with_crops():
    job = SegmentationJob("p", (ReferenceFiles("a.jpg", box=(0, 0, 1, 1)),), "o", SAM)
    assert job.rule is not None and job.settings()["crop_n_layers"] is None
    with_crops = SegmentationJob("p", job.references, "o", SAM, crop_n_layers=1)
    assert with_crops.rule is None and json.dumps(with_crops.settings()) != json.dumps(job.settings())


def test_persam_searches_crops_with_its_own_features(crowds):
    search = CropSearch(PerSAM(load_backbone(tiny_sam(), "cpu")))
    reference, pictures = crowds[1]
    assert search.segment(pictures[0].image, search.personalize(reference)).mask.shape == SIZE
