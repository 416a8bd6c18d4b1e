"""LoRA weights in kohya's format: diffusers reads exactly what training saved."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from persam_dreambooth.cli import main
from persam_dreambooth.errors import UserError
from persam_dreambooth.training.output.kohya import convert_file, to_kohya
from random_models import random_sdxl
from tests.training.runs import train
from tests.training.small import make

DIFFUSERS, KOHYA = "pytorch_lora_weights.safetensors", "pytorch_lora_weights_kohya.safetensors"
SETTINGS = {
    "rank": {"rank": 4},
    "alpha": {"rank": 4, "lora_alpha": 16},
    "text": {"rank": 4, "lora_alpha": 3, "train_text_encoder": True},
}


@pytest.fixture
def saved(models, tmp_path, request):
    """A folder with LoRA weights in which no tensor is zero."""
    _, family = make(models / "stable-diffusion", {"use_lora": True} | SETTINGS[request.param])
    disturb(family.trained().values())
    family.save(tmp_path)
    return tmp_path


def disturb(parts):
    torch.manual_seed(0)
    for part in parts:
        for name, weight in part.named_parameters():
            if "lora" in name:
                weight.data += 0.05 * torch.randn_like(weight)


def metadata(path):
    with safe_open(path, framework="pt") as file:
        return file.metadata()


@torch.no_grad()
def predict(pipeline, path=None):
    """Return the UNet's prediction for a prompt, with the LoRA weights of a file."""
    if path is not None:
        pipeline.load_lora_weights(path.parent, weight_name=path.name)
    embeds, _, *pooled = pipeline.encode_prompt(
        "a sks dog", device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    # A pipeline with one text encoder returns two values, one with two returns four, the pooled ones last.
    added = {"text_embeds": pooled[0], "time_ids": torch.zeros(1, 6)} if pooled else None
    prediction = pipeline.unet(noise, 500, embeds, added_cond_kwargs=added).sample
    if path is not None:
        pipeline.unload_lora_weights()
    return prediction


def peft_weights(pipeline, path):
    """Return the adapters' tensors in the models after loading a file."""
    pipeline.load_lora_weights(path.parent, weight_name=path.name)
    parts = {name: getattr(pipeline, name, None) for name in ("unet", "text_encoder", "text_encoder_2")}
    weights = {
        f"{part}.{name}": weight.clone()
        for part, module in parts.items()
        if module is not None
        for name, weight in module.named_parameters()
        if "lora" in name
    }
    pipeline.unload_lora_weights()
    return weights


def assert_same_adapters(pipeline, path, other_path):
    first, second = peft_weights(pipeline, path), peft_weights(pipeline, other_path)
    assert first and first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(predict(pipeline, path), predict(pipeline, other_path))
    assert (predict(pipeline, path) - predict(pipeline)).abs().max() > 1e-2  # zero adapters would prove nothing


@pytest.mark.parametrize("saved", SETTINGS, indirect=True)
def test_diffusers_reads_same_weights(models, saved):
    convert_file(saved / DIFFUSERS, saved / KOHYA, "dog", {})
    pipeline = StableDiffusionPipeline.from_pretrained(models / "stable-diffusion")
    assert_same_adapters(pipeline, saved / DIFFUSERS, saved / KOHYA)


@pytest.mark.parametrize("saved", ["text"], indirect=True)
def test_names_are_known_to_a1111_and_comfyui(saved):
    names = to_kohya(load_file(saved / DIFFUSERS), {"unet.lora_alpha": 3, "text_encoder.lora_alpha": 5})
    unet = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_out_0"
    text = "lora_te_text_model_encoder_layers_1_self_attn_q_proj"
    for module in (unet, text):
        assert {f"{module}.{kind}" for kind in ("lora_down.weight", "lora_up.weight", "alpha")} <= set(names)
    assert (names[f"{unet}.alpha"], names[f"{text}.alpha"]) == (3, 5)
    assert {len(name.split(".")) for name in names} == {2, 3} and not any("lora_te1" in name for name in names)


def test_both_text_encoders_of_sdxl_are_converted(tmp_path):
    random_sdxl().save_pretrained(tmp_path / "base")
    _, family = make(tmp_path / "base", {"use_lora": True, "train_text_encoder": True, "rank": 4, "lora_alpha": 8})
    disturb(family.trained().values())
    family.save(tmp_path)
    convert_file(tmp_path / DIFFUSERS, tmp_path / KOHYA, "dog", {})
    names = load_file(tmp_path / KOHYA)
    assert {"_".join(name.split("_")[:2]) for name in names} == {"lora_unet", "lora_te1", "lora_te2"}
    assert "lora_te2_text_model_encoder_layers_1_self_attn_out_proj.alpha" in names
    assert_same_adapters(random_sdxl(), tmp_path / DIFFUSERS, tmp_path / KOHYA)


@pytest.mark.parametrize(
    ("channels", "version", "architecture"),
    [
        (768, "sd_v1", "stable-diffusion-v1/lora"),
        (1024, "sd_v2", None),
        (2048, "sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora"),
        (32, None, None),
    ],
)
def test_metadata_has_only_known_facts(tmp_path, channels, version, architecture):
    block = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.lora"
    weights = {f"{block}.down.weight": torch.zeros(4, channels), f"{block}.up.weight": torch.zeros(8, 4)}
    save_file(weights, tmp_path / DIFFUSERS, {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 2})})
    settings = {"pretrained_model_name_or_path": "/home/me/base", "resolution": 512, "instance_prompt": "a sks dog"}
    convert_file(tmp_path / DIFFUSERS, tmp_path / KOHYA, "dog", settings)
    written = metadata(tmp_path / KOHYA)
    assert (written["ss_network_dim"], written["ss_network_alpha"]) == ("4", "2.0")
    assert (written.get("ss_base_model_version"), written.get("modelspec.architecture")) == (version, architecture)
    assert written.get("ss_v2") == (version and str(version == "sd_v2"))  # how A1111 distinguishes 2.x from 1.x
    assert written["modelspec.trigger_phrase"] == "a sks dog" and written["ss_resolution"] == "(512, 512)"
    assert not any("/home" in value or value == "None" for value in written.values())


