"""report.html: one file with the tables and, side by side, everything that was drawn."""

import base64
from collections.abc import Iterator, Mapping
from io import BytesIO
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from persam_dreambooth.atomic_io import replacing
from persam_dreambooth.evaluation.generation.intervals import FEW, Estimate
from persam_dreambooth.evaluation.generation.meter import MeasuredPicture
from persam_dreambooth.evaluation.generation.metrics_file import settings
from persam_dreambooth.evaluation.generation.outcome import Outcome, by_prompt
from persam_dreambooth.evaluation.generation.table import MEASURES, differences, estimates, interval
from persam_dreambooth.photos import files, rendering
from persam_dreambooth.words import counted

REPORT_NAME: Final = "report.html"
THUMBNAIL: Final = 256
"""Longest side of a picture in the report, in pixels."""
TILES: Final = (72, 128)
"""The least and the greatest width that it is shown with."""
WIDTH: Final = 1200
"""What the width of a row, all models' pictures of one prompt, aims at."""


def write_report(outcome: Outcome, path: Path) -> None:
    """Write the page: no script, no font, nothing to load; every picture lies in it."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("report.html.jinja").render(
        titles=[model.title for model in outcome.plan.models],
        sources={model.title: model.source for model in outcome.plan.models},
        settings=settings(outcome),
        made={name: _plain(value) for name, value in settings(outcome).items() if value is not None},
        notes=outcome.notes,
        groups=list(_groups(outcome)),
        photos=[_photo(one.image, one.mask) for one in outcome.plan.photos],
        prompts=list(_grid(outcome)),
        with_photos=bool(outcome.photos),
        tile=max(TILES[0], min(TILES[1], WIDTH // len(outcome.plan.models) // outcome.plan.drawing.num_images - 6)),
        small=max(files.read_photo(outcome.plan.photos[0].image).size) <= TILES[1],
    )
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")  # paths may be no UTF-8


def text_table(outcome: Outcome) -> str:
    """The same numbers as lines of text: a row a measure, a column a model, then the differences."""
    rows = [["", *(model.title for model in outcome.plan.models), *_difference_titles(outcome)]]
    for _, of_group in _groups(outcome):
        for row in of_group:
            cells = [f"{cell['mean']} {cell['range']}".strip() for cell in (*row["cells"], *row["differences"])]
            rows.append([row["title"], *cells])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _difference_titles(outcome: Outcome) -> list[str]:
    first, *others = (model.title for model in outcome.plan.models)
    return [f"{title} - {first}" for title in others]


def _groups(outcome: Outcome) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The table's rows by the question that they answer."""
    first, *others = (model.title for model in outcome.plan.models)
    values = {title: outcome.values(title) for title in (first, *others)}
    known = {title: estimates(one) for title, one in values.items()}
    over = {title: differences(values[title], values[first]) for title in others}
    there = [name for name in MEASURES if any(name in one for one in known.values())]
    for group, names in groupby(there, key=lambda name: MEASURES[name].group):
        rows = []
        for name in names:
            measure = MEASURES[name]
            photos = outcome.photos.get(name)
            rows.append(
                {
                    "title": measure.title,
                    "better": measure.better,
                    "text": measure.text,
                    "photos": "" if photos is None else measure.words(photos),
                    "cells": [_cell(name, one) for one in known.values()],
                    "differences": [_difference(name, one) for one in over.values()],
                }
            )
        yield group, rows


def _plain(value: Any) -> str:
    """A setting for people: several values after each other."""
    if isinstance(value, dict):
        return ", ".join(f"{key}: {one}" for key, one in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _cell(name: str, known: Mapping[str, Estimate]) -> dict[str, str]:
    """A model's value in words, and of how many values it is the mean."""
    if name not in known:
        return {"mean": "-", "range": "", "count": "no value"}
    one = known[name]
    return _words(name, one) | {"count": f"{counted(one.values, 'value')}, {counted(one.prompts, 'prompt')}"}


def _difference(name: str, over: Mapping[str, Estimate]) -> dict[str, str]:
    """A difference in words, and whether its interval says "better", "worse" or nothing ("")."""
    if name not in over:
        return {"mean": "-", "range": "", "says": ""}
    one = over[name]
    if one.low is None or one.high is None or one.low <= 0 <= one.high or one.prompts < FEW:
        return _words(name, one) | {"says": ""}
    return _words(name, one) | {"says": "better" if (one.mean > 0) == (MEASURES[name].better == "higher") else "worse"}


def _words(name: str, one: Estimate) -> dict[str, str]:
    mean, _, rest = interval(MEASURES[name], one).partition(" [")
    return {"mean": mean, "range": f"[{rest}" if rest else ""}


def _grid(outcome: Outcome) -> Iterator[dict[str, Any]]:
    """Prompt by prompt, each model's pictures."""
    columns = [by_prompt(of_model) for of_model in outcome.measured.values()]
    for row in zip(*columns, strict=True):
        yield {"text": row[0][0].drawn.prompt.text, "cells": [[_tile(one) for one in same] for same in row]}


def _tile(one: MeasuredPicture) -> dict[str, Any]:
    """One picture of the grid, with the subject outlined beside it, and what was made of it."""
    drawn = one.drawn
    picture = files.read_photo(drawn.files.picture)
    return {
        "picture": data_uri(picture),
        "outlined": data_uri(rendering.overlay(picture, files.read_mask(drawn.files.mask))),
        "seed": drawn.seed,
        "scene": one.scene if drawn.prompt.scene else None,
        "leaked": one.values.get("training_scene") == 1,
        "doubt": drawn.presence if drawn.presence != "found" else None,
    }


def _photo(photo: Path, mask: Path | None) -> str:
    picture = files.read_photo(photo)
    return data_uri(rendering.overlay(picture, files.read_mask(mask)) if mask else picture)


def data_uri(picture: Image.Image) -> str:
    """A picture of at most `THUMBNAIL` pixels a side as a `data:` URI, JPEG."""
    small, packed = picture.convert("RGB"), BytesIO()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    small.save(packed, "JPEG", quality=90, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(packed.getvalue()).decode()}"
