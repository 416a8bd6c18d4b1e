"""Flags that a family does not support are refused in one line, before weights are loaded or files written."""

from pathlib import Path

import pytest

from random_models import PIPELINES
from tests.training.runs import train

UNETS = {"stable-diffusion", "sdxl"}
FLOW = set(PIPELINES) - UNETS
# Flags that only some families support, and those families.
KNOWN = {
    "--snr_gamma=5": UNETS,
    "--attention_loss_weight=0.1 --identifier=sks": set(PIPELINES) - {"krea2", "lumina2"},
    "--offset_noise": UNETS,
    "--do_edm_style_training": {"sdxl"},
    "--lora_blocks=0 --use_lora": {"sd3"},
    "--validation_scheduler=DDPMScheduler": UNETS,
    "--class_labels_conditioning=timesteps": {"stable-diffusion"},
    "--tokenizer_max_length=20": {"stable-diffusion"},
    "--tokenizer_name=other": {"stable-diffusion"},
    "--text_encoder_use_attention_mask": {"stable-diffusion"},
    "--max_token_length=150": UNETS,
    "--max_sequence_length=64": FLOW,
    "--weighting_scheme=cosmap": FLOW,
    "--logit_mean=1": FLOW,
    "--logit_std=2": FLOW,
    "--mode_scale=1": FLOW,
    "--precondition_outputs=0": {"sd3"},
    "--guidance_scale=1": {"flux", "flux2"},
    "--output_kohya_format --use_lora --adapter_type=loha": UNETS,
    "--train_text_encoder": {"stable-diffusion", "flux"},
    "--train_text_encoder --use_lora": {"stable-diffusion", "sdxl", "sd3", "flux"},
}
REFUSED = [(flag, name) for flag, names in KNOWN.items() for name in PIPELINES if name not in names]


def configs_only(pipelines, name, folder):
    """Copy only the configs of a pipeline, so that loading weights fails."""
    for path in (pipelines / name).rglob("*"):
        if path.suffix != ".safetensors" and path.is_file():
            copy = folder / path.relative_to(pipelines / name)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    return folder


def refusal(capsys):
    lines = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(lines) == 1 and not Path("output").exists()
    return lines[0]


@pytest.mark.parametrize(("flag", "name"), REFUSED)
def test_unsupported_flag_is_refused_before_loading(flags, pipelines, capsys, flag, name):
    base = configs_only(pipelines, name, Path("headless"))
    assert train(flags, *flag.split(), pretrained_model_name_or_path=base) == 2
    line = refusal(capsys)
    assert flag.split()[0].split("=")[0] in line and "Pipeline" in line and "drop" in line


@pytest.mark.parametrize("name", sorted(FLOW))
def test_too_long_prompts_are_refused(flags, pipelines, capsys, name):
    longest = 1024 if name == "qwen-image" else 512
    length = f"--max_sequence_length={longest + 1}"
    assert train(flags, length, pretrained_model_name_or_path=pipelines / name) == 2
    assert f"--max_sequence_length {longest + 1} must be at most {longest}" in refusal(capsys)


@pytest.mark.parametrize("name", sorted(FLOW))
def test_side_not_divisible_into_patches_is_refused(flags, pipelines, capsys, name):
    base = configs_only(pipelines, name, Path("headless"))
    unit = 16 if name == "lumina2" else 4
    wrong = {"resolution": 32 + unit // 2, "pretrained_model_name_or_path": base}
    assert train(flags, **wrong) == 2
    assert f"is not a multiple of {unit}" in refusal(capsys)


def test_part_with_missing_weights_is_refused_by_name(flags, pipelines, capsys):
    base = configs_only(pipelines, "flux", Path("headless"))
    assert train(flags, pretrained_model_name_or_path=base) == 2
    assert "the text_encoder of headless cannot be loaded" in refusal(capsys)
