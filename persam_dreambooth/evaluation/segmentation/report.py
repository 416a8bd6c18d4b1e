"""Report of an evaluation: a table with the paper's numbers, results as JSON and CSV, a sheet of the worst cases."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from persam_dreambooth.evaluation.segmentation.averages import ObjectScore, means
from persam_dreambooth.evaluation.segmentation.protocols import Benchmark, Episode, read_checked
from persam_dreambooth.evaluation.segmentation.running import Score, mask_path
from persam_dreambooth.images import to_mask
from persam_dreambooth.photos import files, rendering

RESULTS_NAME, ROWS_NAME, WORST_NAME = "results.json", "results.csv", "worst.png"
WORST = 24
"""Number of cases on the sheet of the worst cases."""


def table(head: Sequence[str], rows: Sequence[tuple[str, Mapping[str, float], Mapping[str, float]]]) -> str:
    """Format measures next to the paper's, in percent, as lines of text.

    Args:
        head: the measures.
        rows: title of each row, our numbers and the paper's; unknown numbers are shown as a dash.
    """
    words = [["", *(word for name in head for word in (name, "paper"))]]
    for title, ours, paper in rows:
        numbers = [values.get(name) for name in head for values in (ours, paper)]
        words.append([title, *("-" if number is None else f"{number:.1f}" for number in numbers)])
    widths = [max(map(len, column)) for column in zip(*words, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip() for line in words
    )


def write_results(
    output: Path, settings: Mapping[str, Any], summary: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> None:
    """Write `results.json` (settings, summary, rows) and the rows alone as `results.csv`.

    Args:
        output: the run's folder.
        settings: the run's settings.
        summary: its averages and the paper's, in percent.
        rows: one per object, at least one, all with the same keys.
    """
    files.write_json(
        {"settings": dict(settings), "summary": dict(summary), "objects": list(rows)}, output / RESULTS_NAME
    )
    with files.replacing(output / ROWS_NAME) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_report(
    output: Path,
    benchmark: Benchmark,
    settings: Mapping[str, Any],
    episodes: Sequence[Episode],
    scores: Sequence[Score],
    rows: Sequence[ObjectScore],
    paper: Mapping[str, Mapping[str, float]],
) -> dict[str, dict[str, float]]:
    """Write results and the sheet of the worst cases.

    Args:
        output: the run's folder, with its masks.
        benchmark, settings: the run's benchmark and settings.
        episodes, scores: from `evaluate`.
        rows: the scores aggregated by `per_object`.
        paper: method -> measure -> the paper's number, if known.

    Returns:
        Method -> measure -> our number, in percent.
    """
    names = list(dict.fromkeys(row.contestant for row in rows))
    ours = {name: means([row for row in rows if row.contestant == name]) for name in names}
    summary = {name: {"ours": ours[name], "paper": dict(paper.get(name, {}))} for name in names}
    write_results(output, settings, summary, [asdict(row) for row in rows])
    worst_sheet(output, benchmark, episodes, scores)
    return ours


def worst_sheet(output: Path, benchmark: Benchmark, episodes: Sequence[Episode], scores: Sequence[Score]) -> None:
    """Write `worst.png`: the results with the lowest IoU, the true mask on the left, the found one on the right."""
    by_name = {episode.name: episode for episode in episodes}
    several = len({score.contestant for score in scores}) > 1
    pictures, captions = [], []
    for score in sorted(scores, key=lambda score: score.region.iou)[:WORST]:
        episode = by_name[score.episode]
        image, true = read_checked(benchmark, episode.query)
        found = files.read_mask(mask_path(output, score.contestant, episode))
        pair = [rendering.overlay(image, to_mask(true)), rendering.overlay(image, found)]
        pictures.append(rendering.joined(pair, across=True))
        whose = f"{score.contestant}  " if several else ""
        captions.append(f"{100 * score.region.iou:.0f} %  {whose}{episode.group}  {episode.query.image}")
    files.write_picture(rendering.sheet(pictures, captions, columns=4), output / WORST_NAME)
