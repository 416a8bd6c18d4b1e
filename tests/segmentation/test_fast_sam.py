"""FastSAM's proposals: with a stand-in for the optional `ultralytics`, and with the package itself where it is."""

import importlib.util
import os
import sys
from importlib import import_module

import numpy as np
import pytest
import torch

from persam_dreambooth.errors import UserError
from persam_dreambooth.segmentation.fast_sam import QUIET, SIDE, FastSam
from tests.scene import scene

STAND_IN = """
import os

import torch

QUIET = {name: os.environ.get(name) for name in ("YOLO_OFFLINE", "YOLO_AUTOINSTALL")}


class Results:
    def __init__(self, masks, conf):
        self.masks = self.boxes = self
        self.data, self.conf = masks, torch.tensor(conf)
        if not len(conf):
            self.masks = None


class FastSAM:
    def __init__(self, path):
        self.task = open(path).read()
        if self.task == "damaged":
            raise ValueError("first line\\nsecond line")

    def predict(self, image, **settings):
        FastSAM.seen = image.size, settings
        masks = torch.zeros(3, image.height, image.width)
        masks[:, : image.height // 2, : image.width // 4] = 1
        masks[1, :, image.width // 2 :] = 1
        scores = [0.5, 0.6, 0.9]
        kept = [number for number, score in enumerate(scores) if score >= settings["conf"]]
        return [Results(masks[kept], [scores[number] for number in kept])]
"""
"""A module with the parts of `ultralytics` that are used; its masks are two rectangles, one of them found twice."""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Install the stand-in; return it and a checkpoint that it reads."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "ultralytics.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.delitem(sys.modules, "ultralytics", raising=False)
    monkeypatch.setenv("YOLO_OFFLINE", "false")
    monkeypatch.setenv("YOLO_AUTOINSTALL", "false")
    monkeypatch.delenv("YOLO_AUTOINSTALL")
    (tmp_path / "FastSAM-s.pt").write_text("segment")
    module = import_module("ultralytics")
    yield module, tmp_path / "FastSAM-s.pt"
    del sys.modules["ultralytics"]


def test_masks_come_at_photo_size_best_first_and_once(stand_in, persam):
    module, path = stand_in
    pixels = scene(60, 80)[0]
    found = FastSam(path, "cpu")(pixels, persam.encode([pixels])[0])
    assert [proposal.score for proposal in found] == pytest.approx([0.9, 0.6])
    quarter = np.zeros((60, 80), bool)
    quarter[:30, :20] = True
    np.testing.assert_array_equal(found[0].mask(), quarter)
    np.testing.assert_array_equal(found[1].mask()[:, 40:], True)
    size, settings = module.FastSAM.seen
    assert size == (80, 60) and settings["imgsz"] == SIDE and settings["device"] == "cpu"


def test_confidence_and_overlap_decide_what_is_kept(stand_in, persam):
    _, path = stand_in
    pixels = scene(60, 80)[0]
    (photo,) = persam.encode([pixels])
    kept = [len(FastSam(path, conf=conf, box_nms_thresh=0.99)(pixels, photo)) for conf in (0.4, 0.55, 0.95)]
    assert kept == [2, 2, 0]  # the two equal ones count once; without a mask there are none
    assert len(FastSam(path, box_nms_thresh=0.05)(pixels, photo)) == 1


def test_large_photos_are_shrunk_for_fast_sam_and_masks_are_not(stand_in, persam):
    module, path = stand_in
    pixels = np.zeros((150, 1100, 3), np.uint8)
    found = FastSam(path)(pixels, persam.encode([pixels])[0])
    assert module.FastSAM.seen[0] == (1024, 140)
    assert found[0].mask().shape == (150, 1100)
    assert found[0].mask()[:75, :275].all() and found[0].mask().sum() == 75 * 275


def test_network_is_kept_quiet_unless_the_user_chose_otherwise(stand_in):
    FastSam(stand_in[1])
    assert os.environ["YOLO_OFFLINE"] == "false"  # as the fixture set it
    assert os.environ["YOLO_AUTOINSTALL"] == QUIET["YOLO_AUTOINSTALL"] == "false"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.pt", None, "there is no FastSAM at"),
        ("notes.txt", "segment", "there is no FastSAM at"),
        ("broken.pt", "damaged", r"cannot load .*broken.pt \(first line\)"),
        ("detector.pt", "detect", "task 'detect', not a FastSAM"),
    ],
)
def test_file_that_is_no_fast_sam_is_refused(stand_in, tmp_path, name, content, words):
    if content:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=words):
        FastSam(tmp_path / name)


# With the package itself


@pytest.mark.skipif(importlib.util.find_spec("ultralytics") is not None, reason="ultralytics is installed")
def test_fast_sam_without_ultralytics_names_package_and_licence():
    with pytest.raises(UserError, match=r"AGPL-3.0.*pip install ultralytics"):
        FastSam("FastSAM-s.pt")


@pytest.fixture
def ultralytics(monkeypatch):
    for name, value in QUIET.items():  # it asks the network when it is imported
        monkeypatch.setenv(name, value)
    return pytest.importorskip("ultralytics", reason="an optional package under AGPL-3.0")


def test_fast_sam_proposes_masks_of_the_photo(tmp_path, persam, ultralytics):
    torch.manual_seed(0)
    ultralytics.YOLO("yolov8n-seg.yaml").save(tmp_path / "random.pt")  # FastSAM-s is a larger YOLOv8 of this kind
    fast_sam = FastSam(tmp_path / "random.pt", "cpu", conf=1e-6)
    for height, width in ((96, 160), (1200, 900)):
        pixels = scene(height, width)[0]
        found = fast_sam(pixels, persam.encode([pixels])[0])
        assert found and all(proposal.mask().shape == (height, width) and proposal.point is None for proposal in found)
        assert [proposal.score for proposal in found] == sorted((proposal.score for proposal in found), reverse=True)
    assert FastSam(tmp_path / "random.pt", "cpu", conf=1.0)(pixels, persam.encode([pixels])[0]) == []


def test_fast_sam_refuses_files_that_are_none(tmp_path, ultralytics):
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "damaged.pt").write_bytes(b"no checkpoint")
    ultralytics.YOLO("yolov8n.yaml").save(tmp_path / "detector.pt")
    for name, words in (
        ("none.pt", "there is no FastSAM at"),
        ("notes.txt", "there is no FastSAM at"),
        ("damaged.pt", r"ultralytics cannot load .*damaged.pt \("),
        ("detector.pt", "task 'detect', not a FastSAM"),
    ):
        with pytest.raises(UserError, match=words) as refused:
            FastSam(tmp_path / name, "cpu")
        assert "\n" not in str(refused.value)
