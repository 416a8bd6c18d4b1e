"""INSID3 beyond the recordings: several references, photos of any shape, instances, files, and SAM's outlines."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from finders import finder, methods, overlaps, photos, tiny_sam
from models import DINO, SAM
from persam_dreambooth.cli import main
from persam_dreambooth.errors import UserError
from persam_dreambooth.photos.manifest import MANIFEST_NAME, read_manifest
from persam_dreambooth.segmentation import (
    INSID3,
    FeatureEncoder,
    Insid3Method,
    PerSAM,
    Reference,
    Subject,
    load_backbone,
    load_segmenter,
    reference_from,
    segment_instances,
    segment_together,
)
from random_models import random_sam
from recipes import Recipe, random_identity, random_placement
from tests.scene import scene
from tests.segmentation.test_features import dinov3
from world import draw

PATCH, CELLS = 16, 8


def insid3(**changes):
    return INSID3(FeatureEncoder(dinov3(), CELLS, device="cpu"), Insid3Method(**changes))


def reference(height=96, width=120, seed=0):
    return Reference(*scene(height, width, seed))


# The positional subspace


def test_positional_subspace_is_removed_from_black_photos_features():
    model = insid3(svd_components=8)
    black = np.zeros((128, 128, 3), np.uint8)
    features = model.encode([black])[0].extra[0].flatten(1).T
    spread = (features - features.mean(0)).norm()
    left = features - features @ model.projection
    assert (left - left.mean(0)).norm() < 0.2 * spread  # what is left hardly depends on the position
    assert torch.linalg.matrix_rank(model.projection) == 8
    torch.testing.assert_close(model.projection @ model.projection, model.projection, atol=1e-4, rtol=0)


def test_default_share_of_components_is_the_papers():
    assert torch.linalg.matrix_rank(insid3().projection) == round(24 * 500 / 1024)


# Photos, references, files


@pytest.mark.parametrize("size", [(40, 200), (200, 40), (96, 96)])
def test_padded_cells_are_not_learned(size):
    model = insid3()
    subject = model.personalize(reference(*size))
    cells = round(max(1, CELLS * min(size) / max(size))) * CELLS if size[0] != size[1] else CELLS**2
    assert len(subject.memory.features) == pytest.approx(cells, abs=CELLS)
    found = model.segment(scene(*size, 1)[0], subject)
    assert found.mask.shape == size
    assert found.confidence_map.shape == size


@pytest.mark.parametrize("size", [(3000, 3), (3, 3000), (1, 1), (800, 20)])
def test_extreme_photos_are_segmented_and_learned(size):
    model = insid3()
    pixels = scene(*size)[0]
    found = model.segment(pixels, model.personalize(reference()))
    assert found.mask.shape == size
    mask = np.zeros(size, bool)
    mask[: -(-size[0] // 2), : -(-size[1] // 2)] = True
    if not mask.all():
        assert model.personalize(Reference(pixels, mask)).target_feature.isfinite().all()


@pytest.mark.parametrize("side", range(33, 64, 3))
@pytest.mark.parametrize("turned", [False, True])
def test_edge_of_photo_in_cells_that_are_mostly_padding_is_learned_and_masked(side, turned):
    model = insid3(merge_threshold=-0.999)  # all cells belong to the subject, if there is a candidate
    pixels, mask = scene(side, 64)[0], np.zeros((side, 64), bool)
    mask[-1:, 10:50] = True
    if turned:
        pixels, mask = pixels.swapaxes(0, 1).copy(), mask.T
    subject = model.personalize(Reference(pixels, mask))
    rows = len(subject.memory.labels) // CELLS
    learned = (subject.memory.labels > 0).view(CELLS, rows).T if turned else (subject.memory.labels > 0).view(rows, -1)
    assert learned[-1].any() and not learned[:-1].any()  # the last row of cells, and none of the others
    found = model.segment(pixels, subject)
    assert found.mask.all() or not found.mask.any()
    assert model.segment(pixels, model.personalize(Reference(pixels, ~mask))).mask.all()


@pytest.mark.parametrize("size", [(96, 120), (120, 50), (60, 100)])
def test_logits_match_mask(size):
    model = insid3()
    found = model.segment(scene(*size, 3)[0], model.personalize(reference(seed=3)))
    frame = model.encode([scene(*size, 3)[0]])[0].frame
    again = (frame.to_original(torch.from_numpy(found.logits)[None])[0] > 0).numpy()
    assert found.mask.any()
    assert np.mean(again != found.mask) < 0.01


@pytest.mark.parametrize("changes", [{"fidelity": "official"}, {"svd_components": 5}])
def test_subject_of_other_settings_is_refused(changes):
    with pytest.raises(UserError, match="same --features"):
        insid3().segment(scene(96, 120)[0], insid3(**changes).personalize(reference()))


def test_thin_subject_still_has_a_cell():
    pixels, _ = scene(96, 96)
    thin = np.zeros((96, 96), bool)
    thin[50, 20:23] = True
    for fidelity in ("corrected", "official"):
        assert (insid3(fidelity=fidelity).personalize(Reference(pixels, thin)).memory.labels > 0).sum() >= 1


def test_same_reference_twice_changes_no_mask():
    model = insid3()
    once, twice = model.personalize(reference()), model.personalize([reference(), reference()])
    assert twice.memory.references == 2
    photo = scene(96, 120, 3)[0]
    np.testing.assert_array_equal(model.segment(photo, once).mask, model.segment(photo, twice).mask)


def test_subject_file_keeps_memory(tmp_path):
    model = insid3()
    subject = model.personalize(reference())
    subject.save(tmp_path / "dog.safetensors")
    loaded = Subject.load(tmp_path / "dog.safetensors")
    assert loaded.made_by == "INSID3"
    assert "INSID3" in repr(loaded)
    photo = scene(96, 120, 3)[0]
    np.testing.assert_array_equal(model.segment(photo, loaded).mask, model.segment(photo, subject).mask)


def test_subject_made_by_persam_is_refused():
    features = FeatureEncoder(dinov3(), CELLS, device="cpu")
    persam = PerSAM(load_backbone(random_sam(), device="cpu"), features=features)
    with pytest.raises(UserError, match="this subject was made with"):
        insid3().segment(scene(96, 120)[0], persam.personalize(reference()))


def test_cache_gives_same_masks_and_separates_sizes_and_fidelities(tmp_path):
    photo = scene(60, 120, 3)[0]
    plain, found = insid3(), []
    for cells, fidelity in ((CELLS, "corrected"), (CELLS, "official"), (4, "corrected")):
        for _ in range(2):
            model = INSID3(FeatureEncoder(dinov3(), cells, device="cpu"), Insid3Method(fidelity), tmp_path)
            found.append(model.segment(photo, model.personalize(reference())))
        assert np.array_equal(found[-1].mask, found[-2].mask)
    assert len(list(tmp_path.iterdir())) == 3
    assert np.array_equal(found[0].confidence_map, plain.segment(photo, plain.personalize(reference())).confidence_map)


def test_as_many_components_as_channels_are_refused():
    with pytest.raises(UserError, match="less than the 24 channels"):
        insid3(svd_components=24)


# In tinyworld, whose DINOv3 distinguishes individuals


@pytest.fixture(scope="module")
def trained():
    """The one-shot methods on tinyworld's models, by name."""
    return methods(load_backbone(tiny_sam(), "cpu"), 64)


