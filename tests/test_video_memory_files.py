"""Guards videos on disk, followed either way: files in, files out, with a learned memory or by PerSAM alone."""

import json

import numpy as np
import pytest
from PIL import Image

from persam_dreambooth.cli import main
from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import frames
from persam_dreambooth.segmentation import Method, PerSAM, Reference, Subject, VideoSegmenter
from persam_dreambooth.segmentation.memory_video import MemorySegmenter
from persam_dreambooth.video import LOG_NAME, MASKS, OVERLAY_NAME, segment_video
from tests.scene import scene
from tests.segmentation import random_sams
from tests.segmentation.test_memory_video import SIZE, film, sam2_video, seeing, two_labels

pytest.importorskip("av")


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    """A SAM 2 for videos, saved."""
    folder = tmp_path_factory.mktemp("memory")
    seeing(sam2_video()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """A folder of frames."""
    folder = tmp_path_factory.mktemp("video")
    for number, frame in enumerate(film(5)):
        Image.fromarray(frame).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def first_mask(tmp_path_factory):
    path = tmp_path_factory.mktemp("first") / "labels.png"
    frames.write_labels(two_labels(), path)
    return path


@pytest.fixture
def ways(memory, video, tmp_path):
    """The flags that every command has."""
    return ["video", "--video", str(video), "--output", str(tmp_path / "out"), "--device", "cpu"], tmp_path / "out"


def written(output):
    """The labels and scores in an output folder, frame by frame."""
    lines = [json.loads(line) for line in (output / LOG_NAME).read_text().splitlines()]
    assert [line["frame"] for line in lines] == list(range(len(lines)))
    assert sorted(path.name for path in (output / MASKS).iterdir()) == [line["mask"].split("/")[1] for line in lines]
    return [(np.asarray(Image.open(output / line["mask"])), line["scores"]) for line in lines]


def same(found, expected):
    assert len(found) == len(expected)
    for (labels, scores), frame in zip(found, expected, strict=True):
        np.testing.assert_array_equal(labels, frame.labels)
        assert scores == [None if one is None else pytest.approx(one, abs=1e-5) for one in frame.scores]


def test_with_a_first_mask_a_memory_needs_no_persam(ways, memory, first_mask, capsys):
    argv, output = ways
    assert main([*argv, "--memory", str(memory), "--first_mask", str(first_mask), "--sam", "no/such/sam"]) == 0
    same(
        written(output), list(MemorySegmenter.from_pretrained(str(memory), device="cpu").follow(film(5), two_labels()))
    )
    assert len(list(frames.read_frames(output / OVERLAY_NAME))) == 5
    assert "5 frames" in capsys.readouterr().out


def test_saved_subjects_are_found_by_persam_and_followed_by_the_memory(ways, memory, models, tmp_path):
    argv, output = ways
    persam = PerSAM.from_pretrained(models / "sam", Method.persam_f(), device="cpu")
    subjects = [persam.personalize(Reference(scene(*SIZE)[0], two_labels() == number)) for number in (1, 2)]
    paths = [tmp_path / "disc.safetensors", tmp_path / "corner.safetensors"]
    for subject, path in zip(subjects, paths, strict=True):
        subject.save(path)
    flags = ["--memory", str(memory), "--sam", str(models / "sam"), "--lost_below", "0"]
    assert main([*argv, *flags, "--subject", *map(str, paths)]) == 0
    loaded = [Subject.load(path) for path in paths]
    follower = MemorySegmenter.from_pretrained(str(memory), persam, loaded, lost_below=None, device="cpu")
    same(written(output), list(follower.follow(film(5))))


def test_one_folder_may_be_sam_and_memory(ways, memory, tmp_path):
    argv, output = ways
    persam = PerSAM.from_pretrained(memory, Method(), device="cpu")
    subject = persam.personalize(Reference(*scene(*SIZE)))
    subject.save(tmp_path / "disc.safetensors")
    flags = ["--memory", str(memory), "--sam", str(memory), "--lost_below", "0"]
    assert main([*argv, *flags, "--subject", str(tmp_path / "disc.safetensors")]) == 0
    (labels, scores), *_ = written(output)
    np.testing.assert_array_equal(labels == 1, persam.segment(film(1)[0], subject).mask)
    assert scores[0] is not None


def test_without_a_memory_it_is_the_authors_way(ways, models, first_mask):
    argv, output = ways
    assert main([*argv, "--sam", str(models / "sam"), "--first_mask", str(first_mask), "--lost_below", "0"]) == 0
    persam = PerSAM.from_pretrained(models / "sam", Method.persam_f(), device="cpu")
    first = film(1)[0]
    subjects = [persam.personalize(Reference(first, two_labels() == number)) for number in (1, 2)]
    same(written(output), list(VideoSegmenter(persam, subjects, None).follow(film(5), two_labels())))


def test_a_folder_that_has_no_memory_is_one_line_and_writes_nothing(ways, first_mask, tmp_path, capsys):
    argv, output = ways
    random_sams.sam2().save_pretrained(tmp_path / "sam2")
    capsys.readouterr()
    assert main([*argv, "--memory", str(tmp_path / "sam2"), "--first_mask", str(first_mask)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert 'model_type "sam2"' in line
    assert "sam2_video, edgetam_video" in line
    assert not output.exists()


def test_nothing_to_look_with_is_refused_before_anything_is_written(video, first_mask, models, tmp_path):
    with pytest.raises(UserError, match="by PerSAM, or by a memory"):
        segment_video(None, video, tmp_path / "out", first_mask=first_mask)
    persam = PerSAM.from_pretrained(models / "sam", Method.persam_f(), device="cpu")
    subject = persam.personalize(Reference(*scene(*SIZE)))
    with pytest.raises(UserError, match="looked for by PerSAM"):
        segment_video(None, video, tmp_path / "out", [subject], memory=sam2_video())
    assert not (tmp_path / "out").exists()
