"""`metrics.jsonl` in the output folder: each step's losses and learning rate, measures of pictures, warnings."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from persam_dreambooth import json_lines
from persam_dreambooth.atomic_io import replacing

METRICS_NAME = "metrics.jsonl"
WARNING = "warning"
"""Key of a line that holds a warning."""
logger = logging.getLogger(__name__)


class MetricsFile:
    """Appends a line after each step, so that a run can be followed while it trains.

    Lines after the step that the run resumes from are removed first, so that a resumed run ends with the file of an
    uninterrupted one. A full disk does not end the training: the lines end there, and a warning is logged.

    Args:
        output: the run's folder; None writes nothing (processes other than the first).
        step: steps already taken.
    """

    def __init__(self, output: Path | None, step: int) -> None:
        self._path = None if output is None else output / METRICS_NAME
        if self._path is not None and self._path.exists():
            kept = [line for value, line in _lines(self._path) if value["step"] <= step]
            with replacing(self._path) as temporary:
                temporary.write_bytes(b"".join(kept))

    def add(self, step: int, values: Mapping[str, float | str]) -> None:
        """Append numbers, or a warning, of a step; a step may have several lines."""
        if self._path is None:
            return
        try:
            with self._path.open("ab") as file:
                file.write(json_lines.encode({"step": step, **values}))
        except OSError as error:
            logger.warning(
                f"warning: {self._path} cannot be written ({error.strerror}): its lines end before step {step}"
            )
            self._path = None


def _lines(path: Path) -> list[tuple[dict[str, Any], bytes]]:
    """Return value and bytes of each line that holds a step."""
    found = []
    for _, content in json_lines.numbered_lines(path):
        try:
            value = json_lines.decode(content)
        except ValueError:  # cut off by a kill
            continue
        if isinstance(value, dict) and isinstance(value.get("step"), int):
            found.append((value, content.rstrip(b"\n") + b"\n"))
    return found


def read_metrics(output: Path) -> dict[int, dict[str, float]]:
    """Read what a run has written so far: step -> name -> number, by step; empty without the file.

    Lines that are damaged, or being written right now, are skipped.
    """
    steps = dict[int, dict[str, float]]()
    for line, _ in _lines(output / METRICS_NAME):
        numbers = {name: value for name, value in line.items() if isinstance(value, float)}
        steps[line["step"]] = steps.get(line["step"], {}) | numbers
    return dict(sorted(steps.items()))


def read_warnings(output: Path) -> list[tuple[int, str]]:
    """Read the warnings that a run has given while it trained, each with its step."""
    lines = [line for line, _ in _lines(output / METRICS_NAME)]
    return [(line["step"], line[WARNING]) for line in lines if isinstance(line.get(WARNING), str)]