@pytest.fixture(scope="module")
def album():
    """A held-out dog's reference, and pictures of it beside look-alikes."""
    rng = np.random.default_rng(3)
    dog = random_identity(rng, "dog", held_out=True)
    return photos(dog, rng, 1, "alone")[0], photos(dog, rng, 6, "beside a look-alike")


def test_individual_is_found_beside_look_alike(trained, album):
    ious = {name: overlaps(finder(method)(*album), album[1])[0] for name, method in trained.items()}
    assert ious["PerSAM, DINOv3's features"] > 0.8
    assert ious["INSID3 + SAM"] > 0.7
    assert ious["INSID3 + SAM"] > ious["INSID3"] > 0.5  # SAM's outline is finer than patches
    assert ious["PerSAM"] < 0.7  # this SAM's features do not distinguish individuals


def test_two_subjects_share_no_pixel(trained, album):
    reference_picture, (picture, *_) = album
    for name in ("INSID3", "INSID3 + SAM"):
        method = trained[name]
        dog = method.personalize(Reference(reference_picture.image, reference_picture.mask()))
        other = method.personalize(Reference(picture.image, picture.mask(1)))
        found = segment_together(method, picture.image, [dog, other])
        assert not (found[0].mask & found[1].mask).any()
        assert all(mask.any() for mask in (found[0].mask, found[1].mask))


