"""Write report.html: one file with the tables and all pictures side by side."""

import base64
from collections.abc import Iterator, Mapping
from functools import cache
from io import BytesIO
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from PIL import Image

from persam_dreambooth.atomic_io import replacing
from persam_dreambooth.errors import counted
from persam_dreambooth.evaluation.generation.measures import MeasuredPicture
from persam_dreambooth.evaluation.generation.outcome import Outcome, by_prompt, settings
from persam_dreambooth.evaluation.generation.table import FEW, MEASURES, Estimate, differences, estimates, interval
from persam_dreambooth.photos import files, rendering

REPORT_NAME: Final = "report.html"
THUMBNAIL: Final = 256
"""Longest side of a picture in the report, in pixels."""
TILES: Final = (72, 128)
"""Minimum and maximum display width of a picture, in pixels."""
WIDTH: Final = 1200
"""Target width of a row (all models' pictures of one prompt), in pixels."""


def write_report(outcome: Outcome, path: Path) -> None:
    """Write a self-contained page: no scripts, fonts or external files; all pictures are embedded."""
    page = _template().render(
        titles=[model.title for model in outcome.plan.models],
        sources={model.title: str(model.source) for model in outcome.plan.models},
        settings=settings(outcome),
        made={name: _plain(value) for name, value in settings(outcome).items() if value is not None},
        notes=outcome.notes,
        groups=list(_groups(outcome)),
        photos=[_photo(photo.image, photo.mask) for photo in outcome.plan.photos],
        prompts=list(_grid(outcome)),
        with_photos=bool(outcome.photos),
        tile=max(TILES[0], min(TILES[1], WIDTH // len(outcome.plan.models) // outcome.plan.drawing.num_images - 6)),
        small=max(files.read_photo(outcome.plan.photos[0].image).size) <= TILES[1],
    )
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")  # paths may not be valid UTF-8


@cache
def _template() -> Template:
    """Compile the page's template."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("report.html.jinja")


def text_table(outcome: Outcome) -> str:
    """Format the same numbers as text: one row per measure, one column per model, then the differences."""
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
    """Yield the table's rows, grouped by the question that they answer."""
    first, *others = (model.title for model in outcome.plan.models)
    values = {title: outcome.values(title) for title in (first, *others)}
    estimated = {title: estimates(of_model) for title, of_model in values.items()}
    compared = {title: differences(values[title], values[first]) for title in others}
    measured = [name for name in MEASURES if any(name in of_model for of_model in estimated.values())]
    for group, names in groupby(measured, key=lambda name: MEASURES[name].group):
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
                    "cells": [_cell(name, of_model) for of_model in estimated.values()],
                    "differences": [_difference(name, of_model) for of_model in compared.values()],
                }
            )
        yield group, rows


def _plain(value: Any) -> str:
    """Format a setting for display; several values are separated by commas."""
    if isinstance(value, dict):
        return ", ".join(f"{key}: {item}" for key, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _cell(name: str, estimated: Mapping[str, Estimate]) -> dict[str, str]:
    """Format a model's value, and the number of values it is the mean of."""
    if name not in estimated:
        return {"mean": "-", "range": "", "count": "no value"}
    value = estimated[name]
    return _words(name, value) | {"count": f"{counted(value.values, 'value')}, {counted(value.prompts, 'prompt')}"}


def _difference(name: str, compared: Mapping[str, Estimate]) -> dict[str, str]:
    """Format a difference, and judge it: "better", "worse", or "" if it is not significant."""
    if name not in compared:
        return {"mean": "-", "range": "", "says": ""}
    value = compared[name]
    if value.low is None or value.high is None or value.low <= 0 <= value.high or value.prompts < FEW:
        return _words(name, value) | {"says": ""}
    better = (value.mean > 0) == (MEASURES[name].better == "higher")
    return _words(name, value) | {"says": "better" if better else "worse"}


def _words(name: str, value: Estimate) -> dict[str, str]:
    mean, _, rest = interval(MEASURES[name], value).partition(" [")
    return {"mean": mean, "range": f"[{rest}" if rest else ""}


def _grid(outcome: Outcome) -> Iterator[dict[str, Any]]:
    """Yield each model's pictures, prompt by prompt."""
    columns = [by_prompt(of_model) for of_model in outcome.measured.values()]
    for row in zip(*columns, strict=True):
        yield {"text": row[0][0].drawn.prompt.text, "cells": [[_tile(picture) for picture in same] for same in row]}
    if any(outcome.classes.values()):
        cells = [
            [_tile(MeasuredPicture(p.drawn, {}, None)) for p in of_model] for of_model in outcome.classes.values()
        ]
        yield {"text": f"{outcome.plan.class_prompt} (without the unique token)", "cells": cells}


def _tile(measured: MeasuredPicture) -> dict[str, Any]:
    """Return one picture of the grid, with and without the subject's outline, and its caption."""
    drawn = measured.drawn
    picture = files.read_photo(drawn.files.picture)
    return {
        "picture": data_uri(picture),
        "outlined": data_uri(rendering.overlay(picture, files.read_mask(drawn.files.mask))),
        "seed": drawn.seed,
        "scene": measured.scene if drawn.prompt.scene else None,
        "leaked": measured.values.get("training_scene") == 1,
        "doubt": drawn.presence if drawn.presence != "found" else None,
    }


def _photo(photo: Path, mask: Path | None) -> str:
    picture = files.read_photo(photo)
    return data_uri(rendering.overlay(picture, files.read_mask(mask)) if mask else picture)


def data_uri(picture: Image.Image) -> str:
    """Encode a picture, downscaled to at most `THUMBNAIL` pixels a side, as a JPEG `data:` URI."""
    small, buffer = picture.convert("RGB"), BytesIO()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    small.save(buffer, "JPEG", quality=90, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
