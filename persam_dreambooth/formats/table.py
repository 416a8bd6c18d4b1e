"""The table of trainers: where each expects its masks, and the configuration that points to them.

All of them train where the mask is white or opaque. To add a trainer, add an entry.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from string import Template

from persam_dreambooth.formats.indexes import Coco, JsonLines
from persam_dreambooth.formats.layouts import Alpha, Folders, Layout


@dataclass(frozen=True)
class Convention:
    """The way in which one trainer expects masks.

    Attributes:
        title: name for messages.
        layout: how photos and masks are arranged, for writing and reading.
        config: name of the file that the snippet is saved as; empty if nothing needs to be configured.
        snippet: configuration for the trainer; `$folder`, `$photos`, `$masks`, `$index`, `$config` stand for
            quoted absolute paths (JSON strings, which TOML, YAML and Python read alike).
        beside: whether masks may be written beside untouched photos.
    """

    title: str
    layout: Layout
    config: str = ""
    snippet: str = ""
    beside: bool = False

    def configured(self, folder: Path) -> str:
        """Return the snippet for a folder in which photos and masks follow the layout."""
        return self._filled(folder, folder / self.layout.photos, folder / (self.layout.masks or ""))

    def configured_beside(self, photos: Path) -> str:
        """Return the snippet for masks beside their photos."""
        return self._filled(photos, photos, photos)

    def _filled(self, folder: Path, photos: Path, masks: Path) -> str:
        index = folder / getattr(self.layout, "name", "")
        paths = {"folder": folder, "photos": photos, "masks": masks, "index": index, "config": folder / self.config}
        return Template(self.snippet).substitute({word: quoted(str(path)) for word, path in paths.items()})


def quoted(text: str) -> str:
    """Quote a string for JSON, TOML, YAML and Python alike: no surrogate pairs (TOML), no raw control codes (YAML)."""
    return re.sub(
        r"[\x7f-\x9f\u2028\u2029\ufeff]", lambda found: f"\\u{ord(found[0]):04x}", json.dumps(text, ensure_ascii=False)
    )


ONETRAINER = """\
{
  "masked_training": true,
  "unmasked_probability": 0.0,
  "unmasked_weight": 0.0,
  "concepts": [
    {"name": "subject", "path": $photos, "include_subdirectories": false, "text": {"prompt_source": "sample"}}
  ]
}
"""
KOHYA = """\
# train_network.py, sdxl_train_network.py, flux_train_network.py ... --masked_loss --dataset_config $config
[general]
enable_bucket = true
caption_extension = ".txt"

[[datasets]]
resolution = 512
batch_size = 1

[[datasets.subsets]]
image_dir = $photos
conditioning_data_dir = $masks
num_repeats = 1
"""
KOHYA_ALPHA = """\
# train_network.py, sdxl_train_network.py, flux_train_network.py ... --dataset_config $config
[general]
enable_bucket = true
caption_extension = ".txt"

[[datasets]]
resolution = 512
batch_size = 1

[[datasets.subsets]]
image_dir = $photos
alpha_mask = true
class_tokens = "sks subject"  # for photos without a caption
num_repeats = 1
"""
SIMPLETUNER = """\
[
  {
    "id": "subject",
    "type": "local",
    "dataset_type": "image",
    "conditioning_data": "subject-masks",
    "instance_data_dir": $photos,
    "cache_dir_vae": "cache/vae/subject",
    "caption_strategy": "textfile",
    "metadata_backend": "discovery",
    "resolution": 1024,
    "resolution_type": "pixel_area",
    "crop": true,
    "crop_aspect": "square",
    "crop_style": "center"
  },
  {
    "id": "subject-masks",
    "type": "local",
    "dataset_type": "conditioning",
    "conditioning_type": "mask",
    "instance_data_dir": $masks,
    "resolution": 1024,
    "resolution_type": "pixel_area",
    "crop": true,
    "crop_aspect": "square",
    "crop_style": "center"
  },
  {
    "id": "text-embeds",
    "type": "local",
    "dataset_type": "text_embeds",
    "default": true,
    "cache_dir": "cache/text/subject"
  }
]
"""
AI_TOOLKIT = """\
# among `config: process: - type: sd_trainer` of a configuration such as config/examples/train_lora_flux_24gb.yaml
datasets:
  - folder_path: $photos
    mask_path: $masks
    mask_min_value: 0.0  # what the background weighs
    caption_ext: "txt"
    resolution: [512, 768, 1024]
"""
DIFFUSION_PIPE = """\
# the file that `dataset = ` of the training configuration names
resolutions = [512]
enable_ar_bucket = true
min_ar = 0.5
max_ar = 2.0
num_ar_buckets = 7

[[directory]]
path = $photos
mask_path = $masks
num_repeats = 1
"""
INVOKE = """\
# among a configuration such as sample_configs/sdxl_lora_masks_gnome_1x24gb.yaml
data_loader:
  type: IMAGE_CAPTION_SD_DATA_LOADER
  dataset:
    type: IMAGE_CAPTION_JSONL_DATASET
    jsonl_path: $index
  resolution: 1024
use_masks: true
"""
IMAGEFOLDER = """\
from datasets import load_dataset

data = load_dataset("imagefolder", data_dir=$folder, split="train")  # columns: image, mask, text
"""
COCO = """\
from pycocotools.coco import COCO

coco = COCO($index)  # file_name is relative to the folder images
mask = coco.annToMask(coco.anns[1])  # (height, width), 1 where the subject is
"""

CONVENTIONS = {
    "onetrainer": Convention(
        "OneTrainer",
        Folders("images", "images", "-masklabel", ("-masklabel", "-condlabel"), channel="grey", turns=True),
        "onetrainer.json",
        ONETRAINER,
        beside=True,
    ),
    "kohya": Convention("kohya's sd-scripts, a folder of masks", Folders(), "kohya.toml", KOHYA),
    "kohya-alpha": Convention("kohya's sd-scripts, the alpha channel", Alpha(), "kohya.toml", KOHYA_ALPHA),
    "simpletuner": Convention(
        "SimpleTuner", Folders(whole_name=True, turns=True), "multidatabackend.json", SIMPLETUNER
    ),
    "ai-toolkit": Convention("ai-toolkit", Folders(channel="grey", turns=True), "ai-toolkit.yaml", AI_TOOLKIT),
    "diffusion-pipe": Convention("diffusion-pipe", Folders(), "dataset.toml", DIFFUSION_PIPE),
    "invoke": Convention("invoke-training", JsonLines("data.jsonl", "image", "mask"), "invoke.yaml", INVOKE),
    "imagefolder": Convention(
        "Hugging Face datasets",
        # In a folder `train`, since the library would make other splits of photos named test.jpg or val-1.jpg.
        JsonLines("train/metadata.jsonl", "file_name", "mask_file_name", turns=True),
        "load.py",
        IMAGEFOLDER,
    ),
    "coco": Convention("COCO run-length masks", Coco(), "load.py", COCO),
    "cutout": Convention("cut-outs: the subject on transparency", Alpha(background=False)),
}