def test_instances_are_found_one_after_another(trained):
    rng = np.random.default_rng(8)
    dog = random_identity(rng, "dog", held_out=True)
    pair = tuple((dog, random_placement(rng, x, 0.66)) for x in (0.27, 0.73))
    picture = draw(Recipe("beach", pair, seed=4), 128)
    reference_picture = photos(dog, rng, 1, "alone")[0]
    method = trained["INSID3 + SAM"]
    subject = method.personalize(Reference(reference_picture.image, reference_picture.mask()))
    found = segment_instances(method, picture.image, subject, lambda photo, mask: True)
    covered = np.any([instance.mask for instance in found], axis=0)
    true = picture.mask(0) | picture.mask(1)
    assert (covered & true).sum() / (covered | true).sum() > 0.6


def test_video_command_tracks_subject(tmp_path, capsys):
    rng = np.random.default_rng(5)
    dog, other = (random_identity(rng, "dog", held_out=True) for _ in range(2))
    place, beside = random_placement(rng, 0.3, 0.66), random_placement(rng, 0.75, 0.66)
    pictures = []
    (tmp_path / "frames").mkdir()
    for number in range(3):
        moved = replace(place, x=0.26 + 0.03 * number)
        pictures.append(draw(Recipe("beach", ((dog, moved), (other, beside)), seed=3), 128))
        pictures[-1].image.save(tmp_path / "frames" / f"{number}.png")
    known = photos(dog, rng, 1, "alone")[0]
    alone = load_segmenter(Insid3Method(), str(SAM), str(DINO), 64, "cpu")
    alone.personalize(Reference(known.image, known.mask())).save(tmp_path / "dog.safetensors")
    words = ["--video", tmp_path / "frames", "--subject", tmp_path / "dog.safetensors", "--output", tmp_path / "out"]
    command = ["video", *map(str, words), "--sam", str(SAM), "--device", "cpu"]
    assert main(command) == 2  # the subject was learned at another input size
    assert "same --features and --features_size" in capsys.readouterr().err
    assert main([*command, "--features_size", "64"]) == 0
    found = [np.asarray(Image.open(path)) == 1 for path in sorted((tmp_path / "out" / "masks").glob("*.png"))]
    assert overlaps(found, pictures)[0] > 0.7


def test_empty_masks_are_counted(tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    rng = np.random.default_rng(3)
    known = photos(random_identity(rng, "dog", held_out=True), rng, 1, "alone")[0]
    known.image.save(tmp_path / "photos" / "0.png")
    Image.new("RGB", (128, 128), (90, 90, 90)).save(tmp_path / "photos" / "1.png")
    Image.fromarray(known.mask()).save(tmp_path / "mask.png")
    words = ["--images", "photos", "--reference", "photos/0.png", "--reference_mask", "mask.png", "--output", "out"]
    located = ["--method", "insid3", "--features", DINO, "--features_size", 64, "--device", "cpu"]
    given = [tmp_path / word if place % 2 else word for place, word in enumerate(words)]
    assert main(["segment", *map(str, [*given, *located])]) == 0
    assert "1 mask empty: the subject was not found there" in capsys.readouterr().out
    assert [entry.source for entry in read_manifest(tmp_path / "out" / MANIFEST_NAME)] == ["reference", "insid3"]


def test_box_needs_a_sam(trained, album):
    with pytest.raises(UserError, match="INSID3 has no SAM"):
        reference_from(trained["INSID3"], album[0].image, box=(10, 10, 60, 60))
    assert reference_from(trained["INSID3 + SAM"], album[0].image, box=(10, 10, 100, 100)).foreground.any()
