"""Optimizers other than AdamW, and the EMA of weights."""

import sys
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from torch import nn

from persam_dreambooth.cli import main
from persam_dreambooth.flag_values import setting
from persam_dreambooth.training.config import OptimizationConfig, TrainingConfig
from persam_dreambooth.training.runtime.optimizer import build_optimizer
from persam_dreambooth.training.runtime.resuming import choose_start
from tests.parity.diffusers_cases import logged_losses
from tests.training.runs import same_weights, train

LORA = "pytorch_lora_weights.safetensors"


def test_prodigy_is_package_implementation(flags, caplog):
    """Its rate is 1 and it estimates its own scale: the first steps are as small as its d0."""
    prodigy = pytest.importorskip("prodigyopt").Prodigy
    flags |= {"optimizer": "Prodigy", "learning_rate": None, "prodigy_beta3": 0.9, "prodigy_decouple": "False"}
    args = ("--optimizer_args", "betas=0.8,0.9", "d_coef=2", "weight_decay=0.1")
    assert train(flags, "--use_lora", *args, checkpointing_steps=2, max_train_steps=2) == 0
    assert "about 1 is usual" not in caplog.text
    (group,) = torch.load("output/checkpoint-2/optimizer.bin", weights_only=True)["param_groups"]
    assert set(group) >= set(prodigy([torch.nn.Parameter(torch.zeros(1))]).param_groups[0]) - {"params"}
    assert group["lr"] == 1.0 and group["beta3"] == 0.9 and group["decouple"] is False and group["k"] == 2
    assert group["use_bias_correction"] is True and group["safeguard_warmup"] is True
    assert group["betas"] == (0.8, 0.9) and group["d_coef"] == 2.0 and group["weight_decay"] == 0.1
    assert train(flags, "--use_lora", *args, output_dir="whole", max_train_steps=4) == 0
    assert train(flags, "--use_lora", *args, resume_from_checkpoint="latest", max_train_steps=4) == 0
    assert same_weights(f"whole/{LORA}", f"output/{LORA}")
    assert train(flags, "--use_lora", output_dir="slow", learning_rate=1e-4, max_train_steps=1) == 0
    assert "about 1 is usual" in caplog.text


def rewrite_as_earlier_release(path, decouple):
    settings = yaml.safe_load(path.read_text())
    del settings["optimizer_args"]
    settings["doubtful_photo_weight"] = settings.pop("uncertain_photo_weight")
    settings |= {"prodigy_beta3": None, "prodigy_decouple": decouple}
    settings |= {"prodigy_use_bias_correction": True, "prodigy_safeguard_warmup": True}
    path.write_text(yaml.safe_dump(settings))


def test_run_of_earlier_release_resumes(flags, capsys):
    pytest.importorskip("prodigyopt")
    flags |= {"optimizer": "prodigy", "learning_rate": 1, "checkpointing_steps": 1}
    saved = Path("output/training_config.yaml")
    assert train(flags, "--use_lora", "--no_prodigy_decouple", max_train_steps=1) == 0
    rewrite_as_earlier_release(saved, decouple=False)
    config = ["train", "--config", str(saved), "--resume_from_checkpoint", "latest"]
    assert main([*config, "--optimizer_args", "d0=1e-5", "--max_train_steps", "2"]) == 2
    assert (
        "the run had optimizer_args {'decouple': False}, not {'decouple': False, 'd0': 1e-05}"
        in capsys.readouterr().err
    )
    assert main([*config, "--max_train_steps", "2"]) == 0
    assert yaml.safe_load(saved.read_text())["optimizer_args"] == {"decouple": False}


@pytest.mark.parametrize("optimizer", ["adamw", "prodigy"])
def test_run_of_earlier_release_without_a_checkpoint_starts_again(optimizer, tmp_path):
    given = {"pretrained_model_name_or_path": "base", "instance_data_dir": "dog", "instance_mask_dir": "masks"}
    config = TrainingConfig(
        **given,
        instance_prompt="a sks dog",
        output_dir=tmp_path,
        optimizer=optimizer,
        optimizer_args={} if optimizer == "adamw" else {"decouple": False},
        resume_from_checkpoint="latest",
    )
    config.save(tmp_path)
    rewrite_as_earlier_release(tmp_path / "training_config.yaml", decouple=False)
    assert choose_start(config) is None


@pytest.mark.parametrize("written", [["betas=0.8,0.9", "weight_decay=0.5", "amsgrad=True"], []])
def test_optimizer_args_override_adam_flags(written):
    given = dict(setting(word) for word in written)
    config = OptimizationConfig(learning_rate=1e-3, adam_beta1=0.7, optimizer_args=given)
    (group,) = build_optimizer([torch.nn.Parameter(torch.zeros(1))], config, 1).param_groups
    assert group["betas"] == ((0.8, 0.9) if written else (0.7, 0.999))
    assert group["weight_decay"] == (0.5 if written else 1e-2) and group["amsgrad"] is bool(written)


def test_set_to_none_equals_zeroed_gradients(flags):
    flags |= {"gradient_accumulation_steps": 2, "max_train_steps": 2}
    assert train(flags, output_dir="freed") == 0
    assert train(flags, "--no_set_grads_to_none", output_dir="zeroed") == 0
    name = "unet/diffusion_pytorch_model.safetensors"
    assert same_weights(f"freed/{name}", f"zeroed/{name}")


def test_deprecated_name_of_8_bit_adam(flags):
    pytest.importorskip("bitsandbytes")
    flags |= {"checkpointing_steps": 2}
    assert train(flags, "--use_8bit_adam", output_dir="old") == 0
    assert train(flags, optimizer="adamw8bit", output_dir="new") == 0
    assert train(flags, output_dir="adamw") == 0
    old, new, adamw = (logged_losses(Path(name)) for name in ("old", "new", "adamw"))
    assert old == new == pytest.approx(adamw, rel=0.05) and old != adamw


