"""The numbers of the papers: tables that agree with each other, and the rows that are shown beside a run."""

import pytest

from persam_dreambooth.evaluation.segmentation import quoted


def test_tables_of_the_paper_agree_with_each_other():
    of_masks = quoted.QUOTED["perseg"]
    for name in ("persam", "persam-f"):
        assert quoted.ABLATIONS[name] == of_masks[name]["mIoU"]
    for name in ("Painter", "VP", "SEEM", "SegGPT"):
        key = "seggpt" if name == "SegGPT" else name
        assert quoted.OTHER_ABLATIONS["6"][f"{name}, reference mask"] == of_masks[key]["mIoU"]
    assert set(quoted.PARAMETERS) == set(quoted.OBJECT_IOUS) == set(of_masks) == set(quoted.BOXES)
    assert {len(ious) for ious in quoted.OBJECT_IOUS.values()} == {len(quoted.OBJECTS)}
    ladder = [quoted.ABLATIONS[name] for name in ("positive-prior", "negative-prior", "refinement", "persam")]
    assert ladder == sorted(ladder)


def test_mean_of_j_and_f_is_rounded_from_its_halves_except_where_the_paper_differs():
    for method, numbers in quoted.QUOTED["davis"].items():
        is_mean = numbers["J&F"] == pytest.approx((numbers["J"] + numbers["F"]) / 2, abs=0.051)
        assert is_mean == (method not in ("persam", "persam-f"))


def test_numbers_are_percent():
    rows = [numbers for benchmark in quoted.QUOTED.values() for numbers in benchmark.values()]
    for numbers in (*rows, *quoted.BOXES.values()):
        assert numbers and all(1 < number < 100 for number in numbers.values())


def test_boxes_are_quoted_for_perseg_only():
    assert quoted.quoted_for("perseg", with_box=True)["persam"] == {"mIoU": 88.1}
    assert quoted.quoted_for("perseg")["persam"] == {"mIoU": 89.3, "bIoU": 71.7}
    assert quoted.quoted_for("fss", with_box=True) == {} == quoted.quoted_for("coco20")


def test_rows_leave_out_the_method_that_was_run_and_name_learned_parameters_of_table_1():
    rows = {title: numbers for title, _, numbers in quoted.other_rows("perseg", "seggpt")}
    assert len(rows) == 5 and not any("SegGPT" in title for title in rows)
    assert rows["PerSAM-F (quoted, 2 learned parameters)"] == {"mIoU": 95.3, "bIoU": 77.9}
    others = quoted.other_rows("pascal-part", "persam")
    assert ("INSID3 (quoted)", {}, {"mIoU": 50.5}) in others and all("learned" not in title for title, *_ in others)
    (box,) = (row for row in quoted.other_rows("perseg", "persam", with_box=True) if row[0].startswith("SegGPT"))
    assert box == ("SegGPT (quoted, 354M learned parameters)", {}, {"mIoU": 36.0})
