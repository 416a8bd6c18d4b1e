"""The inputs of an evaluation: the photos that training would use, and where each model's pictures are."""

from pathlib import Path

import numpy as np
import pytest

from persam_dreambooth.errors import UserError
from persam_dreambooth.evaluation.generation.models import Model
from persam_dreambooth.evaluation.generation.pictures import Drawing
from persam_dreambooth.evaluation.generation.plan import Plan, photos_with_masks
from persam_dreambooth.model_source import ModelSource
from persam_dreambooth.photos import files
from persam_dreambooth.photos.manifest import MANIFEST_NAME, ManifestEntry
from persam_dreambooth.preprocessing.references import ReferenceFiles
from tests.judged_photos import save_judged_photos


@pytest.fixture
def judged(tmp_path):
    """The photos and segmentation's output of `tests.judged_photos`, with one more photo that was not readable."""
    broken = ManifestEntry("../photos/broken.png", "", error="broken.png cannot be decoded")
    save_judged_photos(tmp_path, 40, 60, broken)
    return tmp_path / "photos", tmp_path / "out"


def test_uncertain_photos_are_left_out_with_their_reasons(judged):
    photos, masks = judged
    used, left_out = photos_with_masks(*judged)
    assert used == [
        ReferenceFiles(photos / name, mask=masks / "masks" / name) for name in ("dog.png", "reference.png")
    ]
    assert left_out == [
        "the subject in park.png: unsure, because of park",
        "the subject in sofa.png: not found, because of sofa",
    ]
    (masks / MANIFEST_NAME).unlink()  # masks of another tool
    used, left_out = photos_with_masks(photos, masks / "masks")
    assert [reference.image.stem for reference in used] == ["dog", "park", "reference", "sofa"] and not left_out


def test_run_without_photos_to_compare_with_is_refused(judged):
    photos, masks = judged
    for name in ("dog", "reference"):
        (photos / f"{name}.png").unlink()
    with pytest.raises(UserError, match=r"no photo to compare with: .*because of park; .*because of sofa; approve"):
        photos_with_masks(photos, masks)


@pytest.mark.parametrize(
    ("mask", "words"),
    [(np.zeros((40, 60), bool), "is empty"), (np.ones((40, 60), bool), "is full"), (np.eye(9) > 0, "is 9 x 9 pixels")],
)
def test_mask_that_cannot_be_of_its_photo_is_refused(judged, mask, words):
    files.write_mask(mask, judged[1] / "masks" / "dog.png")
    with pytest.raises(UserError, match=f"masks/dog.png {words}"):
        photos_with_masks(*judged)


def test_masks_without_photos_and_other_files_cause_warnings(judged, caplog):
    photos, masks = judged
    (photos / "notes.pdf").touch()
    (photos / "dog.png").rename(photos / "cat.png")
    (masks / "masks" / "sofa.png").rename(masks / "masks" / "cat.png")
    (photos / "sofa.png").unlink()
    (masks / MANIFEST_NAME).unlink()
    photos_with_masks(photos, masks)
    assert "masks without a photo: dog.png" in caplog.text and "notes.pdf" in caplog.text


def test_each_models_pictures_are_segmented_alone_with_all_photos(tmp_path):
    photos = [ReferenceFiles(tmp_path / f"{name}.png", mask=tmp_path / f"{name}-mask.png") for name in "ab"]
    model = Model("my dog", ModelSource("dog"))
    drawing = Drawing([], 1, 0, {}, device="cpu")
    plan = Plan([model], photos, drawing, tmp_path, "sam", "clip", None, presence=Path("rule.json"))
    job = plan.job(model)
    folder = tmp_path / "models" / "my dog"
    assert (job.images, job.output) == (folder / "pictures", folder / "found")
    assert (job.references, job.sam, job.batch_size, job.rule) == (tuple(photos), "sam", 1, Path("rule.json"))
    assert plan.job_in(folder / "class").images == folder / "class" / "pictures"
