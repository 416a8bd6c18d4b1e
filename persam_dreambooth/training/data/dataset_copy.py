"""Copy a data set of the `datasets` library to a folder of photos, which is then trained on like any other."""

import hashlib
import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from persam_dreambooth.atomic_io import replacing
from persam_dreambooth.errors import UserError, first_line
from persam_dreambooth.image_files import FORMATS
from persam_dreambooth.images import to_levels, to_rgb
from persam_dreambooth.masks import refuse_picture
from persam_dreambooth.photos import files
from persam_dreambooth.training.config import TrainingConfig

COPY_FOLDER, SETTINGS_NAME, CAPTION = "dataset", "dataset.json", ".txt"
REGIONS = "regions"
"""Folder of the masks of several subjects, one folder each."""
SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tif"}


def local(config: TrainingConfig) -> TrainingConfig:
    """Return the same settings with the folders of the copy in place of the data set."""
    data, folder = config.data, _folder(config)
    captions = CAPTION if data.caption_column else data.caption_extension
    masks = str(folder / "masks") if data.mask_column else config.mask.instance_mask_dir
    regions = str(folder / REGIONS) if data.region_columns else config.mask.region_mask_dir
    return replace(
        config,
        data=replace(
            data,
            instance_data_dir=str(folder / "photos"),
            caption_extension=captions,
            dataset_name=None,
            dataset_config_name=None,
            cache_dir=None,
            mask_column=None,
            region_columns=[],
            caption_column=None,
        ),
        mask=replace(config.mask, instance_mask_dir=masks, region_mask_dir=regions),
    )


def copy(config: TrainingConfig) -> None:
    """Write photos, masks and captions into the output folder: `00000.jpg`, `00000.png`, `00000.txt`.

    Masks of `--region_columns` lie in a folder of each subject's words; a row without one has no file there.

    Photos in a format of `SUFFIXES` are copied byte for byte, others become PNG. Does nothing without
    `--dataset_name`, or if an earlier call finished. Call it in one process only.

    Raises:
        UserError: the data set cannot be loaded, a column is missing or has the wrong content, or the output folder
            holds a copy of another data set.
    """
    data = config.data
    if not data.dataset_name:
        return
    folder = _folder(config)
    words = ("dataset_name", "dataset_config_name", "image_column", "mask_column", "caption_column")
    settings = {word: getattr(data, word) for word in words}
    if Path(data.dataset_name).exists():
        settings["dataset_name"] = str(Path(data.dataset_name).resolve())
        settings["files"] = _state(Path(data.dataset_name))
    settings["region_columns"] = data.columns or None  # None: copies from before this flag have no such key
    if files.refuse_other_runs(folder, SETTINGS_NAME, settings, "data set copy", ("photos", "masks", REGIONS)):
        return
    for name in ("photos", "masks", REGIONS):  # an interrupted call may have left files of another data set
        shutil.rmtree(folder / name, ignore_errors=True)
    rows = _rows(config)
    for number, row in enumerate(tqdm(rows, desc="Copying the data set", unit="photo", delay=2)):
        where, name = f"row {number} of {data.dataset_name}", f"{number:05d}"
        photo = _write_photo(row[data.image_column], folder / "photos", name, f"{data.image_column} in {where}")
        if data.mask_column:
            _write_mask(row[data.mask_column], folder / "masks" / f"{name}.png", f"{data.mask_column} in {where}")
        for phrase, column in data.columns.items():
            if row[column] is not None:
                _write_mask(row[column], folder / REGIONS / phrase / f"{name}.png", f"{column} in {where}")
        if data.caption_column:
            caption = row[data.caption_column]
            if not isinstance(caption, str) or not caption.strip():
                raise UserError(
                    f"{data.caption_column} in {where} is {caption!r}, not a caption; choose another column"
                )
            with replacing(photo.with_suffix(CAPTION)) as temporary:
                temporary.write_text(caption, encoding="utf-8")
    files.write_json(settings, folder / SETTINGS_NAME)


def _state(folder: Path) -> str:
    """Return a fingerprint of a data set's files (names, sizes, times), to detect later changes."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    stats = [(path.relative_to(folder).as_posix(), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return hashlib.sha256(repr(stats).encode()).hexdigest()


def _folder(config: TrainingConfig) -> Path:
    return Path(config.output.output_dir) / COPY_FOLDER


def _rows(config: TrainingConfig) -> Any:
    """Load the train split, with pictures left undecoded."""
    import datasets  # takes two seconds and 80 MB, and only `--dataset_name` needs it

    data = config.data
    try:
        with _without_bars(datasets):
            rows = datasets.load_dataset(
                str(data.dataset_name), data.dataset_config_name, split="train", cache_dir=data.cache_dir
            )
    except Exception as error:  # no such name, no network, no such split, damaged files: each has its own exception
        reason = first_line(error)
        raise UserError(f"the data set {data.dataset_name} cannot be loaded ({reason}); check its name") from error
    given = [(flag, getattr(data, flag)) for flag in ("image_column", "mask_column", "caption_column")]
    for flag, column in (*given, *(("region_columns", column) for column in data.columns.values())):
        if column is not None and column not in rows.column_names:
            there = ", ".join(rows.column_names)
            raise UserError(f"--{flag} {column} is not a column of {data.dataset_name}; choose one of {there}")
    for column in (data.image_column, data.mask_column, *data.columns.values()):
        if column is not None and isinstance(rows.features[column], datasets.Image):
            rows = rows.cast_column(column, datasets.Image(decode=False))
    if len(rows) == 0:
        raise UserError(f"the data set {data.dataset_name} has no row in its train split; choose another")
    return rows


@contextmanager
def _without_bars(datasets: Any) -> Iterator[None]:
    """Disable the library's own progress bars inside the block."""
    before = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not before:
            datasets.enable_progress_bars()


def _write_photo(stored: Any, folder: Path, name: str, what: str) -> Path:
    """Write one photo: byte for byte if its format is in `SUFFIXES`, else as PNG."""
    image = _opened(stored, what)
    path = folder / f"{name}{SUFFIXES.get(image.format or '', '.png')}"
    if image.format in SUFFIXES:
        with replacing(path) as temporary:
            temporary.write_bytes(_bytes(stored))
    else:
        files.write_picture(to_rgb(image), path)
    return path


def _write_mask(stored: Any, path: Path, what: str) -> None:
    drawn = _opened(stored, what)
    refuse_picture(drawn, what)
    files.write_mask(to_levels(drawn), path)


def _opened(stored: Any, what: str) -> Image.Image:
    if not isinstance(stored, dict) or not (stored.get("bytes") or stored.get("path")):
        raise UserError(f"{what} is not a picture; choose another column")
    try:
        image = Image.open(io.BytesIO(_bytes(stored)), formats=FORMATS)
        image.load()
        return image
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise many kinds of exception for damaged data
        raise UserError(f"{what} cannot be decoded ({error}); remove the row") from error


def _bytes(stored: dict[str, Any]) -> bytes:
    return stored["bytes"] or Path(stored["path"]).read_bytes()
