"""The folders of photos and masks: kohya's, several subjects', segmentation's, and those of exclusion masks."""

from pathlib import Path

import numpy as np
import pytest
import torch

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from persam_dreambooth.photos.listing import PhotoFolder
from persam_dreambooth.training.data.concepts import Concept
from persam_dreambooth.training.data.mask_folders import (
    exclusion_masks,
    mask_folder,
    photo_folders,
    phrases,
    segment_first,
)
from tests.scene import scene
from tests.training.data.test_concepts import draw
from tests.training.small import configure

pytestmark = pytest.mark.usefixtures("process_state")
KOHYA = PhotoFolder(Path("photos/3_sks dog"), 3, "sks dog")


@pytest.fixture(autouse=True)
def working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def subject(**mask):
    """A subject whose photos are in `photos`, and the config of its run."""
    config = configure("model", mask={"instance_mask_dir": None} | mask)
    return Concept.of(config), config


def draw_masks(*paths):
    for path in paths:
        files.write_mask(scene(40, 48)[1], Path(path))


def test_kohyas_folders_are_used_only_if_the_given_one_has_no_photos():
    concept, _ = subject(instance_mask_dir="masks")
    draw(Path("kohya"), ["a"])
    KOHYA.path.parent.mkdir()
    Path("kohya/photos").rename(KOHYA.path)
    assert photo_folders(concept) == [KOHYA]
    draw(Path(), ["mine"])
    assert photo_folders(concept) == [PhotoFolder(Path("photos"))]


def test_masks_lie_where_they_were_given_or_made():
    concept, config = subject(instance_mask_dir="given")
    with pytest.raises(UserError, match="--instance_mask_dir given is not a folder"):
        mask_folder(concept, config, KOHYA)
    draw_masks("given/a.png")
    assert mask_folder(concept, config, KOHYA) == Path("given")  # all in one
    draw_masks("given/3_sks dog/a.png")
    assert mask_folder(concept, config, KOHYA) == Path("given/3_sks dog")
    draw_masks("given/3_sks dog/masks/a.png")  # written by segment
    assert mask_folder(concept, config, KOHYA) == Path("given/3_sks dog/masks")
    assert mask_folder(concept, config, PhotoFolder(Path("photos"))) == Path("given")
    made, config = subject(reference_image="a.png", reference_mask="b.png")
    folder = Path(config.output.output_dir) / "segmentation"
    assert mask_folder(made, config, KOHYA) == folder / "3_sks dog" / "masks"
    assert mask_folder(made, config, PhotoFolder(Path("photos"))) == folder / "masks"


def test_phrases_are_the_names_of_the_folders_of_masks():
    concept, config = subject(region_mask_dir="regions")
    with pytest.raises(UserError, match="--region_mask_dir regions is not a folder"):
        phrases(concept)
    Path("regions/.hidden").mkdir(parents=True)
    draw_masks("regions/a.png")
    with pytest.raises(UserError, match="--region_mask_dir regions holds no folders named like subjects"):
        phrases(concept)
    draw_masks("regions/sks dog/a.png", "regions/cat/a.png")
    assert phrases(concept) == ["cat", "sks dog"]
    assert mask_folder(concept, config, PhotoFolder(Path("photos")), "cat") == Path("regions/cat")
    Path("regions/masks").mkdir()  # the output of segment, for a single subject
    with pytest.raises(UserError, match="or give --instance_mask_dir"):
        phrases(concept)
    assert phrases(subject(instance_mask_dir="masks")[0]) == [""]


def test_exclusion_masks_lie_beside_the_masks_or_in_a_folder_of_their_own():
    draw(Path(), ["a", "b"])
    a, b = (Path("photos") / f"{name}.png" for name in "ab")
    masks = {a: [Path("masks/a.png")], b: [Path("masks/b.png"), Path("more/b.png")]}
    concept, _ = subject(instance_mask_dir="masks")
    draw_masks("more/a-exclude.png")  # not beside a mask of a
    assert exclusion_masks(masks, concept) == {}
    draw_masks("masks/a-exclude.png", "more/b-exclude.png")
    assert exclusion_masks(masks, concept) == {a: Path("masks/a-exclude.png"), b: Path("more/b-exclude.png")}
    draw_masks("masks/b-exclude.png")
    with pytest.raises(UserError, match=r"b\.png has two exclusion masks, masks/b-exclude\.png and more/b-exclude"):
        exclusion_masks(masks, concept)
    apart, _ = subject(instance_mask_dir="masks", exclude_mask_dir="never")
    draw_masks("never/c.png")
    with pytest.raises(UserError, match="nothing in --exclude_mask_dir never is named like a photo"):
        exclusion_masks(masks, apart)
    draw_masks("never/b.png")
    assert exclusion_masks(masks, apart) == {b: Path("never/b.png")}


def test_exclusion_masks_of_kohyas_folders_are_in_folders_of_the_same_names():
    draw(Path("kohya"), ["a"])
    for name in ("1_sks dog", "3_sks dog"):
        (Path("photos") / name).mkdir(parents=True)
        (Path("photos") / name / "a.png").write_bytes(Path("kohya/photos/a.png").read_bytes())
    concept, _ = subject(instance_mask_dir="masks", exclude_mask_dir="never")
    photos = {path: [] for path in (Path("photos/1_sks dog/a.png"), Path("photos/3_sks dog/a.png"))}
    draw_masks("never/3_sks dog/a.png")
    assert exclusion_masks(photos, concept) == {Path("photos/3_sks dog/a.png"): Path("never/3_sks dog/a.png")}
    draw_masks("never/a.png")  # also for folders without one of their own
    assert exclusion_masks(photos, concept)[Path("photos/1_sks dog/a.png")] == Path("never/a.png")


def test_masks_are_made_from_a_reference_only(models):
    draw(Path(), ["a", "b"])
    device = torch.device("cpu")
    segment_first(*subject(instance_mask_dir="masks"), device)
    reference = {"reference_image": "photos/a.png", "reference_mask": "masks/a.png", "sam": str(models / "sam")}
    assert sorted(path.name for path in Path().iterdir()) == ["masks", "photos"]
    concept, config = subject(**reference)
    segment_first(concept, config, device)
    made = mask_folder(concept, config, PhotoFolder(Path("photos")))
    assert sorted(path.name for path in made.iterdir()) == ["a.png", "b.png"]
    np.testing.assert_array_equal(files.read_mask(made / "a.png"), scene(40, 48, 0)[1])  # the reference's own
