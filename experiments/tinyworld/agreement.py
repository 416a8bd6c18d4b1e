"""Does presence improve when PerSAM's mask must agree with INSID3's? Measured on photos with and without the subject.

    python experiments/tinyworld/agreement.py

The subjects and photos are those of `presence.py`. *Agreement* is the IoU of PerSAM's mask with INSID3's; alone it
needs no calibration. The logistic rules are fitted in five folds, always on other subjects than they judge; the 95 %
intervals are by bootstrap over subjects. What was measured is kept in `work/`: an interrupted run can be resumed.
"""

import argparse
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from tqdm import tqdm

from models import CLIP, DINO, SAM
from persam_dreambooth.evaluation.segmentation.presence import DOUBTED, FOUND_IOU, fit_logistic
from persam_dreambooth.images import mask_iou
from persam_dreambooth.segmentation import (
    INSID3,
    FeatureEncoder,
    ImageEncoder,
    Insid3Sam,
    OneShotSegmenter,
    PerSAM,
    PresenceMeter,
    load_backbone,
)
from presence import subjects
from training_flags import WORK

FOLDS = 5
OWN = ("likeness", "contrast", "cycle", "score")
RULES = {
    "agreement with INSID3": ("insid3",),
    "agreement with INSID3 + SAM": ("insid3-sam",),
    "SAM's scores": OWN,
    "SAM's scores and agreement": (*OWN, "insid3"),
    "SAM's scores and CLIP's appearance (the existing rule)": (*OWN, "appearance"),
    "the existing rule and agreement": (*OWN, "appearance", "insid3"),
}
"""The scores that each rule reads; a single one needs no fit."""
Row = dict[str, Any]
"""One trial: its subject, its group, whether PerSAM's mask is right, and its scores."""


def measure(
    number: int, photos: int, persam: PerSAM, others: dict[str, OneShotSegmenter], clip: ImageEncoder
) -> list[Row]:
    """Measure the trials of one subject; those where PerSAM finds nothing are left out, as when a rule is fitted."""
    ((reference, trials),) = subjects(number, number + 1, photos)
    subject = persam.personalize(reference)
    meter = PresenceMeter(persam, subject, [reference], clip)
    learned = {name: method.personalize(reference) for name, method in others.items()}
    rows = []
    for trial in trials:
        (photo,) = persam.encode([trial.image])
        found = persam.segment(photo, subject)
        if (scores := meter(trial.image, photo, found)) is None:
            continue
        agreement = {
            name: mask_iou(found.mask, method.segment(trial.image, learned[name]).mask)
            for name, method in others.items()
        }
        right = trial.truth is not None and mask_iou(found.mask, trial.truth) >= FOUND_IOU
        group = trial.group if right or trial.truth is None else "mask on something else"
        rows.append({"subject": number, "group": group, "right": bool(right)} | asdict(scores) | agreement)
    return rows


def measure_all(count: int, photos: int, kept: Path) -> list[Row]:
    """Measure all subjects, those that are not in the file yet."""
    sam, dino = load_backbone(str(SAM), "cpu"), FeatureEncoder.from_pretrained(DINO, 64, "cpu")
    persam, clip = PerSAM(sam), ImageEncoder.from_pretrained(CLIP, "cpu")
    others: dict[str, OneShotSegmenter] = {"insid3": INSID3(dino)}
    others["insid3-sam"] = Insid3Sam(others["insid3"], sam)
    kept.parent.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    for number in tqdm(range(len(done), count), "measuring", count, initial=len(done), unit="subject"):
        done.append(measure(number, photos, persam, others, clip))
        with kept.open("a") as file:
            file.write(json.dumps(done[-1]) + "\n")
    return [row for rows in done[:count] for row in rows]


