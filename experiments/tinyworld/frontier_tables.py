"""The frontier's tables: each arm where its subject counts as learned, and at every training length."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import numpy as np

from protocol import SHARE, Curve, area, at_identity, best, doublings, mean_curve, paired, window

PLAIN = "a"
Runs = dict[tuple[str, str], dict[str, list[Curve]]]
"""(confound, row) to the curves of each subject, one per seed; a row is an arm at one learning rate (`Job.row`)."""


def tables(runs: Runs, drawn: Mapping[str, float] | None = None) -> str:
    """Return Markdown: drawn pictures, the base model and the oracle, then two tables for each confound."""
    parts = [_scale(runs, drawn or {})]
    confounds = dict.fromkeys(confound for confound, _ in runs if confound)
    oracle = mean_of(runs[("", "oracle")]) if ("", "oracle") in runs else None
    if oracle is not None:
        for confound in confounds:
            parts += [_table(runs, confound, best(oracle)), _by_length(runs, confound)]
    return "\n".join(parts)


def _scale(runs: Runs, drawn: Mapping[str, float]) -> str:
    """Return a Markdown table of drawn pictures, the base model without a subject, and the oracle at its best."""
    names = ("identity", "fidelity", "scene", "whole", "pose")
    lines = [f"| | {' | '.join(names)} |", f"| --- {'| ---: ' * len(names)}|"]
    if drawn:
        cells = " | ".join(f"{100 * drawn[name]:.1f}" if name in drawn else "" for name in names)
        lines.append(f"| drawn pictures of the subjects | {cells} |")
    for arm, title in (("base", "base model"), ("oracle", "oracle, 40 photos in all scenes")):
        subjects = runs.get(("", arm))
        if subjects:
            mean = mean_of(subjects)
            place = int(np.argmax(mean.identity + mean.scene))
            cells = " | ".join(f"{100 * mean.values[name][place]:.1f}" for name in names)
            lines.append(f"| {title}{f', {mean.steps[place]} steps' if arm == 'oracle' else ''} | {cells} |")
    return "\n".join(lines) + "\n"


def _table(runs: Runs, confound: str, oracle: dict[str, float]) -> str:
    """Return a Markdown table: a row for each arm and rate, and one for its difference from each plain DreamBooth."""
    level = SHARE * oracle["identity"]
    names = ("scene", *_leaks(confound), "whole", "pose")
    heads = ["arm", f"scene at identity {100 * level:.0f}", *names[1:], "area", "doublings"]
    measures: list[Callable[[Curve], float]] = [
        *(partial(_percent_at, level=level, name=name) for name in names),
        lambda curve: 100 * area(curve),
        lambda curve: doublings(curve, oracle),
    ]
    lines = [f"**{confound}**", "", f"| {' | '.join(heads)} | usable window, steps |"]
    lines.append(f"| --- {'| ---: ' * len(heads)}|")
    rows = _rows(runs, confound)
    for row, subjects in rows.items():
        found = window(mean_of(subjects), oracle)
        cells = [_cell(*value) for value in _values(measures, subjects)]
        cells.append(f"{found[0]:.0f} to {found[1]:.0f}" if found else "none")
        lines.append(f"| {row} | {' | '.join(cells)} |")
    for row, less in _differences(rows):
        cells = [_cell(*value, sign=True) for value in _values(measures, rows[row], rows[less])]
        lines.append(f"| {row} - {less} | {' | '.join(cells)} | |")
    return "\n".join(lines) + "\n"


def _by_length(runs: Runs, confound: str) -> str:
    """Return a Markdown table of the means at every length, and of the differences at the lengths that both have."""
    rows = _rows(runs, confound)
    lengths = sorted({int(step) for subjects in rows.values() for step in mean_of(subjects).steps})
    lines = [f"| steps | {' | '.join(map(str, lengths))} |", f"| --- {'| ---: ' * len(lengths)}|"]
    for name in ("identity", "scene", "whole", *_leaks(confound)):
        measures = [partial(_percent_after, step=step, name=name) for step in lengths]
        for row, subjects in rows.items():
            mean = mean_of(subjects)
            cells = [f"{value:.1f}" if np.isfinite(value := measure(mean)) else "" for measure in measures]
            lines.append(f"| {name}: {row} | {' | '.join(cells)} |")
        for row, less in _differences(rows):
            cells = [_cell(*value, sign=True, missing="") for value in _values(measures, rows[row], rows[less])]
            lines.append(f"| {row} - {less}, {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _leaks(confound: str) -> tuple[str, ...]:
    """Return the measures of what comes along uninvited: the photos' scene and, if they show one, their companion."""
    return ("unprompted", "uninvited") if confound == "companion" else ("unprompted",)


def _rows(runs: Runs, confound: str) -> dict[str, dict[str, list[Curve]]]:
    """Return a confound's arms and rates, each with the curves of its subjects."""
    return {row: subjects for (name, row), subjects in runs.items() if name == confound}


def _differences(rows: Iterable[str]) -> list[tuple[str, str]]:
    """Return the pairs to compare: each arm that is not plain DreamBooth with plain DreamBooth at each rate."""
    rows = list(rows)
    return [(row, less) for row in rows if not _is_plain(row) for less in rows if _is_plain(less)]


def _is_plain(row: str) -> bool:
    """Whether a table's row, such as "a 0.002", is plain DreamBooth at some rate."""
    return row.partition(" ")[0] == PLAIN


def _values(
    measures: Sequence[Callable[[Curve], float]],
    subjects: dict[str, list[Curve]],
    less: dict[str, list[Curve]] | None = None,
) -> list[tuple[float, float, float]]:
    """Return each measure of an arm, or its difference from the arm `less` on the same subjects, with intervals."""
    names = sorted(subjects if less is None else subjects.keys() & less.keys())
    first, second = ({name: mean_curve(arm[name]) for name in names} for arm in (subjects, less or subjects))

    def value(measure: Callable[[Curve], float], some: Sequence[str]) -> float:
        drawn = measure(mean_curve([first[name] for name in some]))
        return drawn if less is None else drawn - measure(mean_curve([second[name] for name in some]))

    return [paired(partial(value, measure), names) for measure in measures]


def _percent_at(curve: Curve, level: float, name: str) -> float:
    return 100 * at_identity(curve, name, level)


def _percent_after(curve: Curve, step: int, name: str) -> float:
    """Return a measure after a number of steps, in percent; NaN if the run was shorter."""
    return 100 * float(curve.values[name][curve.steps == step][0]) if step in curve.steps else float("nan")


def _cell(value: float, low: float, high: float, sign: bool = False, missing: str = "not reached") -> str:
    if np.isnan(value):
        return missing
    written = f"{value:+.1f}" if sign else f"{value:.1f}"
    return written if np.isnan(low) else f"{written} [{low:.1f}, {high:.1f}]"


def mean_of(subjects: Mapping[str, list[Curve]]) -> Curve:
    """Return the mean curve over all subjects, and over all seeds of each."""
    return mean_curve([mean_curve(curves) for curves in subjects.values()])
