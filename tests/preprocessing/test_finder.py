"""Finding a job's subjects in photos: what is decoded, what the user's masks decide, and when models are loaded."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from persam_dreambooth.preprocessing import SegmentationJob
from persam_dreambooth.preprocessing.finder import Finder
from persam_dreambooth.preprocessing.references import ReferenceFiles
from tests.scene import save_scenes, scene


@pytest.fixture
def job(models, tmp_path):
    """Three photos, the first of which is the reference, the random SAM, and batches of two."""
    save_scenes(tmp_path, 3)
    reference = ReferenceFiles(tmp_path / "photos" / "0.png", tmp_path / "mask-0.png")
    sam = str(models / "sam")
    return SegmentationJob(tmp_path / "photos", (reference,), tmp_path / "out", sam, device="cpu", batch_size=2)


def test_photos_come_back_in_order_with_what_was_found(job):
    (job.images / "broken.png").write_bytes(b"no picture")
    photos = [job.images / f"{name}.png" for name in ("2", "broken", "0", "1")]
    results = list(Finder(job).find(photos))
    assert [photo.path for photo, _ in results] == photos
    assert [photo.digest for photo, _ in results] == [files.digest(path) for path in photos]
    (_, found), (broken, nothing), *others = results
    assert found[0].source == "persam" and found[0].mask.shape == (60, 90) and len(found[0].instances) == 1
    assert broken.image is None and "broken.png cannot be decoded" in broken.error and nothing == [None]
    assert [photo.error for photo, _ in others] == [None, None]
    alone = {photo.path: found[0].mask for photo, found in Finder(replace(job, batch_size=1)).find(photos[3:])}
    np.testing.assert_array_equal(others[1][1][0].mask, alone[photos[3]])


def test_users_mask_counts_for_every_copy_of_its_photo(job):
    shutil.copy(job.images / "0.png", job.images / "copy.png")
    ((photo, (found,)),) = Finder(replace(job, min_region=10_000)).find([job.images / "copy.png"])
    assert (found.source, found.instances, found.presence, photo.path.name) == ("reference", (), None, "copy.png")
    np.testing.assert_array_equal(found.mask, scene(60, 90)[1])  # not cleaned up either


def test_subjects_get_disjoint_masks(job):
    second = ReferenceFiles(job.images / "1.png", job.images.parent / "mask-1.png")
    several = replace(job, references=(*job.references, second), names=("a", "b"))
    finder = Finder(several)
    assert len(finder.load()) == 2 and finder.load()[0] is finder.load()[0]
    ((_, found),) = finder.find([job.images / "2.png"])
    assert len(found) == 2 and not (found[0].mask & found[1].mask).any()


def test_search_stops_before_the_next_batch(job):
    seen = []
    photos = [job.images / f"{number}.png" for number in range(3)]
    for photo, _ in Finder(job).find(photos, lambda: len(seen) > 0):
        seen.append(photo.path)
    assert seen == photos[:2]


def test_references_are_checked_before_and_models_loaded_after_the_first_question(job):
    without = replace(job, sam="no-sam")
    finder = Finder(without)
    assert finder.caveat is None
    with pytest.raises(UserError, match="no-sam"):
        finder.load()
    files.write_mask(np.ones((5, 5), bool), job.references[0].mask)
    with pytest.raises(UserError, match=r"mask-0\.png"):
        Finder(without)
