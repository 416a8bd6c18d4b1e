"""Every recipe in `configs/` is the command in its first line, and runs at small size."""

import shlex
from pathlib import Path

import pytest

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
}


def test_there_are_recipes():
    assert {"sd15_full", "sd15_lora"} <= {path.stem for path in CONFIGS}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_recipe_runs_at_small_size(path, models, tmp_path, monkeypatch):
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
    local = ["--pretrained_model_name_or_path", str(models / "stable-diffusion"), "--sam", str(models / "sam")]
    assert main(["train", *words[3:], *local, *small]) == 0
    output = Path(words[words.index("--output_dir") + 1])
    lora = "use_lora: true" in path.read_text()
    assert (output / ("pytorch_lora_weights.safetensors" if lora else "model_index.json")).exists()
