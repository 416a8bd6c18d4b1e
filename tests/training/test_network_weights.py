"""`--network_weights`: runs that start from an existing LoRA, in every family, and refused inputs."""

from pathlib import Path

import pytest
import torch
from peft import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from persam_dreambooth.model_folder import LORA_NAME
from persam_dreambooth.training.families import load_family
from random_models import PIPELINES
from tests.training.runs import train
from tests.training.small import NAMED, batch_for, configure, make, noised_for, prediction_of, trained_parameters

LORA = {"use_lora": True, "rank": 2, "lora_alpha": 6}


def save_random_lora(base, folder, text):
    """Save a LoRA with random weights, as if trained."""
    _, family = make(base, LORA | {"train_text_encoder": text})
    with torch.no_grad():
        for weight in trained_parameters(family):
            weight.normal_(std=0.1)
    folder.mkdir()
    family.save(folder)
    return family


@pytest.mark.parametrize("name", PIPELINES)
def test_run_starts_from_lora(pipelines, tmp_path, name):
    base, text = pipelines / name, bool(NAMED[name].lora_encoders)
    before = save_random_lora(base, tmp_path / "lora", text)
    model = {"use_lora": True, "train_text_encoder": text, "network_weights": str(tmp_path / "lora")}
    config, after = make(base, model)
    assert (config.model.rank, config.model.lora_alpha) == (2, 6)
    for part, module in before.trained().items():
        saved, loaded = (get_peft_model_state_dict(model) for model in (module, after.trained()[part]))
        assert saved.keys() == loaded.keys() and all(torch.equal(saved[key], loaded[key]) for key in saved)
    batch = batch_for(after, class_images=False)
    noised = noised_for(after, config)
    for family in (before, after):
        for module in family.trained().values():
            module.eval()
    torch.testing.assert_close(prediction_of(before, noised, batch), prediction_of(after, noised, batch))
    plain = load_family(configure(base, LORA).model)
    assert not torch.allclose(prediction_of(plain, noised, batch), prediction_of(after, noised, batch))


def test_training_continues_from_lora(flags):
    assert train(flags, "--use_lora", rank=2, max_train_steps=2, output_dir="first") == 0
    rest = {"max_train_steps": 1, "network_weights": "first"}
    assert train(flags, "--use_lora", output_dir="still", learning_rate=0.0, **rest) == 0
    assert train(flags, "--use_lora", **rest) == 0
    first, still, moved = (load_file(Path(folder) / LORA_NAME) for folder in ("first", "still", "output"))
    assert all(torch.equal(first[key], still[key]) for key in first | still)
    assert first.keys() == moved.keys() and any(not torch.equal(first[key], moved[key]) for key in first)
    far = max(float((first[key] - moved[key]).abs().max()) for key in first)
    assert far < 2e-3  # one step of AdamW at 1e-3


def test_text_encoder_can_be_added_but_not_dropped(flags, capsys):
    assert train(flags, "--use_lora", rank=2, max_train_steps=1, output_dir="without") == 0
    text = ("--use_lora", "--train_text_encoder")
    assert train(flags, *text, max_train_steps=1, output_dir="with", network_weights=f"without/{LORA_NAME}") == 0
    assert train(flags, "--use_lora", max_train_steps=1, network_weights="with") == 2
    assert "which is not trained here; add --train_text_encoder" in capsys.readouterr().err


def write(path, **changed):
    save_file(changed or {"x": torch.zeros(1)}, path)


UP = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_k"
REFUSED = {
    "no file": (None, {"network_weights": "nowhere"}, "no such file"),
    "an empty folder": (lambda: Path("empty").mkdir(), {"network_weights": "empty"}, f"no {LORA_NAME} in it"),
    "damaged": (lambda: Path("a.safetensors").write_bytes(b"x" * 99), {}, "cannot be read"),
    "no LoRA": (lambda: write("a.safetensors"), {}, "no LoRA weights of diffusers'"),
    "kohya's": (
        lambda: write("a.safetensors", **{"lora_unet_mid_block.lora_down.weight": torch.zeros(4, 8)}),
        {},
        "kohya's format",
    ),
    "two ranks": (
        lambda: write("a.safetensors", **{f"unet.{n}.lora_A.weight": torch.zeros(n, 8) for n in (2, 4)}),
        {},
        "adapters of ranks 2, 4",
    ),
    "another rank": (
        lambda: write("a.safetensors", **{f"{UP}.lora_A.weight": torch.zeros(2, 8)}),
        {"rank": 8},
        "has rank 2; drop --rank",
    ),
    "another base": (
        lambda: write("a.safetensors", **{"transformer.x.lora_A.weight": torch.zeros(2, 8)}),
        {},
        "holds no weights of a unet",
    ),
    "other layers": (
        lambda: write("a.safetensors", **{"unet.conv_in.lora_A.weight": torch.zeros(2, 8)}),
        {},
        "does not fit this base model's unet",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_mismatched_lora_is_refused(flags, case, capsys):
    before, changed, words = REFUSED[case]
    if before:
        before()
    assert train(flags, "--use_lora", **{"network_weights": "a.safetensors"} | changed) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert words in line and not Path("output").exists()


def test_full_fine_tuning_refuses_lora(flags, capsys):
    assert train(flags, network_weights="nowhere") == 2
    assert "--network_weights is for LoRA; add --use_lora" in capsys.readouterr().err
