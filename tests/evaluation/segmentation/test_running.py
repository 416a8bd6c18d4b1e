"""Running and scoring: every episode once, nothing done twice, and what an output folder may hold."""

import numpy as np
import pytest

from persam_dreambooth.errors import UserError
from persam_dreambooth.evaluation.segmentation.few_shot import Pascal5i
from persam_dreambooth.evaluation.segmentation.folders import PerSeg
from persam_dreambooth.evaluation.segmentation.metrics import Overlap
from persam_dreambooth.evaluation.segmentation.report import per_object
from persam_dreambooth.evaluation.segmentation.running import (
    BenchmarkPlan,
    Journal,
    encode_with,
    evaluate,
    mask_path,
    one_shot_method,
    open_output,
)
from persam_dreambooth.evaluation.segmentation.sampled import PacoPart
from persam_dreambooth.images import to_mask
from persam_dreambooth.photos import files
from persam_dreambooth.segmentation import Method, PerSAM, Reference, load_backbone
from random_models import random_sam
from tests.evaluation.segmentation import datasets


@pytest.fixture(scope="module")
def backbone():
    return load_backbone(random_sam(), device="cpu")


@pytest.fixture(scope="module")
def perseg(tmp_path_factory):
    return PerSeg(datasets.write_perseg(tmp_path_factory.mktemp("perseg")))


class Counting:
    """A method that counts its calls, and can be interrupted after some of them."""

    def __init__(self, method, interrupted_after=None):
        self.method, self.left = method, interrupted_after
        self.learned = self.found = 0

    def __call__(self, reference):
        self.learned += 1
        find = self.method(reference)

        def counted(photo):
            if self.found == self.left:
                raise KeyboardInterrupt
            self.found += 1
            return find(photo)

        return counted


def run(plan, backbone, **methods):
    return evaluate(plan, list(methods), lambda: (encode_with(PerSAM(backbone)), methods))


# A run


def test_void_pixels_are_not_scored(tmp_path):
    benchmark = Pascal5i(datasets.write_pascal5(tmp_path / "data"))
    plan = BenchmarkPlan(benchmark, tmp_path / "out", {}, folds=[0], episodes=1)
    everything = lambda references: lambda photo: datasets.square(4, 4, 16)  # noqa: E731  # class 1 and its void ring
    _, (score,) = evaluate(plan, ["m"], lambda: (lambda photo: photo, {"m": everything}))
    assert score.region == Overlap(144, 144, 144)
    assert score.boundary.iou == 1
    assert score.pixels == 40 * 60 - (16 * 16 - 12 * 12)


def test_method_learns_from_all_references(backbone, tmp_path):
    benchmark = PerSeg(datasets.write_perseg(tmp_path / "data", objects=("cat",), photos=4))
    plan = BenchmarkPlan(benchmark, tmp_path / "out", {}, shots=2)
    episodes, _ = run(plan, backbone, persam=one_shot_method(PerSAM(backbone)))
    assert [episode.name for episode in episodes] == ["cat/02", "cat/03"]
    persam = PerSAM(backbone)
    references = [Reference(*benchmark.read(shot)) for shot in episodes[0].references]
    subject = persam.personalize(references)
    for episode in episodes:
        found = persam.segment(benchmark.read(episode.query)[0], subject).mask
        np.testing.assert_array_equal(files.read_mask(mask_path(plan.output, "persam", episode)), found)


def test_scores_equal_segmenting_by_hand(backbone, perseg, tmp_path):
    plan = BenchmarkPlan(perseg, tmp_path / "out", {})
    episodes, scores = run(plan, backbone, persam=one_shot_method(PerSAM(backbone, Method())))
    persam = PerSAM(backbone)
    for name in ("cat", "dog"):
        intersection = union = target = 0
        mine = [episode for episode in episodes if episode.group == name]
        subject = persam.personalize(Reference(*perseg.read(mine[0].references[0])))
        for episode in mine:
            image, drawn = perseg.read(episode.query)
            found, true = persam.segment(image, subject).mask, to_mask(drawn)
            intersection += (found & true).sum()
            union += (found | true).sum()
            target += true.sum()
            np.testing.assert_array_equal(files.read_mask(mask_path(plan.output, "persam", episode)), found)
        (row,) = (row for row in per_object(scores) if row.group == name)
        assert 0 < row.iou < 1
        assert (row.iou, row.accuracy) == (intersection / union, intersection / target)


