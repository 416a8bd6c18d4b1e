"""The numbers that papers report, quoted beside ours: tables 1 to 6 of PerSAM's paper, and two numbers of INSID3's.

PerSAM's authors (Zhang et al., arXiv 2305.03048) used SAM ViT-H, INSID3's (Cuttano et al., arXiv 2603.28480) DINOv3-L.
All numbers are in percent. Methods that can be run here are keyed by their names on the command line.
"""

from typing import Final

TITLES: Final = {"persam": "PerSAM", "persam-f": "PerSAM-F", "seggpt": "SegGPT", "insid3": "INSID3"}

QUOTED: Final[dict[str, dict[str, dict[str, float]]]] = {
    "perseg": {  # table 1
        "Painter": {"mIoU": 56.4, "bIoU": 42.0},
        "VP": {"mIoU": 65.9, "bIoU": 25.5},
        "SEEM": {"mIoU": 87.1, "bIoU": 55.7},
        "seggpt": {"mIoU": 94.3, "bIoU": 76.5},
        "persam": {"mIoU": 89.3, "bIoU": 71.7},
        "persam-f": {"mIoU": 95.3, "bIoU": 77.9},
    },
    "davis": {  # table 2, as printed: of PerSAM and PerSAM-F, J&F is not the mean of J and F
        "AGSS": {"J": 64.9, "F": 69.9, "J&F": 67.4},
        "AFB-URR": {"J": 73.0, "F": 76.1, "J&F": 74.6},
        "Painter": {"J": 28.5, "F": 40.8, "J&F": 34.6},
        "SEEM": {"J": 55.0, "F": 62.8, "J&F": 58.9},
        "seggpt": {"J": 72.5, "F": 78.6, "J&F": 75.6},
        "persam": {"J": 71.3, "F": 75.1, "J&F": 66.9},
        "persam-f": {"J": 74.9, "F": 79.7, "J&F": 76.1},
    },
    "fss": {  # table 3
        "HSNet": {"mIoU": 86.5},
        "VAT": {"mIoU": 90.3},
        "Painter": {"mIoU": 61.7},
        "seggpt": {"mIoU": 85.6},
        "persam": {"mIoU": 81.6},
        "persam-f": {"mIoU": 86.3},
    },
    "lvis92": {  # table 3
        "HSNet": {"mIoU": 17.4},
        "VAT": {"mIoU": 18.5},
        "Painter": {"mIoU": 10.5},
        "seggpt": {"mIoU": 18.6},
        "persam": {"mIoU": 15.6},
        "persam-f": {"mIoU": 18.4},
    },
    "pascal-part": {  # table 3
        "HSNet": {"mIoU": 32.4},
        "VAT": {"mIoU": 33.6},
        "Painter": {"mIoU": 30.4},
        "persam": {"mIoU": 32.5},
        "persam-f": {"mIoU": 32.9},
        "insid3": {"mIoU": 50.5},
    },
    "paco-part": {  # table 3
        "HSNet": {"mIoU": 22.6},
        "VAT": {"mIoU": 23.5},
        "Painter": {"mIoU": 14.1},
        "persam": {"mIoU": 22.5},
        "persam-f": {"mIoU": 22.7},
        "insid3": {"mIoU": 38.7},
    },
}
"""Benchmark -> method -> measure; only benchmarks for which the papers report numbers."""

PARAMETERS: Final = {
    "Painter": "354M",
    "VP": "383M",
    "SEEM": "341M",
    "seggpt": "354M",
    "persam": "0",
    "persam-f": "2",
}
"""Learned parameters by method, in table 1."""

OBJECTS: Final = (
    "can",
    "barn",
    "clock",
    "cat",
    "backpack",
    "teddy bear",
    "duck toy",
    "thin bird",
    "red cartoon",
    "robot toy",
)
"""The objects of table 1."""

OBJECT_IOUS: Final[dict[str, tuple[float, ...]]] = {
    "Painter": (19.1, 3.2, 42.9, 94.1, 88.1, 93.0, 33.3, 20.9, 98.2, 65.0),
    "VP": (61.2, 58.6, 59.2, 76.6, 66.7, 79.8, 89.9, 67.4, 81.0, 72.4),
    "SEEM": (65.4, 82.5, 72.4, 91.1, 94.1, 95.2, 98.0, 71.3, 97.0, 95.8),
    "seggpt": (96.6, 63.8, 92.6, 94.1, 94.4, 93.7, 97.2, 92.6, 97.3, 96.2),
    "persam": (96.2, 38.9, 96.2, 90.70, 95.39, 94.6, 97.3, 93.7, 97.0, 60.6),
    "persam-f": (96.7, 97.5, 96.1, 92.3, 95.5, 95.2, 97.3, 94.0, 97.1, 96.7),
}
"""IoU of each of `OBJECTS` by method, in table 1."""

ABLATIONS: Final[dict[str, float]] = {
    "positive-prior": 69.1,
    "negative-prior": 72.5,
    "refinement": 83.9,
    "guided-attention": 85.8,
    "persam": 89.3,
    "prompt-tokens": 76.5,
    "adapters": 78.3,
    "lora": 90.0,
    "three-weights": 92.9,
    "persam-f": 95.3,
    "persam-f-printed": 95.3,
    "persam-box": 88.1,
    "persam-f-box": 94.9,
}
"""mIoU on PerSeg by method of `ablation.py` (tables 4, 5 and 6)."""

OTHER_ABLATIONS: Final[dict[str, dict[str, float]]] = {
    "6": {
        "Painter, reference mask": 56.4,
        "Painter, reference box": 42.0,
        "VP, reference mask": 65.9,
        "VP, reference box": 38.1,
        "SEEM, reference mask": 87.1,
        "SEEM, reference box": 64.9,
        "SegGPT, reference mask": 94.3,
        "SegGPT, reference box": 36.0,
    }
}
"""mIoU on PerSeg of further rows of the tables, by table and title."""

BOXES: Final[dict[str, dict[str, float]]] = {
    **{name: {"mIoU": OTHER_ABLATIONS["6"][f"{name}, reference box"]} for name in ("Painter", "VP", "SEEM")},
    "seggpt": {"mIoU": OTHER_ABLATIONS["6"]["SegGPT, reference box"]},
    "persam": {"mIoU": ABLATIONS["persam-box"]},
    "persam-f": {"mIoU": ABLATIONS["persam-f-box"]},
}
"""mIoU on PerSeg by method, given the references' boxes only (table 6)."""


def title(method: str) -> str:
    """Return a method's name as in the papers."""
    return TITLES.get(method, method)


def quoted_for(benchmark: str, with_box: bool = False) -> dict[str, dict[str, float]]:
    """Return method -> measure -> number of a benchmark, given the references' masks or only their boxes."""
    if with_box:
        return BOXES if benchmark == "perseg" else {}
    return QUOTED.get(benchmark, {})


def other_rows(
    benchmark: str, method: str, with_box: bool = False
) -> list[tuple[str, dict[str, float], dict[str, float]]]:
    """Return rows for `report.table`: all methods of `quoted_for` except the one that was run."""
    rows = []
    for name, numbers in quoted_for(benchmark, with_box).items():
        if name != method:
            learned = f", {PARAMETERS[name]} learned parameters" if benchmark == "perseg" else ""
            rows.append((f"{title(name)} (quoted{learned})", dict[str, float](), numbers))
    return rows
