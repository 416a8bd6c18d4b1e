"""Every recipe in `configs/` starts with the command that runs it, and works at small size."""

import shlex
from pathlib import Path

import pytest
import yaml

from persam_dreambooth.cli import main
from toy_photos import draw, save_photos

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
SMALL = {
    "--resolution": 32,
    "--max_train_steps": 1,
    "--num_class_images": 1,
    "--mask_downsample": "max",
    "--seed": 0,
    "--use_8bit_adam": False,  # bitsandbytes is not installed in the tests
}
# The models that the recipes train -> their small replacements.
STAND_INS = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "stable-diffusion",
    "stabilityai/stable-diffusion-2-1": "stable-diffusion",
    "stabilityai/stable-diffusion-xl-base-1.0": "sdxl",
    "stabilityai/stable-diffusion-3.5-medium": "sd3",
    "black-forest-labs/FLUX.1-dev": "flux",
    "Qwen/Qwen-Image": "qwen-image",
    "black-forest-labs/FLUX.2-klein-4B": "flux2-klein",
    "black-forest-labs/FLUX.2-dev": "flux2",
    "Tongyi-MAI/Z-Image": "z-image",
    "krea/Krea-2-Raw": "krea2",
}


def test_recipes_are_found():
    small = {f"{family}_lora{memory}" for family in ("sdxl", "sd35", "flux") for memory in ("", "_low_memory")}
    newer = {f"{family}_lora" for family in ("qwen_image", "flux2_klein", "flux2", "z_image", "krea2")}
    assert {"sd15_full", "sd15_lora", "sd15_paper"} | small | newer <= {path.stem for path in CONFIGS}


def test_paper_recipe_trains_on_subject_only():
    paper = yaml.safe_load((ROOT / "configs/sd15_paper.yaml").read_text())
    assert paper["background_weight"] == paper["background_prior_weight"] == 0 and "masked_loss" not in paper
    assert paper["mask_normalization"] == "none" and paper["with_prior_preservation"]


@pytest.mark.parametrize("path", [path for path in CONFIGS if "low_memory" in path.stem], ids=lambda path: path.stem)
def test_low_memory_recipe_differs_only_in_memory_options(path):
    low = yaml.safe_load(path.read_text())
    plain = yaml.safe_load(path.with_stem(path.stem.removesuffix("_low_memory")).read_text())
    saving = dict.fromkeys(("gradient_checkpointing", "use_8bit_adam", "pre_compute_text_embeddings"), True)
    assert low == plain | saving and low["mixed_precision"] == "bf16"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_recipe_runs_at_small_size(path, models, pipelines, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_photos(Path("dog"))
    Path("dog-masks").mkdir()
    for number in range(4):
        draw(number)[1].save(f"dog-masks/{number:02d}.png")
    draw(0)[1].save("dog-00.png")
    words = shlex.split(path.read_text().splitlines()[0].removeprefix("# "))
    assert words[:3] == ["accelerate", "launch", "train_dreambooth_persam.py"]
    assert words[words.index("--config") + 1] == f"configs/{path.name}"
    words[words.index("--config") + 1] = str(path)
    small = [str(word) for pair in SMALL.items() for word in pair]
    base = pipelines / STAND_INS[yaml.safe_load(path.read_text())["pretrained_model_name_or_path"]]
    local = ["--pretrained_model_name_or_path", str(base), "--sam", str(models / "sam")]
    assert main(["train", *words[3:], *local, *small]) == 0
    output = Path(words[words.index("--output_dir") + 1])
    lora = "use_lora: true" in path.read_text()
    assert (output / ("pytorch_lora_weights.safetensors" if lora else "model_index.json")).exists()
