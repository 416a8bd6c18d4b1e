"""Videos on disk, files in and files out, tracked with a learned memory or by PerSAM alone."""

import json

import numpy as np
import pytest
from PIL import Image, ImageColor

from persam_dreambooth.cli import main
from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import video_io
from persam_dreambooth.preprocessing.segment_video import (
    LOG_NAME,
    MASKS,
    OVERLAY_NAME,
    read_labels,
    segment_video,
)
from persam_dreambooth.segmentation import Method, PerSAM, Reference, Subject, VideoSegmenter
from persam_dreambooth.segmentation.memory_video import MemorySegmenter
from persam_dreambooth.segmentation.video import first_frame_subject
from tests.scene import scene
from tests.segmentation import random_sams
from tests.segmentation.test_memory_video import SIZE, disc_and_corner, draw_frames, sam2_video, seeing

pytest.importorskip("av")


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    """A saved SAM 2 for videos."""
    folder = tmp_path_factory.mktemp("memory")
    seeing(sam2_video()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """A folder of frames."""
    folder = tmp_path_factory.mktemp("video")
    for number, frame in enumerate(draw_frames(5)):
        Image.fromarray(frame).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def first_mask(tmp_path_factory):
    path = tmp_path_factory.mktemp("first") / "labels.png"
    video_io.write_labels(disc_and_corner(), path)
    return path


@pytest.fixture
def common_flags(memory, video, tmp_path):
    """The flags shared by all commands."""
    return ["video", "--video", str(video), "--output", str(tmp_path / "out"), "--device", "cpu"], tmp_path / "out"


def written(output):
    """Read the labels and scores in an output folder, frame by frame."""
    lines = [json.loads(line) for line in (output / LOG_NAME).read_text().splitlines()]
    assert [line["frame"] for line in lines] == list(range(len(lines)))
    assert sorted(path.name for path in (output / MASKS).iterdir()) == [line["mask"].split("/")[1] for line in lines]
    return [(np.asarray(Image.open(output / line["mask"])), line["scores"]) for line in lines]


def same(found, expected):
    assert len(found) == len(expected)
    for (labels, scores), frame in zip(found, expected, strict=True):
        np.testing.assert_array_equal(labels, frame.labels)
        assert scores == [None if score is None else pytest.approx(score, abs=1e-5) for score in frame.scores]


@pytest.mark.parametrize(
    ("background", "subject", "colour"),
    [(0, 1, "white"), (1, 0, "white"), (0, 255, "white"), (0, 2, "green"), (1, 0, "red")],
)
def test_one_subject_on_black_is_read_by_its_colours(tmp_path, background, subject, colour):
    frame, drawn = Image.fromarray(draw_frames(1)[0]), disc_and_corner() == 1
    picture = Image.fromarray(np.where(drawn, subject, background).astype(np.uint8)).convert("P")
    palette = np.zeros((256, 3), np.uint8)
    palette[subject] = ImageColor.getrgb(colour)
    picture.putpalette(palette.tobytes())
    picture.save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "mask.png", frame), drawn)


def test_memory_with_first_mask_needs_no_persam(common_flags, memory, first_mask, capsys):
    argv, output = common_flags
    assert main([*argv, "--memory", str(memory), "--first_mask", str(first_mask), "--sam", "no/such/sam"]) == 0
    same(
        written(output),
        list(MemorySegmenter.from_pretrained(str(memory), device="cpu").follow(draw_frames(5), disc_and_corner())),
    )
    assert len(list(video_io.read_frames(output / OVERLAY_NAME))) == 5
    assert "5 frames" in capsys.readouterr().out


def test_saved_subjects_are_found_by_persam_and_tracked_by_memory(common_flags, memory, models, tmp_path):
    argv, output = common_flags
    persam = PerSAM.from_pretrained(models / "sam", Method.persam_f(), device="cpu")
    subjects = [persam.personalize(Reference(scene(*SIZE)[0], disc_and_corner() == number)) for number in (1, 2)]
    paths = [tmp_path / "disc.safetensors", tmp_path / "corner.safetensors"]
    for subject, path in zip(subjects, paths, strict=True):
        subject.save(path)
    flags = ["--memory", str(memory), "--sam", str(models / "sam"), "--lost_below", "0"]
    assert main([*argv, *flags, "--subject", *map(str, paths)]) == 0
    loaded = [Subject.load(path) for path in paths]
    follower = MemorySegmenter.from_pretrained(str(memory), persam, loaded, lost_below=None, device="cpu")
    same(written(output), list(follower.follow(draw_frames(5))))


