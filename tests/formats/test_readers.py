"""Each trainer finds what was exported for it: its own rules for finding, rotating and reading files, applied to the
saved configuration, lead to our photos and masks. Where the reader is a library, the library itself reads."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import yaml
from datasets import Image as DatasetImage
from datasets import load_dataset
from PIL import Image, ImageOps
from pycocotools.coco import COCO
from torchvision.io import ImageReadMode, decode_image

from persam_dreambooth.formats import CONVENTIONS, export_folder, read_selection
from tests.formats.albums import CAPTIONS, masks_in, photos_in, write_album


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    folder = tmp_path_factory.mktemp("an album")
    write_album(folder)
    return folder


def stored(path, mode="RGB"):
    """Read a picture as trainers do that ignore EXIF."""
    with Image.open(path) as image:
        return np.array(image.convert(mode))


def turned(path, mode="RGB"):
    """Read a picture as trainers do that apply EXIF."""
    with Image.open(path) as image:
        return np.array(ImageOps.exif_transpose(image).convert(mode))


# Each reader returns {stem: (photo, mask in [0, 255], caption)}.


def onetrainer(folder):
    """CollectPaths, ModifyPath and LoadImage of mgds: torchvision, EXIF applied, grey."""
    config = json.loads((folder / "onetrainer.json").read_text(encoding="utf-8"))
    assert config["masked_training"] is True
    (concept,) = config["concepts"]
    extensions = {".bmp", ".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".avif"}
    found = {}
    for path in Path(concept["path"]).iterdir():
        if path.suffix.lower() not in extensions or path.stem.endswith(("-masklabel", "-condlabel")):
            continue
        mask_path = path.with_name(f"{path.stem}-masklabel.png")
        photo = decode_image(str(path), ImageReadMode.RGB, apply_exif_orientation=True)
        mask = decode_image(str(mask_path), ImageReadMode.GRAY, apply_exif_orientation=True)
        found[path.stem] = (photo.permute(1, 2, 0).numpy(), mask[0].numpy(), caption_at(path.with_suffix(".txt")))
    return found


KOHYA_EXTENSIONS = [".png", ".jpg", ".jpeg", ".webp", ".bmp", ".PNG", ".JPG", ".JPEG", ".WEBP", ".BMP"]


def kohya_pictures(directory):
    return [path for path in Path(directory).iterdir() if path.suffix in KOHYA_EXTENSIONS]


def kohya(folder):
    """ControlNetDataset of sd-scripts: one mask per photo and none left over, no EXIF, the red channel."""
    config = tomllib.loads((folder / "kohya.toml").read_text(encoding="utf-8"))
    (subset,) = config["datasets"][0]["subsets"]
    masks = kohya_pictures(subset["conditioning_data_dir"])
    found = {}
    for photo in kohya_pictures(subset["image_dir"]):
        (mask,) = [path for path in masks if path.stem == photo.stem]
        masks.remove(mask)
        caption = caption_at(photo.with_suffix(config["general"]["caption_extension"]))
        found[photo.stem] = (stored(photo), stored(mask)[..., 0], caption)
    assert not masks
    return found


def kohya_alpha(folder):
    """DreamBoothDataset of sd-scripts with `alpha_mask`: the fourth channel, the other three as stored."""
    config = tomllib.loads((folder / "kohya.toml").read_text(encoding="utf-8"))
    (subset,) = config["datasets"][0]["subsets"]
    assert subset["alpha_mask"] is True
    found = {}
    for photo in kohya_pictures(subset["image_dir"]):
        levels = stored(photo, "RGBA")
        found[photo.stem] = (levels[..., :3], levels[..., 3], caption_at(photo.with_suffix(".txt")))
    return found


def simpletuner(folder):
    """The mask has the photo's path under the other root; RGB, EXIF applied, the red channel."""
    images, masks, _ = json.loads((folder / "multidatabackend.json").read_text(encoding="utf-8"))
    assert images["conditioning_data"] == masks["id"]
    assert (masks["dataset_type"], masks["conditioning_type"]) == ("conditioning", "mask")
    found = {}
    for photo in Path(images["instance_data_dir"]).iterdir():
        if photo.suffix == ".txt":
            continue
        mask = str(photo).replace(images["instance_data_dir"], masks["instance_data_dir"], 1)
        found[photo.stem] = (turned(photo), turned(mask)[..., 0], caption_at(photo.with_suffix(".txt")))
    return found


def ai_toolkit(folder):
    """Photos below one folder, masks of the same stem in the other, EXIF applied, grey."""
    (dataset,) = yaml.safe_load((folder / "ai-toolkit.yaml").read_text(encoding="utf-8"))["datasets"]
    extensions = (".jpg", ".jpeg", ".png", ".webp")
    found = {}
    for photo in Path(dataset["folder_path"]).rglob("*"):
        if not photo.name.lower().endswith(extensions):
            continue
        candidates = [Path(dataset["mask_path"]) / f"{photo.stem}{extension}" for extension in extensions]
        mask = next(path for path in candidates if path.exists())
        caption = caption_at(photo.with_suffix(f".{dataset['caption_ext']}"))
        found[photo.stem] = (turned(photo), turned(mask, "L"), caption)
    return found


