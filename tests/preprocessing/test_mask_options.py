"""`--min_region` and `--draw confidence`: what changes in the output folder, and that a resumed run notices."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files, rendering
from persam_dreambooth.photos.manifest import read_manifest
from persam_dreambooth.preprocessing import SegmentationJob, segment_folder
from persam_dreambooth.preprocessing.found import Found, clean_up, without_small_regions
from persam_dreambooth.preprocessing.references import ReferenceFiles
from persam_dreambooth.segmentation import Insid3Method, Method, Reference, SegGptMethod, load_segmenter
from tests.scene import save_scenes, scene
from tests.segmentation.test_features import dinov3
from tests.segmentation.test_seggpt import random_seggpt


@pytest.fixture
def album(tmp_path):
    """Three photos with their masks."""
    return save_scenes(tmp_path, 3)


def job_for(album, models, **changes):
    reference = ReferenceFiles(album / "photos" / "0.png", album / "mask-0.png")
    job = SegmentationJob(album / "photos", (reference,), album / "out", str(models / "sam"), device="cpu")
    return replace(job, **changes)


def mask_of(job, stem):
    return files.read_mask(job.output / "masks" / f"{stem}.png")


@pytest.mark.parametrize(
    "method", [Method(), Method.persam_f(), Insid3Method(), Insid3Method(with_sam=True), SegGptMethod()], ids=str
)
def test_found_masks_are_cleaned_up_for_every_method(album, models, method):
    dinov3().save_pretrained(album / "dino")
    located = {"features": str(album / "dino"), "features_size": 128} if isinstance(method, Insid3Method) else {}
    if isinstance(method, SegGptMethod):
        random_seggpt().save_pretrained(album / "seggpt")
        method = replace(method, model=str(album / "seggpt"))
    plain = job_for(album, models, method=method, output=album / "plain", **located)
    cleaned = replace(plain, min_region=200, output=album / "cleaned")
    for job in (plain, cleaned):
        list(segment_folder(job))
    for stem in ("1", "2"):
        np.testing.assert_array_equal(mask_of(cleaned, stem), without_small_regions(mask_of(plain, stem), 200))
    np.testing.assert_array_equal(mask_of(cleaned, "0"), scene(60, 90)[1])  # the user's own mask stays
    for entry in read_manifest(cleaned.output / "manifest.jsonl"):
        rows, columns = (np.flatnonzero(mask_of(cleaned, entry.photo[-5]).any(axis)) for axis in (1, 0))
        expected = [columns[0], rows[0], columns[-1], rows[-1]] if len(rows) else None
        assert entry.box == expected


def test_random_sams_masks_have_something_to_clean(album, models):
    """Otherwise the test above would pass without any cleaning."""
    job = job_for(album, models)
    list(segment_folder(job))
    counts = [ndimage.label(region)[1] for stem in "12" for region in (mask_of(job, stem), ~mask_of(job, stem))]
    assert max(counts) > 1


def test_changed_min_region_is_another_run(album, models):
    job = job_for(album, models)
    list(segment_folder(job))
    with pytest.raises(UserError, match="min_region differ"):
        segment_folder(replace(job, min_region=50))
    cleaned = replace(job, min_region=50, output=album / "other")
    list(segment_folder(cleaned))
    with pytest.raises(UserError, match="min_region differ"):
        segment_folder(replace(cleaned, min_region=0))
    assert job.settings() == replace(job, min_region=0, draw="confidence").settings()
    with pytest.raises(UserError, match="min_region -1"):
        replace(job, min_region=-1)


def test_holes_are_not_filled_with_another_subjects_pixels(models):
    segmenter = load_segmenter(Method(), str(models / "sam"), device="cpu")
    image, disc = scene(60, 90)
    segmentation = segmenter.segment(image, segmenter.personalize(Reference(image, disc)))
    around, inner = np.ones((60, 90), bool), np.zeros((60, 90), bool)
    inner[20:24, 20:24] = True
    around &= ~inner
    around[40, 40] = False
    found = [Found(mask, "persam", (replace(segmentation, mask=mask),)) for mask in (around, inner)]
    first, second = clean_up(found, 100)
    np.testing.assert_array_equal(first.mask, ~inner)
    np.testing.assert_array_equal(second.mask, inner)  # its only region stays
    first, given = clean_up([found[0], Found(inner)], 100)  # the second mask is the user's own
    np.testing.assert_array_equal(first.mask, ~inner)
    np.testing.assert_array_equal(given.mask, inner)


def test_confidence_maps_are_drawn_for_found_masks_also_later(album, models):
    job = job_for(album, models)
    list(segment_folder(job))
    before = {stem: mask_of(job, stem) for stem in "012"}
    assert not (job.output / "confidence").exists()
    drawing = replace(job, draw="confidence")
    list(segment_folder(drawing))
    assert sorted(path.name for path in (job.output / "confidence").iterdir()) == ["1.jpg", "2.jpg"]
    segmenter = load_segmenter(Method(), str(models / "sam"), device="cpu")
    subject = segmenter.personalize(_reference(album))
    for stem in "12":
        np.testing.assert_array_equal(mask_of(job, stem), before[stem])
        image = files.read_photo(album / "photos" / f"{stem}.png")
        found = segmenter.segment(image, subject)
        expected = rendering.heat_map(image, found.confidence_map, found.points.tolist(), found.point_labels.tolist())
        drawn = np.asarray(files.read_picture(job.output / "confidence" / f"{stem}.jpg")).astype(int)
        assert np.abs(drawn - np.asarray(expected)).mean() < 6  # JPEG
    # A photo that is gone takes its picture with it.
    (album / "photos" / "2.png").unlink()
    list(segment_folder(drawing))
    assert [path.name for path in (job.output / "confidence").iterdir()] == ["1.jpg"]


def _reference(album):
    return Reference(album / "photos" / "0.png", album / "mask-0.png")


def test_heat_map_is_yellow_at_maximum_and_blue_at_minimum():
    values = np.tile(np.linspace(-1, 1, 30, dtype=np.float32), (20, 1))
    picture = np.asarray(rendering.heat_map(Image.new("RGB", (30, 20)), values)).astype(int)
    lowest, middle, highest = picture[10, 0], picture[10, 15], picture[10, -1]
    assert lowest[2] > 2 * lowest[0]
    assert min(highest[:2]) > 2 * highest[2]
    assert middle[1] == max(middle)
    flat = np.asarray(rendering.heat_map(Image.new("RGB", (30, 20)), np.zeros((20, 30), np.float32)))
    assert (flat == flat[0, 0]).all()