def test_one_folder_may_be_sam_and_memory(common_flags, memory, tmp_path):
    argv, output = common_flags
    persam = PerSAM.from_pretrained(memory, Method(), device="cpu")
    subject = persam.personalize(Reference(*scene(*SIZE)))
    subject.save(tmp_path / "disc.safetensors")
    flags = ["--memory", str(memory), "--sam", str(memory), "--lost_below", "0"]
    assert main([*argv, *flags, "--subject", str(tmp_path / "disc.safetensors")]) == 0
    (labels, scores), *_ = written(output)
    np.testing.assert_array_equal(labels == 1, persam.segment(draw_frames(1)[0], subject).mask)
    assert scores[0] is not None


def test_persam_is_used_without_memory(common_flags, models, first_mask):
    argv, output = common_flags
    assert main([*argv, "--sam", str(models / "sam"), "--first_mask", str(first_mask), "--lost_below", "0"]) == 0
    persam = PerSAM.from_pretrained(models / "sam", Method.persam_f(), device="cpu")
    first = draw_frames(1)[0]
    subjects = [first_frame_subject(persam, first, disc_and_corner() == number) for number in (1, 2)]
    same(written(output), list(VideoSegmenter(persam, subjects, None).follow(draw_frames(5), disc_and_corner())))


def test_folder_without_memory_is_refused_in_one_line(common_flags, first_mask, tmp_path, capsys):
    argv, output = common_flags
    random_sams.sam2().save_pretrained(tmp_path / "sam2")
    capsys.readouterr()
    assert main([*argv, "--memory", str(tmp_path / "sam2"), "--first_mask", str(first_mask)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert 'model_type "sam2"' in line
    assert "sam2_video, edgetam_video" in line
    assert not output.exists()


@pytest.mark.parametrize("quality", ["nan", "-1"])
def test_invalid_quality_is_refused(quality, common_flags, first_mask, capsys):
    argv, output = common_flags
    assert main([*argv, "--first_mask", str(first_mask), f"--lost_below={quality}"]) == 2
    assert "--lost_below" in capsys.readouterr().err and not output.exists()


def test_command_prints_frames_in_which_subject_was_lost(common_flags, models, first_mask, capsys):
    argv, output = common_flags
    assert main([*argv, "--sam", str(models / "sam"), "--first_mask", str(first_mask), "--lost_below", "10"]) == 0
    scores = [scores for _, scores in written(output)]
    assert [[score is None for score in frame] for frame in scores] == [[False, False]] + [[True, True]] * 4
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("5 frames in ")
    assert printed[1:3] == [f"subject {number} was not found in 4 of 5 frames: 1-4" for number in (1, 2)]
    assert "--lost_below (now 10)" in printed[3]


@pytest.mark.parametrize("damage", ["size", "bytes"])
def test_frames_before_damage_in_video_are_kept(damage, common_flags, models, memory, first_mask, tmp_path, capsys):
    """A folder with frames of different sizes is refused earlier; damage shows only when a frame is read."""
    argv, output = common_flags
    for number, frame in enumerate(draw_frames(5)):
        picture = Image.fromarray(frame[:-1] if damage == "size" and number == 3 else frame)
        picture.save(tmp_path / f"{number}.png")
    if damage == "bytes":
        path = tmp_path / "3.png"
        path.write_bytes(path.read_bytes()[:-40])
    argv[argv.index("--video") + 1] = str(tmp_path)
    assert main([*argv, "--memory", str(memory), "--first_mask", str(first_mask)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    if damage == "size":
        assert "frame 3" in line and not output.exists()
        return
    assert "3.png cannot be decoded" in line and "out holds the 3 frames before" in line
    assert len(written(output)) == 3 and len(list(video_io.read_frames(output / OVERLAY_NAME))) == 3
    assert not list(output.glob(".*"))


def test_run_without_model_is_refused_before_writing(video, first_mask, models, tmp_path):
    with pytest.raises(UserError, match="needs PerSAM or a video model"):
        segment_video(None, video, tmp_path / "out", first_mask=first_mask)
    persam = PerSAM.from_pretrained(models / "sam", Method.persam_f(), device="cpu")
    subject = persam.personalize(Reference(*scene(*SIZE)))
    with pytest.raises(UserError, match="without a one-shot method to find them"):
        segment_video(None, video, tmp_path / "out", [subject], memory=sam2_video())
    assert not (tmp_path / "out").exists()