def test_interrupted_run_resumes_and_repeats_nothing(backbone, perseg, tmp_path):
    settings = {"sam": "random", "folds": (1, 2)}
    straight = run(
        BenchmarkPlan(perseg, tmp_path / "one", settings), backbone, persam=one_shot_method(PerSAM(backbone, Method()))
    )
    plan = BenchmarkPlan(perseg, tmp_path / "two", settings)
    first = Counting(one_shot_method(PerSAM(backbone, Method())), interrupted_after=3)
    with pytest.raises(KeyboardInterrupt):
        run(plan, backbone, persam=first)
    with (tmp_path / "two" / "scores.jsonl").open("a") as file:
        file.write('{"contestant": "per')  # as after a kill
    second = Counting(one_shot_method(PerSAM(backbone, Method())))
    assert run(plan, backbone, persam=second) == straight
    assert (first.learned, first.found) == (2, 3)
    assert (second.learned, second.found) == (1, 1)
    assert len((tmp_path / "two" / "scores.jsonl").read_text().splitlines()) == 4

    def load():
        raise AssertionError("no episode is left, so no SAM is needed")

    assert evaluate(plan, ["persam"], load) == straight


def test_method_added_later_runs_alone(backbone, perseg, tmp_path):
    plan = BenchmarkPlan(perseg, tmp_path / "out", {})
    first, second = (Counting(one_shot_method(PerSAM(backbone, Method()))) for _ in range(2))
    run(plan, backbone, one=first)
    _, scores = run(plan, backbone, one=first, other=second)
    assert (first.found, second.found) == (4, 4)
    assert [score.contestant for score in scores] == ["one"] * 4 + ["other"] * 4
    mask_path(plan.output, "one", evaluate(plan, ["one"], None)[0][0]).unlink()
    run(plan, backbone, one=first)
    assert first.found == 5  # a deleted mask is recreated


def test_reference_that_cannot_be_learned_counts_as_empty_mask(backbone, tmp_path):
    # The part fills the box that photo and mask are cropped to, so no background is left.
    root = datasets.write_paco(tmp_path / "data", classes=4, photos=2)
    for name in ("train", "val"):
        stored = {"cid2img": {group: [{0: "v/val2017/0.jpg"}, {1: "v/val2017/1.jpg"}] for group in range(4)}}
        part = {"obj_bbox": [10, 10, 20, 20], "segmentation": datasets.packed(datasets.square(10, 10, 20))}
        annotations = [{"category_id": group, "obj_ann_id": group} | part for group in range(4)]
        datasets.dump(root / "paco" / f"paco_part_{name}.pkl", stored | {"img2anno": {0: annotations, 1: annotations}})
    plan = BenchmarkPlan(PacoPart(root), tmp_path / "out", {}, folds=[0], episodes=2)
    _, scores = run(plan, backbone, persam=one_shot_method(PerSAM(backbone, Method())))
    assert [(score.region, "full" in score.error) for score in scores] == [(Overlap(0, 400, 400), True)] * 2
    assert per_object(scores)[0].unlearned == 2
    assert run(plan, backbone, persam=None)[1] == scores


# The output folder


def test_folder_of_other_run_is_refused_naming_differences(tmp_path):
    open_output(tmp_path / "out", {"sam": "a", "seed": 0, "folds": (1, 2)})
    open_output(tmp_path / "out", {"sam": "a", "seed": 0, "folds": [1, 2]})
    with pytest.raises(UserError, match=r"another evaluation \(sam, seed differ\)"):
        open_output(tmp_path / "out", {"sam": "b", "seed": 1, "folds": [1, 2]})


def test_folder_with_other_files_is_refused_but_episodes_list_is_allowed(tmp_path):
    (tmp_path / "episodes.json").write_text("{}")
    open_output(tmp_path, {})
    other = tmp_path / "photos"
    other.mkdir()
    (other / "dog.jpg").touch()
    with pytest.raises(UserError, match="is not from an earlier evaluation"):
        open_output(other, {})
    assert [path.name for path in other.iterdir()] == ["dog.jpg"]


def test_journal_with_damaged_line_in_middle_is_refused(tmp_path):
    journal = Journal(tmp_path / "j.jsonl")
    journal.append({"a": "ü"})
    assert journal.lines() == [{"a": "ü"}]
    (tmp_path / "j.jsonl").write_text('{"a": 1}\n{"a":\n{"a": 2}\n')
    with pytest.raises(UserError, match="line 2 of"):
        journal.lines()
