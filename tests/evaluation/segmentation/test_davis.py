"""Scores of videos: which frames count, separate objects, nothing done twice."""

import json
import shutil

import numpy as np
import pytest

from persam_dreambooth.errors import UserError
from persam_dreambooth.evaluation.segmentation.davis import Davis, evaluate_davis, one_shot_video, score_video
from persam_dreambooth.photos import files
from persam_dreambooth.segmentation import Method, PerSAM, load_backbone
from random_models import random_sam
from tests.evaluation.segmentation import datasets


@pytest.fixture
def davis(tmp_path):
    return Davis(datasets.write_davis(tmp_path / "data"))


def first_masks_stay(frames, masks):
    """Return the first frame's masks for every frame."""
    numbers = np.arange(1, len(masks) + 1)[:, None, None]
    for _ in frames:
        yield (masks * numbers).max(0).astype(np.uint8)


def test_ground_truth_scores_one(davis, tmp_path):
    def truth(frames, masks):
        return (np.where((labels := davis.labels("bear", path)) == 255, 0, labels) for path in davis.frames("bear"))

    rows = score_video(davis, "bear", truth, tmp_path / "masks")
    assert [(row["object"], row["J"], row["F"]) for row in rows] == [(1, 1, 1), (2, 1, 1)]


def test_j_is_mean_over_frames_without_first_and_last(davis, tmp_path):
    rows = score_video(davis, "bear", first_masks_stay, tmp_path / "masks")
    # Frames 1, 2 and 3 of 5 count; there the squares of 10 and 12 pixels have moved by 2, 4 and 6. Of n columns
    # n - s are shared and n + s covered.
    for row, side in zip(rows, (10, 12), strict=True):
        assert row["J"] == pytest.approx(np.mean([(side - shift) / (side + shift) for shift in (2, 4, 6)]))
        assert 0 < row["F"] < 1
        assert row["worst_frame"] == "00003"
    assert len(list((tmp_path / "masks").iterdir())) == 5


def test_void_pixels_do_not_count(davis, tmp_path):
    def everywhere(frames, masks):
        for path, _ in zip(davis.frames("bear"), frames, strict=True):
            yield np.where(davis.labels("bear", path) == 255, 1, np.where(davis.labels("bear", path) == 1, 1, 0))

    first, second = score_video(davis, "bear", everywhere, tmp_path / "masks")
    assert (first["J"], first["F"]) == (1, 1)  # one pixel more than the truth, but that pixel is void
    assert second["J"] == 0


@pytest.mark.parametrize(
    ("labels", "complaint"),
    [
        (lambda frame: None if frame > 2 else np.zeros((40, 60), np.uint8), "5 frames but only 3"),
        (lambda frame: np.full((40, 60), 3, np.uint8), "label 3 .* has 2 objects"),
        (lambda frame: np.zeros((60, 40), np.uint8), "different sizes"),
    ],
    ids=["too few", "unknown object", "turned"],
)
def test_invalid_labels_from_method_are_refused(davis, tmp_path, labels, complaint):
    def method(frames, masks):
        return (found for number in range(5) if (found := labels(number)) is not None)

    with pytest.raises(UserError, match=complaint):
        score_video(davis, "bear", method, tmp_path / "masks")


def test_video_without_an_object_in_its_first_frame_is_refused(davis, tmp_path):
    datasets.write_labels(tmp_path / "data/Annotations/480p/bear/00000.png", np.zeros((40, 60), np.uint8))
    with pytest.raises(UserError, match="first frame of the video bear shows no object"):
        score_video(davis, "bear", first_masks_stay, tmp_path / "masks")


def test_run_resumes_with_remaining_videos(davis, tmp_path):
    seen = []

    def make(interrupt):
        def method(frames, masks):
            if len(seen) == interrupt:
                raise KeyboardInterrupt
            seen.append(len(masks))
            return first_masks_stay(frames, masks)

        return lambda: method

    with pytest.raises(KeyboardInterrupt):
        evaluate_davis(davis, make(1), tmp_path / "out", {"sam": "none"}, {"J&F": 66.9})
    ours = evaluate_davis(davis, make(None), tmp_path / "out", {"sam": "none"}, {"J&F": 66.9})
    assert seen == [2, 2]
    again = evaluate_davis(davis, None, tmp_path / "out", {"sam": "none"}, {"J&F": 66.9})
    assert again == ours
    stored = json.loads((tmp_path / "out" / "results.json").read_text())
    rows = stored["objects"]
    assert [(row["video"], row["object"]) for row in rows] == [("bear", 1), ("bear", 2), ("bike", 1), ("bike", 2)]
    assert ours["J"] == pytest.approx(100 * np.mean([row["J"] for row in rows]))
    assert ours["J&F"] == pytest.approx((ours["J"] + ours["F"]) / 2)
    assert stored["summary"] == {"ours": ours, "paper": {"J&F": 66.9}}
    assert (tmp_path / "out" / "worst.png").exists()


@pytest.mark.parametrize("method", [Method(), Method.persam_f()], ids=["persam", "persam-f"])
def test_persam_follows_objects_of_first_frame(davis, tmp_path, method):
    backbone = load_backbone(random_sam(), device="cpu")
    rows = score_video(davis, "bike", one_shot_video(PerSAM(backbone, method)), tmp_path / "masks")
    assert [row["object"] for row in rows] == [1, 2]
    first = np.asarray(files.read_picture(tmp_path / "masks" / "00000.png"))
    true = davis.labels("bike", davis.frames("bike")[0])
    np.testing.assert_array_equal(first, np.where(true == 255, 0, true))
    assert any(np.asarray(files.read_picture(path)).any() for path in sorted((tmp_path / "masks").iterdir())[1:])


def test_davis_names_its_videos_and_reads_palette_numbers(tmp_path):
    davis = Davis(datasets.write_davis(tmp_path))
    assert davis.videos == ["bear", "bike"]
    labels = davis.labels("bear", davis.frames("bear")[0])
    assert np.unique(labels).tolist() == [0, 1, 2, 255]
    assert (labels == 1).sum() == 100


@pytest.mark.parametrize("missing", ["ImageSets", "JPEGImages", "Annotations"])
def test_davis_without_one_of_its_folders_is_refused(tmp_path, missing):
    datasets.write_davis(tmp_path)
    shutil.rmtree(tmp_path / missing)
    with pytest.raises(UserError, match=f"not laid out as DAVIS 2017 val: no {missing}"):
        Davis(tmp_path)


def test_davis_refuses_annotations_in_colours(tmp_path):
    davis = Davis(datasets.write_davis(tmp_path))
    datasets.write(tmp_path / "Annotations" / "480p" / "bear" / "00001.png", np.zeros((40, 60, 3), np.uint8))
    with pytest.raises(UserError, match="mode RGB"):
        davis.labels("bear", davis.frames("bear")[1])
