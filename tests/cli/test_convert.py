"""`convert` as a command: the file that it writes and the line about it."""

import shutil

import pytest
from safetensors import safe_open

from persam_dreambooth.cli.convert import run
from persam_dreambooth.model_folder import KOHYA_NAME, LORA_NAME
from tests.test_generation import save_lora


@pytest.fixture(scope="module")
def lora(models, tmp_path_factory):
    """A folder of LoRA weights; not to be modified."""
    folder = tmp_path_factory.mktemp("lora")
    save_lora(models / "stable-diffusion", folder)
    return folder


def keys_of(path):
    with safe_open(path, framework="pt") as file:
        return set(file.keys())


def test_file_is_beside_the_weights_or_where_it_was_asked_for(lora, tmp_path, capsys):
    shutil.copy(lora / LORA_NAME, tmp_path)
    run("convert", ["--model", str(tmp_path)])
    assert capsys.readouterr().out == (
        f"for A1111 and Forge (models/Lora) and ComfyUI (models/loras): {tmp_path / KOHYA_NAME}\n"
    )
    run("convert", ["--model", str(tmp_path / LORA_NAME), "--output", str(tmp_path / "dog.safetensors")])
    assert capsys.readouterr().out.endswith(f" {tmp_path / 'dog.safetensors'}\n")
    assert keys_of(tmp_path / "dog.safetensors") == keys_of(tmp_path / KOHYA_NAME)
    assert all(key.startswith("lora_unet_") for key in keys_of(tmp_path / KOHYA_NAME))


def test_missing_weights_are_one_line(error_of, tmp_path):
    assert "--model is missing; give the --output_dir of a finished LoRA training" in error_of("convert")
    assert str(tmp_path) in error_of("convert", "--model", tmp_path)
    assert not list(tmp_path.iterdir())