def test_paged_8_bit_adam(flags):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    config = OptimizationConfig(optimizer="paged_adamw8bit", optimizer_args={"min_8bit_size": 16})
    chosen = build_optimizer([torch.nn.Parameter(torch.zeros(8, 8))], config, 1)
    assert isinstance(chosen, bitsandbytes.optim.PagedAdamW8bit) and chosen.is_paged
    assert chosen.args.min_8bit_size == 16


def test_missing_bitsandbytes_is_named(flags, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    assert train(flags, optimizer="paged_adamw8bit") == 2
    assert "--optimizer paged_adamw8bit needs `pip install bitsandbytes`" in capsys.readouterr().err


@pytest.mark.parametrize("switches", [("--use_lora", "--train_text_encoder"), ("--mixed_precision=bf16",)])
def test_ema_follows_its_recursion(flags, switches):
    """Recompute the EMA from the checkpoint of every step."""
    flags |= {"checkpointing_steps": 1, "max_train_steps": 5, "ema_decay": 0.3}
    assert train(flags, *switches, "--use_ema") == 0
    AcceleratorState._reset_state(reset_partial_state=True)
    assert train(flags, *switches, output_dir="plain") == 0
    name = LORA if "--use_lora" in switches else "unet/diffusion_pytorch_model.safetensors"
    steps = [load_file(f"output/checkpoint-{step}/{name}") for step in range(1, 6)]
    plain = load_file(f"plain/{name}")
    assert all(torch.equal(steps[-1][key], plain[key]) for key in plain)  # the trained weights are not the average
    average = {key: value.double() for key, value in steps[0].items()}
    for step, weights in enumerate(steps[1:], 2):
        decay = min(step / (9 + step), 0.3)
        average = {key: decay * average[key] + (1 - decay) * weights[key] for key in average}
    result = load_file(f"output/{name}")
    for key, value in result.items():
        torch.testing.assert_close(value.double(), average[key], rtol=0, atol=1e-6)
    assert any((result[key] - steps[-1][key]).abs().max() > 1e-4 for key in result)


def test_resumed_ema_equals_uninterrupted(flags, capsys):
    flags |= {"checkpointing_steps": 2, "validation_prompt": "a sks dog", "num_validation_images": 1}
    flags |= {"validation_steps": 3, "max_train_steps": 4}
    assert train(flags, "--use_lora", "--use_ema", output_dir="whole") == 0
    assert train(flags, "--use_lora", "--use_ema", max_train_steps=2) == 0
    assert train(flags, "--use_lora", resume_from_checkpoint="latest") == 2
    assert "the run had use_ema True, not False" in capsys.readouterr().err
    assert train(flags, "--use_lora", "--use_ema", resume_from_checkpoint="latest") == 0
    assert same_weights(f"whole/{LORA}", f"output/{LORA}")
    assert same_weights("whole/checkpoint-4/ema.safetensors", "output/checkpoint-4/ema.safetensors")
    name = "validation/step-000004-0.png"
    assert Path("whole", name).read_bytes() == Path("output", name).read_bytes()
    assert train(flags, "--use_lora", output_dir="plain") == 0
    assert Path("plain", name).read_bytes() != Path("output", name).read_bytes()  # generated with different weights


def test_compiled_blocks_equal_eager_ones(flags, monkeypatch):
    """Losses, resuming and files, with a backend that counts; the real one would take minutes."""
    compiled, compile_module = [], nn.Module.compile

    def backend(graph, _):
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr(nn.Module, "compile", lambda block: compile_module(block, backend=backend))
    flags |= {"class_prompt": "a dog", "background_prior_weight": 1.0, "checkpointing_steps": 1, "max_train_steps": 2}
    pictures = {"validation_prompt": "a sks dog", "num_validation_images": 1}
    switches = ("--use_lora", "--gradient_checkpointing")
    assert train(flags, *switches) == 0 and not compiled
    on = (*switches, "--torch_compile")
    assert train(flags | pictures, *on, output_dir="compiled", max_train_steps=1) == 0
    # A graph for the forward pass of each size of block, one more each without adapters; none for the pictures.
    assert 0 < len(compiled) <= 4
    assert train(flags, *on, output_dir="compiled", resume_from_checkpoint="latest") == 0
    assert logged_losses(Path("compiled")) == pytest.approx(logged_losses(Path("output")), rel=1e-5)
    eager = load_file(f"output/{LORA}")
    for result in (f"compiled/{LORA}", f"compiled/checkpoint-2/{LORA}"):
        weights = load_file(result)
        assert set(eager) == set(weights)  # no _orig_mod
        for key, value in eager.items():
            torch.testing.assert_close(weights[key], value, rtol=0, atol=1e-5)


def test_whole_model_compiled_by_accelerate_equals_eager_run(flags, monkeypatch):
    """With torch.compile's fastest backend."""
    flags |= {"max_train_steps": 2, "checkpointing_steps": 1, "train_batch_size": 3}
    assert train(flags, "--use_lora") == 0
    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "EAGER")
    assert train(flags, "--use_lora", output_dir="compiled") == 0
    assert logged_losses(Path("compiled")) == pytest.approx(logged_losses(Path("output")), rel=1e-5)
    eager, compiled = load_file(f"output/{LORA}"), load_file(f"compiled/checkpoint-2/{LORA}")
    assert set(eager) == set(compiled)  # no _orig_mod
    for key, value in eager.items():
        torch.testing.assert_close(compiled[key], value, rtol=0, atol=1e-5)
