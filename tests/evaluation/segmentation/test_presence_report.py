"""The report of a presence rule: verdicts counted by group, the area under the ROC curve, table and plot."""

from PIL import Image

from persam_dreambooth.evaluation.segmentation.presence import Judgement
from persam_dreambooth.evaluation.segmentation.presence_report import area_under_curve, draw_curves, rows, table
from persam_dreambooth.segmentation import Presence


def judgement(group, right, probability, verdict):
    return Judgement(group, right, Presence(verdict, probability, None))


JUDGED = [
    judgement("other", False, 0.5, "unsure"),
    judgement("own", True, 0.9, "found"),
    judgement("own", True, 0.4, "unsure"),
    judgement("other", False, 0.1, "not found"),
]


def test_table_counts_verdicts_by_group_and_area_is_share_of_ordered_pairs():
    own, other, everything = rows(JUDGED)
    assert (own.group, own.photos, own.found, own.unsure, own.not_found, own.area) == ("own", 2, 0.5, 0.5, 0.0, None)
    assert (other.found, other.unsure, other.not_found, other.area) == (0.0, 0.5, 0.5, 0.75)
    assert everything.photos == 2
    assert area_under_curve(JUDGED) == 0.75


def test_table_is_in_percent_and_right_masks_come_first_without_area():
    head, _, *lines = table(rows([*JUDGED, judgement("third", False, 0.95, "found")])).splitlines()
    assert head == "| photos | | found | unsure | not found | area under the ROC curve |"
    assert lines == [
        "| own | 2 | 50.0 | 50.0 | 0.0 |  |",
        "| other | 2 | 0.0 | 50.0 | 50.0 | 0.750 |",
        "| third | 1 | 100.0 | 0.0 | 0.0 | 0.000 |",
        "| all without a right mask | 3 | 33.3 | 33.3 | 33.3 | 0.500 |",
    ]


def test_plot_names_each_rule_with_its_area_in_the_format_of_the_file(tmp_path):
    sure = [judgement("own", True, 0.9, "found"), judgement("other", False, 0.1, "not found")]
    for name in ("roc.svg", "roc.png"):
        draw_curves({"ours": JUDGED, "theirs": sure}, tmp_path / name)
    drawn = (tmp_path / "roc.svg").read_text()
    assert "<!-- ours: area 0.750 -->" in drawn and "<!-- theirs: area 1.000 -->" in drawn
    with Image.open(tmp_path / "roc.png") as picture:
        assert picture.format == "PNG" and picture.size == (600, 540)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["roc.png", "roc.svg"]