def diffusion_pipe(folder):
    """Every file but text is a photo; the mask has the same stem and size, stored pixels, the red channel."""
    (directory,) = tomllib.loads((folder / "dataset.toml").read_text(encoding="utf-8"))["directory"]
    masks = {path.stem: path for path in Path(directory["mask_path"]).glob("*") if path.is_file()}
    found = {}
    for photo in sorted(Path(directory["path"]).glob("*")):
        if photo.suffix in (".txt", ".npz", ".json", ".parquet", ".bak", ".db"):
            continue
        caption = caption_at(photo.with_suffix(".txt"))
        found[photo.stem] = (stored(photo), stored(masks.pop(photo.stem))[..., 0], caption)
    assert not masks
    return found


def invoke(folder):
    """ImageCaptionJsonlDataset of invoke-training: paths from the lines, no EXIF, grey."""
    config = yaml.safe_load((folder / "invoke.yaml").read_text(encoding="utf-8"))
    assert config["use_masks"] is True
    index = Path(config["data_loader"]["dataset"]["jsonl_path"])
    found = {}
    with index.open(encoding="utf-8") as file:
        for line in map(json.loads, file):
            photo, mask = index.parent / line["image"], index.parent / line["mask"]
            found[photo.stem] = (stored(photo), stored(mask, "L"), line["text"] or None)
    return found


def imagefolder(folder):
    """The library itself; it forgets names, so those come from a second, undecoded reading."""
    cache = str(folder.parent / "cache")
    data = load_dataset("imagefolder", data_dir=str(folder), split="train", cache_dir=cache)
    named = load_dataset(str(folder), split="train", cache_dir=cache)  # as our --dataset_name does
    assert (named.column_names, len(named)) == (data.column_names, len(data))
    assert data.column_names == ["image", "mask", "text"]
    names = [Path(row["path"]).stem for row in data.cast_column("image", DatasetImage(decode=False))["image"]]
    return {
        name: (np.asarray(row["image"].convert("RGB")), np.asarray(row["mask"].convert("L")), row["text"] or None)
        for name, row in zip(names, data, strict=True)
    }


def coco(folder):
    """pycocotools itself."""
    read = COCO(str(folder / "instances.json"))
    found = {}
    for annotation in read.anns.values():
        photo = folder / "images" / read.imgs[annotation["image_id"]]["file_name"]
        mask = read.annToMask(annotation)
        assert annotation["area"] == mask.sum()
        rows, columns = np.nonzero(mask)
        box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1] if mask.any() else [0, 0, 0, 0]
        assert annotation["bbox"] == box
        found[photo.stem] = (turned(photo), mask * 255, caption_at(photo.with_suffix(".txt")))
    return found


def caption_at(path):
    return path.read_text(encoding="utf-8").strip() if path.exists() else None


READERS = {
    "onetrainer": onetrainer,
    "kohya": kohya,
    "kohya-alpha": kohya_alpha,
    "simpletuner": simpletuner,
    "ai-toolkit": ai_toolkit,
    "diffusion-pipe": diffusion_pipe,
    "invoke": invoke,
    "imagefolder": imagefolder,
    "coco": coco,
}


@pytest.mark.parametrize("trainer", READERS)
def test_trainer_finds_our_photos_under_our_masks(trainer, album, tmp_path):
    convention = CONVENTIONS[trainer]
    exported = export_folder(
        read_selection(album / "masks", album / "photos"), convention, tmp_path / 'a "new" folder'
    )
    assert exported.config.read_text(encoding="utf-8") == exported.snippet
    found = READERS[trainer](tmp_path / 'a "new" folder')
    photos, masks = photos_in(album / "photos"), masks_in(album / "masks")
    assert found.keys() == photos.keys()
    for stem, (photo, levels, caption) in found.items():
        np.testing.assert_array_equal(levels, masks[stem] * np.uint8(255), err_msg=stem)
        np.testing.assert_array_equal(photo, photos[stem], err_msg=stem)
        assert caption == CAPTIONS.get(stem)


def test_every_trainer_has_reader():
    assert READERS.keys() == CONVENTIONS.keys() - {"cutout"}


def test_cut_out_keeps_nothing_of_background(album, tmp_path):
    export_folder(read_selection(album / "masks", album / "photos"), CONVENTIONS["cutout"], tmp_path / "out")
    photos, masks = photos_in(album / "photos"), masks_in(album / "masks")
    for path in (tmp_path / "out" / "images").glob("*.png"):
        levels = stored(path, "RGBA")
        np.testing.assert_array_equal(levels[..., 3], masks[path.stem] * np.uint8(255))
        assert not levels[~masks[path.stem]].any()
        np.testing.assert_array_equal(levels[masks[path.stem]][:, :3], photos[path.stem][masks[path.stem]])


@pytest.mark.parametrize("trainer", ["imagefolder", "coco"])
def test_snippet_that_is_program_runs(trainer, album, tmp_path):
    exported = export_folder(read_selection(album / "masks", album / "photos"), CONVENTIONS[trainer], tmp_path / "out")
    environment = os.environ | {"HF_HOME": str(tmp_path / "cache")}
    subprocess.run([sys.executable, exported.config], check=True, capture_output=True, env=environment)