@pytest.mark.parametrize(
    ("name", "settings", "reason"),
    [
        ("prior.blocks.0.attn.to_q.lora_A.weight", {}, "LoRA weights of a prior cannot be converted"),
        ("unet.mid_block.to_q.lora.down.weight", {}, "mid_block.to_q are not a pair"),
        ("unet.mid_block.to_q.lora_magnitude_vector.weight", {}, "the unet's weights are DoRA's"),
        ("unet.mid_block.to_q.lora_B.bias", {}, "unet has mid_block.to_q.lora_B.bias"),
        ("unet.mid_block.to_q.lora.down.weight", {"unet.alpha_pattern": {"to_q": 2}}, "unet has alpha_pattern"),
        (
            "unet.mid_block.to_q.lora.down.weight",
            {"unet.lora_alpha": "4"},
            "metadata is '4', not a usable number",
        ),
        ("lora_unet_mid_block_to_q.lora_down.weight", {}, "cannot be converted"),
        ("conv.weight", {}, "no LoRA weights in diffusers' format"),
    ],
)
def test_ambiguous_weights_are_refused(name, settings, reason):
    with pytest.raises(UserError, match=reason):
        to_kohya({name: torch.zeros(4, 4)}, settings)


def test_convert_equals_training_output(flags, models, capsys):
    assert train(flags, "--use_lora", "--train_text_encoder", "--output_kohya_format", lora_alpha=8) == 0
    both = load_file(Path("output") / KOHYA)
    assert metadata(f"output/{KOHYA}")["ss_output_name"] == "output"
    pipeline = StableDiffusionPipeline.from_pretrained(models / "stable-diffusion")
    pipeline.load_lora_weights("output")  # without a file name diffusers still finds its own file
    assert pipeline.unet.peft_config["default_0"].lora_alpha == 8
    assert main(["convert", "--model", "output", "--output", "loras/dog.safetensors"]) == 0
    assert "loras/dog.safetensors" in capsys.readouterr().out
    converted = load_file("loras/dog.safetensors")
    assert converted.keys() == both.keys() and all(torch.equal(converted[key], both[key]) for key in both)
    assert metadata("loras/dog.safetensors") | {"modelspec.date": ""} == metadata(f"output/{KOHYA}") | dict.fromkeys(
        ("ss_output_name", "modelspec.title"), "dog"
    ) | {"modelspec.date": ""}


def test_conversion_is_refused_before_first_step(flags, capsys):
    assert train(flags, "--output_kohya_format") == 2
    assert train(flags, "--output_kohya_format", "--use_lora", "--use_dora") == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    reasons = ("--output_kohya_format is for LoRA", "--use_dora exclude each other")
    assert all(reason in line for reason, line in zip(reasons, errors, strict=True))
    assert not Path("output").exists()


