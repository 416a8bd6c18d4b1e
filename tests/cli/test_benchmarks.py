"""The benchmarks of `evaluate`: a table and files for each, resuming, and masks as by hand."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from persam_dreambooth.cli import main
from persam_dreambooth.cli.evaluate import BENCHMARKS, QUESTIONS
from persam_dreambooth.errors import UserError
from persam_dreambooth.evaluation.segmentation import ablation, quoted
from persam_dreambooth.evaluation.segmentation.davis import Davis
from persam_dreambooth.photos import files
from persam_dreambooth.segmentation import (
    Insid3Method,
    Method,
    PresenceCheck,
    PresenceRule,
    Reference,
    SegGPT,
    SegGptVideoSegmenter,
    load_segmenter,
)
from persam_dreambooth.segmentation.memory_video import MemorySegmenter
from persam_dreambooth.segmentation.video import first_frame_subject
from tests.conftest import ROOT
from tests.evaluation.segmentation import datasets
from tests.evaluation.segmentation.test_protocols import WRITERS
from tests.segmentation.test_features import dinov3
from tests.segmentation.test_memory_video import FAMILIES as VIDEO_MODELS
from tests.segmentation.test_seggpt import random_seggpt

TINYWORLD = ROOT / "experiments" / "tinyworld" / "models"

MAKERS = {make.name: write for make, write in WRITERS.items()} | {
    "davis": datasets.write_davis,
    "ablate": datasets.write_perseg,
    "presence": datasets.write_perseg,
}


@pytest.fixture
def seggpt_folder(tmp_path):
    """A folder with a small random SegGPT."""
    random_seggpt().save_pretrained(tmp_path / "seggpt")
    return tmp_path / "seggpt"


def test_every_benchmark_has_test_and_paper_numbers():
    assert set(MAKERS) == set(QUESTIONS)
    unpublished = {"permis", "coco20", "pascal5"}  # by PerSAM's paper
    assert set(quoted.QUOTED) == set(QUESTIONS) - {"ablate", "presence"} - unpublished


@pytest.mark.parametrize("question", [name for name in QUESTIONS if name in BENCHMARKS])
def test_benchmark_prints_paper_numbers_next_to_ours(question, models, tmp_path, capsys):
    MAKERS[question](tmp_path / "data")
    sam = tmp_path / "sam"
    shutil.copytree(models / "sam", sam)
    flags = ["--data", tmp_path / "data", "--output", tmp_path / "out", "--sam", sam, "--episodes", 3]
    argv = ["evaluate", question, *map(str, flags), "--folds", "0", "--device", "cpu"]
    assert main(argv) == 0
    printed = capsys.readouterr().out
    stored = json.loads((tmp_path / "out" / "results.json").read_text())["summary"]["persam"]
    head, row = printed.splitlines()[1:3]
    known = quoted.QUOTED.get(question, {})
    papers = ["paper"] if known else []
    more = papers if question == "perseg" else []
    assert head.split() == ["mIoU", *papers, "bIoU", *more, "mAcc", "FB-IoU"]
    numbers = [f"{known['persam']['mIoU']}"] if known else []
    assert row.split()[: 2 + len(papers)] == ["persam", f"{stored['ours']['mIoU']:.1f}", *numbers]
    assert printed.count("(quoted") - (6 if question == "perseg" else 0) == max(0, len(known) - 1)
    assert "3 episodes" in printed
    for name in ("results.csv", "worst.png", "episodes.json"):
        assert (tmp_path / "out" / name).is_file()
    # With everything scored, the same output is printed without a SAM.
    shutil.rmtree(sam)
    assert main(argv) == 0
    assert capsys.readouterr().out == printed


def test_persam_f_is_compared_with_persam_f(models, tmp_path, capsys):
    datasets.write_perseg(tmp_path / "data", objects=("cat",), photos=2)
    flags = ["--data", tmp_path / "data", "--output", tmp_path / "out", "--sam", models / "sam", "--device", "cpu"]
    assert main(["evaluate", "perseg", *map(str, flags), "--method", "persam-f"]) == 0
    assert capsys.readouterr().out.splitlines()[2].split()[:5:2] == ["persam-f", "95.3", "77.9"]
    assert main(["evaluate", "perseg", *map(str, flags)]) == 2
    assert "another evaluation (method differ" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["persam", "insid3", "insid3-sam"])
def test_methods_with_dino_equal_segmenting_by_hand(method, models, tmp_path, capsys):
    datasets.write_perseg(tmp_path / "data", objects=("cat",), photos=2)
    dinov3().save_pretrained(tmp_path / "dino")
    flags = ["--data", tmp_path / "data", "--output", tmp_path / "out", "--device", "cpu"]
    flags += [] if method == "insid3" else ["--sam", models / "sam"]
    located = ["--features", tmp_path / "dino", "--features_size", 128]
    assert main(["evaluate", "perseg", *map(str, [*flags, "--method", method, *located])]) == 0
    assert capsys.readouterr().out.splitlines()[2].split()[0] == method
    chosen = Method() if method == "persam" else Insid3Method(with_sam=method == "insid3-sam")
    segmenter = load_segmenter(chosen, str(models / "sam"), str(tmp_path / "dino"), 128, "cpu")
    photos = sorted((tmp_path / "data").rglob("*.jpg"))
    masks = sorted((tmp_path / "data").rglob("*.png"))
    subject = segmenter.personalize(Reference(photos[0], masks[0]))
    (found,) = (tmp_path / "out" / "masks").rglob("*.png")
    np.testing.assert_array_equal(files.read_mask(found), segmenter.segment(photos[1], subject).mask)


def test_seggpt_is_scored_on_photos_with_masks_and_with_boxes(seggpt_folder, tmp_path, capsys):
    datasets.write_perseg(tmp_path / "data", objects=("cat",), photos=2)
    flags = ["--data", tmp_path / "data", "--device", "cpu", "--method", "seggpt", "--seggpt", seggpt_folder]
    photos, masks = (sorted((tmp_path / "data").rglob(name)) for name in ("*.jpg", "*.png"))
    seggpt, mask = SegGPT.from_pretrained(seggpt_folder, device="cpu"), Reference(photos[0], masks[0])
    rows, columns = np.nonzero(mask.foreground)
    boxed = np.zeros_like(mask.foreground)
    boxed[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
    references = {"mask": (mask, ("94.3", "87.1")), "box": (Reference(photos[0], boxed), ("36.0", "64.9"))}
    for name, (reference, papers) in references.items():
        output = tmp_path / name
        assert main(["evaluate", "perseg", *map(str, [*flags, "--output", output, "--reference", name])]) == 0
        printed = capsys.readouterr().out.splitlines()
        assert "1 object or class, 1 episode," in printed[0]
        rows = {line.split()[0]: line.split() for line in printed[2:9] if line}
        assert all(paper in rows[method] for method, paper in zip(("seggpt", "SEEM"), papers, strict=True))
        (found,) = (output / "masks").rglob("*.png")
        own = seggpt.segment(photos[1], seggpt.personalize(reference)).mask
        np.testing.assert_array_equal(files.read_mask(found), own)


def test_seggpt_is_scored_on_videos_with_its_memory(seggpt_folder, tmp_path):
    datasets.write_davis(tmp_path / "davis", videos=("bear",), frames=3)
    flags = ["--data", tmp_path / "davis", "--device", "cpu", "--method", "seggpt", "--seggpt", seggpt_folder]
    assert main(["evaluate", "davis", *map(str, [*flags, "--output", tmp_path / "out"])]) == 0
    davis = Davis(tmp_path / "davis")
    (video,) = davis.videos
    frames, seggpt = davis.frames(video), SegGPT.from_pretrained(seggpt_folder, device="cpu")
    labels = davis.labels(video, frames[0])
    labels = np.where(labels == 255, 0, labels)  # void
    subjects = [first_frame_subject(seggpt, frames[0], labels == number) for number in range(1, labels.max() + 1)]
    followed = list(SegGptVideoSegmenter(seggpt, subjects).follow(frames, labels))
    written = sorted((tmp_path / "out" / "masks" / video).glob("*.png"))
    assert written
    for path in written:
        np.testing.assert_array_equal(np.asarray(Image.open(path)), followed[int(path.stem)].labels)


def test_presence_rule_of_insid3_is_refused_by_others(models, tmp_path):
    datasets.write_perseg(tmp_path / "data", objects=("cat", "dog", "cup", "hat"), photos=3)
    flags = ["--data", tmp_path / "data", "--output", tmp_path / "out", "--sam", TINYWORLD / "sam", "--device", "cpu"]
    located = ["--features", TINYWORLD / "dino", "--features_size", 64]
    assert main(["evaluate", "presence", *map(str, [*flags, "--method", "insid3-sam", *located])]) == 0
    rule = PresenceRule.load(tmp_path / "out" / "presence.json")
    methods = {
        with_sam: load_segmenter(
            Insid3Method(with_sam=with_sam), str(TINYWORLD / "sam"), str(TINYWORLD / "dino"), 64, "cpu"
        )
        for with_sam in (True, False)
    }
    photos, masks = (sorted((tmp_path / "data").rglob(name)) for name in ("*.jpg", "*.png"))
    reference = Reference(photos[0], masks[0])
    subject = methods[True].personalize(reference)
    PresenceCheck(methods[True], subject, [reference], rule)
    with pytest.raises(UserError, match="presence rule was calibrated"):
        PresenceCheck(methods[False], subject, [reference], rule)


def test_ablate_prints_tables_and_can_add_more_later(models, tmp_path, capsys):
    datasets.write_perseg(tmp_path / "data", objects=("cat",), photos=2)
    flags = ["--data", tmp_path / "data", "--output", tmp_path / "out", "--sam", models / "sam", "--device", "cpu"]
    argv = ["evaluate", "ablate", *map(str, flags), "--steps", "1", "--tables"]
    assert main([*argv, "6"]) == 0
    lines = capsys.readouterr().out.splitlines()
    start = lines.index("Table 6: what is given")
    assert [row.split()[-2] for row in lines[start + 2 : start + 6]] == ["89.3", "88.1", "95.3", "94.9"]
    scored = len((tmp_path / "out" / "scores.jsonl").read_text().splitlines())
    assert scored == 4
    assert [row.split()[-2] for row in lines[start + 6 : start + 14]] == [
        *("56.4", "42.0", "65.9", "38.1", "87.1", "64.9", "94.3", "36.0")
    ]
    assert main([*argv, "4", "6"]) == 0
    printed = capsys.readouterr().out
    assert all(title in printed for table in ("4", "6") for title in ablation.TABLES[table].values())
    methods = ablation.methods_of(["4", "6"])
    assert len((tmp_path / "out" / "scores.jsonl").read_text().splitlines()) == len(methods)


def test_davis_prints_j_and_f(models, tmp_path, capsys):
    datasets.write_davis(tmp_path / "data", videos=("bear",), frames=3)
    flags = ["--data", tmp_path / "data", "--output", tmp_path / "out", "--sam", models / "sam", "--device", "cpu"]
    assert main(["evaluate", "davis", *map(str, flags)]) == 0
    _, head, row, *_ = capsys.readouterr().out.splitlines()
    assert head.split() == ["J", "paper", "F", "paper", "J&F", "paper"]
    assert row.split()[0] == "persam"
    assert row.split()[2::2] == ["71.3", "75.1", "66.9"]


@pytest.mark.parametrize("kind", VIDEO_MODELS)
def test_memory_of_video_model_is_scored_on_davis(kind, tmp_path, capsys):
    if kind == "edgetam_video":
        pytest.importorskip("timm")
    datasets.write_davis(tmp_path / "data", videos=("bear",), frames=4)
    VIDEO_MODELS[kind]().save_pretrained(tmp_path / "model")
    flags = ["--data", tmp_path / "data", "--output", tmp_path / "out", "--memory", tmp_path / "model"]
    argv = ["evaluate", "davis", *map(str, flags), "--device", "cpu"]
    assert main(argv) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[2].split()[0] == "memory"
    assert "PerSAM-F (quoted)" in printed and f"memory of {tmp_path / 'model'}" in printed
    davis = Davis(tmp_path / "data")
    frames = davis.frames("bear")
    labels = np.where((first := davis.labels("bear", frames[0])) == 255, 0, first)
    followed = MemorySegmenter.from_pretrained(str(tmp_path / "model"), device="cpu").follow(frames, labels)
    for frame, expected in zip(frames, followed, strict=True):
        found = np.asarray(files.read_picture(tmp_path / "out" / "masks" / "bear" / f"{frame.stem}.png"))
        np.testing.assert_array_equal(found, expected.labels)
    assert main([*argv, "--method", "persam-f"]) == 2
    assert "--memory follows the objects without --method" in capsys.readouterr().err


def test_missing_sam_is_one_line(error_of, tmp_path):
    datasets.write_perseg(tmp_path / "data")
    line = error_of(
        "evaluate", "perseg", "--data", tmp_path / "data", "--output", tmp_path / "out", "--sam", tmp_path / "none"
    )
    assert f"no SAM at '{tmp_path / 'none'}'" in line
