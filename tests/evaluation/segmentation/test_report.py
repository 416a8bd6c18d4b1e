"""The report: averages of sums, numbers beside the paper's, files that agree, and the worst cases first."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from persam_dreambooth.evaluation.segmentation import report
from persam_dreambooth.evaluation.segmentation.metrics import Overlap, overlap
from persam_dreambooth.evaluation.segmentation.report import means, per_object
from persam_dreambooth.evaluation.segmentation.running import BenchmarkPlan, Score, one_shot_method
from persam_dreambooth.photos import rendering
from persam_dreambooth.segmentation import Method, PerSAM
from tests.evaluation.segmentation.test_running import backbone as backbone
from tests.evaluation.segmentation.test_running import perseg as perseg
from tests.evaluation.segmentation.test_running import run

NOTHING = Overlap(0, 1, 1)


def score(group, region, fold=0, contestant="persam", boundary=NOTHING, pixels=10):
    return Score(contestant, f"{group}", fold, group, Overlap(*region), boundary, pixels)


def test_object_iou_is_sum_of_intersections_over_sum_of_unions():
    # The mean of 1/2 and 1/8 would be 0.3125.
    rows = per_object([score("dog", (1, 2, 2)), score("cat", (3, 4, 3)), score("dog", (1, 8, 3))])
    assert [(row.group, row.episodes, row.iou, row.accuracy) for row in rows] == [
        ("cat", 1, 0.75, 1.0),
        ("dog", 2, 0.2, 0.4),
    ]
    assert means(rows)["mIoU"] == pytest.approx(100 * (0.75 + 0.2) / 2)
    assert means(rows)["mAcc"] == pytest.approx(100 * (1 + 0.4) / 2)


def test_boundary_iou_is_summed_same_way():
    bands = (Overlap(1, 2, 2), Overlap(1, 8, 3))
    (row,) = per_object([score("dog", (1, 1, 1), boundary=band) for band in bands])
    assert row.boundary_iou == 0.2


def test_foreground_background_iou_equals_confusion_matrix():
    """FB-IoU as HSNet's evaluation has it: both classes' IoU from one confusion matrix per fold, then their mean."""
    random = np.random.default_rng(0)
    scores, expected = [], []
    for fold in range(2):
        confusion = np.zeros((2, 2))
        for group in "ab":
            for _ in range(3):
                found, true, void = (random.random((20, 30)) < share for share in (0.4, 0.3, 0.1))
                pairs = 2 * true[~void].astype(int) + found[~void]
                confusion += np.bincount(pairs, minlength=4).reshape(2, 2)
                region = overlap(found, true, void)
                scores.append(Score("m", f"{len(scores)}", fold, group, region, NOTHING, int((~void).sum())))
        both = np.diag(confusion) / (confusion.sum(0) + confusion.sum(1) - np.diag(confusion))
        expected.append(100 * both.mean())
    assert means(per_object(scores))["FB-IoU"] == pytest.approx(np.mean(expected))


def test_folds_are_weighted_equally():
    rows = per_object([score("a", (1, 1, 1)), score("b", (0, 1, 1), fold=1), score("c", (0, 1, 1), fold=1)])
    assert means(rows)["mIoU"] == 50  # not 33.3


def test_methods_are_not_mixed():
    rows = per_object([score("a", (1, 1, 1), contestant="z"), score("a", (0, 1, 1), contestant="y")])
    assert [(row.contestant, row.iou) for row in rows] == [("z", 1), ("y", 0)]


def test_table_shows_paper_numbers_next_to_ours():
    rows = [("persam", {"mIoU": 12.345, "bIoU": 5}, {"mIoU": 89.3})]
    lines = [line.split() for line in report.table(["mIoU", "bIoU"], rows).splitlines()]
    assert lines == [["mIoU", "paper", "bIoU"], ["persam", "12.3", "89.3", "5.0"]]
    rows.append(("VP (quoted)", {}, {"bIoU": 25.5}))
    *_, quoted = report.table(["mIoU", "bIoU"], rows).splitlines()
    assert quoted.split() == ["VP", "(quoted)", "-", "-", "-", "25.5"]


def test_object_table_matches_folders_by_their_letters():
    rows = per_object([score("teddybear", (1, 2, 2)), score("robot_toy", (3, 4, 3)), score("dog", (1, 1, 1))])
    lines = [line.split() for line in report.object_table(rows, "persam").splitlines()[1:]]
    ours = {" ".join(line[:-7]): line[-7] for line in lines}  # the last six columns are quoted
    assert len(ours) == 10
    assert (ours["teddy bear"], ours["robot toy"], ours["can"]) == ("50.0", "75.0", "-")


def test_results_and_rows_agree_and_worst_are_shown(backbone, perseg, tmp_path):
    plan = BenchmarkPlan(perseg, tmp_path / "out", {"sam": "random"})
    episodes, scores = run(plan, backbone, persam=one_shot_method(PerSAM(backbone, Method())))
    rows = per_object(scores)
    paper = {"persam": {"mIoU": 89.3}}
    ours = report.write_report(plan.output, perseg, plan.settings, episodes, scores, rows, paper)
    stored = json.loads((plan.output / "results.json").read_text())
    assert stored["settings"] == {"sam": "random"}
    assert stored["summary"] == {"persam": {"ours": ours["persam"], "paper": {"mIoU": 89.3}}}
    assert ours["persam"]["mIoU"] == pytest.approx(100 * np.mean([row.iou for row in rows]))
    with (plan.output / "results.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["group"], float(line["iou"])) for line in lines] == [(row.group, row.iou) for row in rows]
    assert [row["group"] for row in stored["objects"]] == ["cat", "dog"]


def test_worst_come_first(backbone, perseg, tmp_path):
    plan = BenchmarkPlan(perseg, tmp_path, {})
    episodes, scores = run(plan, backbone, persam=one_shot_method(PerSAM(backbone, Method())))
    worst = min(scores, key=lambda score: score.region.iou)
    sheets = []
    for shown in (scores, scores[::-1], [worst]):
        report.worst_sheet(tmp_path, perseg, episodes, shown)
        sheets.append(np.asarray(Image.open(tmp_path / "worst.png")).astype(int))
    every, turned, alone = sheets
    np.testing.assert_array_equal(every, turned)
    tile = rendering.TILE
    np.testing.assert_array_equal(every[:tile, :tile], alone[:tile, :tile])
    assert np.abs(every[:tile, :tile] - every[:tile, tile + 10 : 2 * tile + 10]).max() > 50
