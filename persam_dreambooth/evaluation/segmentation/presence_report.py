"""Report how a presence rule decides: a table of verdicts per kind of photo, and ROC curves."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from persam_dreambooth.evaluation.segmentation.presence import Judgement
from persam_dreambooth.photos import files
from persam_dreambooth.segmentation.presence import Verdict


@dataclass(frozen=True)
class GroupRow:
    """Verdicts on the photos of one group.

    Attributes:
        group: name of the group.
        photos: number of photos.
        found, unsure, not_found: shares of the photos, which add up to 1.
        area: area under the ROC curve against all right masks; None for right masks.
    """

    group: str
    photos: int
    found: float
    unsure: float
    not_found: float
    area: float | None


def rows(judged: Sequence[Judgement]) -> list[GroupRow]:
    """Return a row for each group, right masks first, and one for all that are not right."""
    groups: dict[str, list[Judgement]] = {}
    for judgement in judged:
        groups.setdefault(judgement.group, []).append(judgement)
    wrong = [judgement for judgement in judged if not judgement.right]
    made = [_row(group, members, judged) for group, members in [*groups.items(), ("all without a right mask", wrong)]]
    return sorted(made, key=lambda row: row.area is not None)


def _row(group: str, members: Sequence[Judgement], judged: Sequence[Judgement]) -> GroupRow:
    counts = Counter(judgement.presence.verdict for judgement in members)
    found, unsure, lost = (counts[verdict] / len(members) for verdict in get_args(Verdict))
    right = [judgement for judgement in judged if judgement.right]
    area = None if members[0].right else area_under_curve(right + list(members))
    return GroupRow(group, len(members), found, unsure, lost, area)


def table(made: Sequence[GroupRow]) -> str:
    """Format the rows as a Markdown table, in percent."""
    lines = ["| photos | | found | unsure | not found | area under the ROC curve |", "| --- " + "| ---: " * 5 + "|"]
    for row in made:
        shares = " | ".join(f"{100 * share:.1f}" for share in (row.found, row.unsure, row.not_found))
        area = "" if row.area is None else f"{row.area:.3f}"
        lines.append(f"| {row.group} | {row.photos} | {shares} | {area} |")
    return "\n".join(lines)


def _arrays(judged: Sequence[Judgement]) -> tuple[Tensor, Tensor]:
    """Return the probabilities, and 1 for each right mask and 0 for the others."""
    probabilities = torch.tensor([judgement.presence.probability for judgement in judged])
    return probabilities, torch.tensor([int(judgement.right) for judgement in judged])


def area_under_curve(judged: Sequence[Judgement]) -> float:
    """Return the area under the ROC curve: how often a right mask gets a higher probability than a wrong one."""
    from torchmetrics.functional.classification import binary_auroc

    return float(binary_auroc(*_arrays(judged)))


def draw_curves(by_rule: dict[str, Sequence[Judgement]], path: Path) -> None:
    """Plot the ROC curve of each rule with its two thresholds, and save it as an image."""
    from matplotlib.figure import Figure
    from torchmetrics.functional.classification import binary_roc

    figure = Figure(figsize=(5, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    for name, judged in by_rule.items():
        false, true, _ = binary_roc(*_arrays(judged))
        (line,) = axes.plot(false, true, label=f"{name}: area {area_under_curve(judged):.3f}")
        for verdicts, marker in ((("found",), "o"), (("found", "unsure"), "v")):
            kept = [
                np.mean([judgement.presence.verdict in verdicts for judgement in judged if judgement.right == right])
                for right in (False, True)
            ]
            axes.plot(*kept, marker, color=line.get_color())
    axes.plot([0, 1], [0, 1], color="0.8", zorder=0)
    axes.set(xlabel="kept of the photos without a right mask", ylabel="kept of the photos with a right mask")
    axes.set_title("circle: found; triangle: found or unsure", fontsize=9)
    axes.legend(loc="lower right", fontsize=8)
    with files.replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:])