@pytest.mark.parametrize("saved", ["rank"], indirect=True)
def test_convert_refuses_invalid_input(saved, monkeypatch, capsys):
    monkeypatch.chdir(saved)
    Path("broken.safetensors").write_bytes(b"no weights")
    shutil.copy(DIFFUSERS, "there.safetensors")
    Path("empty").mkdir()
    Path("checkpoint-2").mkdir()
    shutil.copy(DIFFUSERS, f"checkpoint-2/{DIFFUSERS}")
    Path("checkpoint-2/progress.json").write_text("{}")
    for words, reason in {
        (): "--model is missing",
        ("--model", "empty"): f"empty holds no {DIFFUSERS}",
        ("--model", "checkpoint-2"): "checkpoint-2 is a checkpoint, which would not load",
        ("--model", "broken.safetensors"): "not a readable safetensors file",
        ("--model", DIFFUSERS, "--output", "there.safetensors"): "already exists",
        ("--model", DIFFUSERS, "--output", "lora.ckpt"): "must end in .safetensors",
    }.items():
        assert main(["convert", *words]) == 2
        assert reason in capsys.readouterr().err
    assert sorted(path.name for path in saved.iterdir()) == sorted(
        ["broken.safetensors", "checkpoint-2", "empty", DIFFUSERS, "there.safetensors"]
    )
    assert len(list(Path("checkpoint-2").iterdir())) == 2


def small_lora(dtype=torch.float32, value=0.0):
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_q.lora"
    return {f"{layer}.{end}.weight": torch.full((4, 4), value, dtype=dtype) for end in ("down", "up")}


@pytest.fixture
def conversion_error(tmp_path, monkeypatch, capsys):
    """Convert a file of the given weights and metadata; return the one-line error, with nothing else written."""
    monkeypatch.chdir(tmp_path)

    def convert(weights, name="in", **metadata):
        Path(name).mkdir()
        save_file(weights, f"{name}/{DIFFUSERS}", metadata or None)
        before = {path: path.stat().st_size for path in Path().rglob("*")}
        assert main(["convert", "--model", name, "--output", "out/dog.safetensors"]) == 2
        assert {path: path.stat().st_size for path in Path().rglob("*") if path.name != "out"} == before
        printed = capsys.readouterr()
        assert printed.out == "" and printed.err.count("\n") == 1
        return printed.err

    return convert


@pytest.mark.parametrize("alpha", ["NaN", "1e999", "9" * 400, "9" * 6000, "[]", '"4"', "[" * 100_000])
def test_non_numeric_alpha_is_refused(alpha, conversion_error):
    assert DIFFUSERS in (
        message := conversion_error(small_lora(), lora_adapter_metadata=f'{{"unet.lora_alpha": {alpha}}}')
    ) or ("not a usable number" in message)


@pytest.mark.parametrize(("dtype", "value"), [(torch.float32, float("nan")), (torch.int64, 1), (torch.bool, 1)])
def test_non_finite_weights_are_refused(dtype, value, conversion_error):
    assert "not finite" in conversion_error(small_lora(dtype, value))


def test_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, file_limit, capsys):
    monkeypatch.chdir(tmp_path)
    save_file({key: torch.zeros(300, 300) for key in small_lora()}, DIFFUSERS)
    file_limit(100_000)
    assert main(["convert", "--model", ".", "--output", "out/dog.safetensors"]) == 2
    message = capsys.readouterr().err
    assert "out/dog.safetensors cannot be written" in message and message.count("\n") == 1
    assert not list(Path("out").iterdir())


def test_non_text_config_or_name_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_file(small_lora(), DIFFUSERS)
    config = Path("training_config.yaml")
    config.write_text('instance_prompt: "\\ud800"\nresolution: [1]\nlearning_rate: {a: b}\n')
    assert main(["convert", "--model", ".", "--output", "a.safetensors"]) == 0
    Path("b.safetensors").symlink_to("b.safetensors")
    for output, message in (
        ("c\udcff", "not UTF-8"),
        ("b", "already exists"),
        ("d", "training_config.yaml is damaged"),
    ):
        if output == "d":
            config.write_text("a: " + "[" * 100_000)
        assert main(["convert", "--model", ".", "--output", f"{output}.safetensors"]) == 2
        assert message in capsys.readouterr().err
    assert not list(tmp_path.glob(".*"))