def judge(rows: Sequence[Row], names: tuple[str, ...]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Judge each row by a rule that was fitted on the other folds' subjects.

    Returns:
        Each row's probability, and whether it is above the threshold that 5 % of the right masks of the fit miss.
        With a single score, the score itself takes the place of the probability, without a fit.
    """
    values = torch.tensor([[float(row[name]) for name in names] for row in rows])
    right = torch.tensor([row["right"] for row in rows])
    fold = torch.tensor([row["subject"] % FOLDS for row in rows])
    judged, passed = values[:, 0].clone(), torch.zeros(len(rows), dtype=torch.bool)
    for number in range(FOLDS):
        learned, judging = fold != number, fold == number
        usual, spread = values[learned].mean(0), values[learned].std(0).clamp_min(1e-6)
        if len(names) > 1:
            weights, bias = fit_logistic((values[learned] - usual) / spread, right[learned])
            probability = torch.sigmoid(((values - usual) / spread) @ weights + bias)
        else:
            probability = values[:, 0]
        judged[judging] = probability[judging]
        passed[judging] = probability[judging] >= probability[learned & right].quantile(DOUBTED)
    return np.asarray(judged.double()), np.asarray(passed)


def area(values: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Return the area under the ROC curve; ties count half."""
    ranks, positive = rankdata(values), right.sum()
    return float((ranks[right].sum() - positive * (positive + 1) / 2) / (positive * (~right).sum()))


def resamples(rows: Sequence[Row], draws: int = 1000) -> list[NDArray[np.int64]]:
    """Draw subjects with replacement; return the numbers of their rows."""
    owners = np.array([row["subject"] for row in rows])
    own = [np.flatnonzero(owners == owner) for owner in np.unique(owners)]
    rng = np.random.default_rng(0)
    return [np.concatenate([own[n] for n in rng.integers(len(own), size=len(own))]) for _ in range(draws)]


def with_interval(statistic: Callable[[NDArray[np.int64]], float], rows: Sequence[Row]) -> str:
    """Format a statistic of the rows with its 95 % interval."""
    low, high = np.percentile([statistic(numbers) for numbers in resamples(rows)], [2.5, 97.5])
    return f"{statistic(np.arange(len(rows))):.3f} [{low:.3f}, {high:.3f}]"


def report(rows: Sequence[Row]) -> str:
    """Return two tables: all wrong masks by rule, and the area under the curve by group of wrong masks."""
    right, of_group = (np.array([row[key] for row in rows]) for key in ("right", "group"))
    judged = {name: judge(rows, names) for name, names in RULES.items()}
    groups = sorted({row["group"] for row in rows if not row["right"]})

    def areas(name: str, group: str | None = None) -> str:
        kept = np.flatnonzero(right | (of_group == group if group else ~right))
        values, positive = judged[name][0][kept], right[kept]
        return with_interval(lambda numbers: area(values[numbers], positive[numbers]), [rows[n] for n in kept])

    def error(passed: NDArray[np.bool_], wanted: bool) -> str:
        return with_interval(lambda numbers: float((passed[numbers] != wanted)[right[numbers] == wanted].mean()), rows)

    def gain(name: str, base: str) -> str:
        first, second = judged[name][0], judged[base][0]
        return with_interval(
            lambda numbers: area(first[numbers], right[numbers]) - area(second[numbers], right[numbers]), rows
        )

    lines = [
        "| rule | area under the ROC curve | right masks rejected | wrong masks accepted |",
        "| --- " + "| ---: " * 3 + "|",
    ]
    lines += [
        f"| {name} | {areas(name)} | {error(judged[name][1], True)} | {error(judged[name][1], False)} |"
        for name in RULES
    ]
    for fixed in (0.2, 0.5, 0.7):
        passed = np.array([row["insid3"] >= fixed for row in rows])
        lines += [f"| agreement, fixed at {fixed} | | {error(passed, True)} | {error(passed, False)} |"]
    lines += ["", f"| area against | {' | '.join(groups)} |", "| --- " + "| ---: " * len(groups) + "|"]
    lines += [f"| {name} | {' | '.join(areas(name, group) for group in groups)} |" for name in RULES]
    own, both, existing, all_scores = list(RULES)[2:]
    lines += [
        "",
        f"agreement adds to SAM's scores {gain(both, own)}, to the existing rule {gain(all_scores, existing)}",
    ]
    counts = Counter(row["group"] for row in rows)
    return "\n".join([*lines, "", f"photos: {dict(counts)}"])


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=160, help="held-out individuals (160)")
    parser.add_argument("--photos", type=int, default=3, help="photos of each group per individual (3)")
    parser.add_argument("--work", type=Path, default=WORK, help="folder for the measurements (work/)")
    flags = parser.parse_args()
    measured = measure_all(flags.subjects, flags.photos, flags.work / f"agreement-{flags.photos}.jsonl")
    print(report(measured))


if __name__ == "__main__":
    main()
