"""Generation: a picture depends only on prompt and seed, records its settings, and is never overwritten."""

import shutil

import numpy as np
import pytest
import torch
import yaml
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image

from persam_dreambooth import generation, model_folder
from persam_dreambooth.cli import main
from persam_dreambooth.errors import UserError

SMALL = {"num_inference_steps": 2, "height": 32, "width": 32}
SMALL_FLAGS = [text for name, value in SMALL.items() for text in (f"--{name}", str(value))]
DOG = "a sks dog"


@pytest.fixture(scope="module")
def base(models):
    """Path of the small Stable Diffusion."""
    return models / "stable-diffusion"


@pytest.fixture(scope="module")
def pipeline(base):
    return generation.load_pipeline(str(base), device="cpu")


@pytest.fixture(scope="module")
def lora(base, tmp_path_factory):
    """The output folder of a LoRA training: weights that change every picture, and a config that names the base."""
    folder = tmp_path_factory.mktemp("lora")
    save_lora(base, folder)
    config = {"pretrained_model_name_or_path": str(base), "use_lora": True}
    (folder / model_folder.CONFIG_NAME).write_text(yaml.safe_dump(config))
    return folder


def save_lora(base, folder):
    trained = StableDiffusionPipeline.from_pretrained(base)
    torch.manual_seed(0)
    trained.unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    for name, weight in trained.unet.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    StableDiffusionPipeline.save_lora_weights(folder, get_peft_model_state_dict(trained.unet))


def draw(pipeline, prompt=DOG, num_images=1, seed=0, **settings):
    """Generate pictures, (N, H, W, 3) uint8."""
    pictures = generation.generate(pipeline, [prompt], num_images, seed, **{**SMALL, **settings})
    return np.stack([np.asarray(picture.image) for picture in pictures])


def assert_same(first, second):
    """Compare pictures up to rounding: a math library may sum in a different order in each call."""
    np.testing.assert_allclose(first.astype(int), second.astype(int), atol=1, rtol=0)


def differ(first, second):
    """Return whether two pictures differ by more than rounding."""
    return abs(first.astype(int) - second.astype(int)).max() > 1


def run(*flags):
    return main(["generate", "--device", "cpu", *SMALL_FLAGS, *(str(flag) for flag in flags)])


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def assert_refused(capsys, *flags, words):
    """Check for exit code 2 and a one-line error that contains all of `words`."""
    code = run(*flags)
    output = capsys.readouterr()
    assert code == 2
    assert output.out == ""
    (line,) = output.err.splitlines()
    assert line.startswith("persam-dreambooth generate: error: ")
    for text in words:
        assert str(text) in line


# Pictures


def test_picture_depends_only_on_its_seed(pipeline):
    many = draw(pipeline, num_images=3, seed=5)
    assert many.shape == (3, 32, 32, 3)
    for number in range(3):
        assert_same(draw(pipeline, seed=5 + number)[0], many[number])


def test_seeds_and_prompts_change_picture(pipeline):
    first, second = draw(pipeline, num_images=2)
    assert differ(first, second)
    assert differ(draw(pipeline, "a cat on a sofa")[0], first)


def test_every_prompt_starts_from_same_seed(pipeline):
    prompts = [DOG, "a cat"]
    pictures = generation.generate(pipeline, prompts, 2, 7, **SMALL)
    assert [(picture.prompt, picture.seed) for picture in pictures] == [(p, s) for p in prompts for s in (7, 8)]
    assert_same(np.asarray(pictures[2].image), draw(pipeline, "a cat", seed=7)[0])


def test_pictures_are_yielded_as_soon_as_finished(pipeline):
    seen = []
    pictures = generation.generate(pipeline, [DOG, "a cat"], 2, 0, seen.append, **SMALL)
    assert seen == pictures

    def stop(picture):
        seen.append(picture)
        raise KeyboardInterrupt

    seen.clear()
    with pytest.raises(KeyboardInterrupt):
        generation.generate(pipeline, [DOG], 4, 0, stop, **SMALL)
    assert len(seen) == 1


def test_settings_reach_pipeline(pipeline):
    assert draw(pipeline, height=48, width=64).shape == (1, 48, 64, 3)
    plain = draw(pipeline)
    for settings in ({"guidance_scale": 1.0}, {"num_inference_steps": 3}, {"negative_prompt": "grass"}):
        assert differ(draw(pipeline, **settings), plain)


def test_guidance_reaches_qwen_image(pipelines):
    """Its pipeline has another name for the scale, and is guided only with a negative prompt."""
    qwen = generation.load_pipeline(str(pipelines / "qwen-image"), device="cpu")
    guided = draw(qwen, guidance_scale=7.5)
    generator = torch.Generator().manual_seed(0)
    expected = qwen(
        DOG, negative_prompt=" ", true_cfg_scale=7.5, generator=generator, output_type="np", **SMALL
    ).images
    assert_same(guided, (expected * 255).round())
    assert differ(guided, draw(qwen, guidance_scale=1.0))
    assert differ(guided, draw(qwen, guidance_scale=7.5, negative_prompt="grass"))


def test_pipeline_can_be_loaded_in_half_precision(base):
    half = generation.load_pipeline(str(base), device="cpu", dtype=torch.bfloat16)
    assert {weight.dtype for weight in half.unet.parameters()} == {torch.bfloat16}
    assert half.device == torch.device("cpu")


# The command


def test_pictures_and_grid_are_written_with_their_settings(base, pipeline, tmp_path, capsys):
    out = tmp_path / "new" / "out"
    flags = ["--model", base, "--prompt", DOG, "ein Käfer", "--output", out, "--num_images", 2, "--seed", 3]
    assert run(*flags, "--negative_prompt", "grass") == 0
    assert names(out) == ["a-sks-dog-3.png", "a-sks-dog-4.png", "ein-k-fer-3.png", "ein-k-fer-4.png", "grid.png"]
    with Image.open(out / "ein-k-fer-4.png") as picture:
        assert picture.text == {
            "prompt": "ein Käfer",
            "seed": "4",
            "model": str(base),
            "negative_prompt": "grass",
            "num_inference_steps": "2",
            "guidance_scale": "7.5",
            "height": "32",
            "width": "32",
            "weights": model_folder.weights_digest(base),
        }
        again = draw(pipeline, "ein Käfer", seed=4, negative_prompt="grass")
        assert_same(np.asarray(picture), again[0])
    printed = capsys.readouterr().out
    assert f"4 images in {out}" in printed
    assert str(out / "grid.png") in printed


def test_existing_pictures_are_refused_and_unchanged(base, tmp_path, capsys):
    (tmp_path / "a-sks-dog-1.png").write_bytes(b"mine")
    flags = ["--model", base, "--prompt", DOG, "--output", tmp_path, "--num_images", 2]
    assert_refused(capsys, *flags, words=["a-sks-dog-1.png", tmp_path, "--output"])
    assert names(tmp_path) == ["a-sks-dog-1.png"]
    assert (tmp_path / "a-sks-dog-1.png").read_bytes() == b"mine"


def test_generate_resumes_and_adds_prompts(base, tmp_path, capsys, monkeypatch):
    flags = ["--model", base, "--output", tmp_path / "out", "--num_images", 2, "--prompt", DOG]
    assert run(*flags, "a cat") == 0
    whole = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    for name in ("grid.png", "a-cat-1.png"):
        (tmp_path / "out" / name).unlink()
    kept = (tmp_path / "out" / "a-sks-dog-0.png").stat().st_mtime_ns
    capsys.readouterr()
    assert run(*flags, "a cat") == 0
    assert "4 images" in (printed := capsys.readouterr().out) and "3 of them from an earlier run" in printed
    assert set(names(tmp_path / "out")) == set(whole)
    assert run(*flags, "A cat!", "a bird") == 0  # gives the same file name as another prompt, which keeps its file
    assert {"a-cat-0.png", "a-cat-2-0.png", "a-bird-0.png"} < set(names(tmp_path / "out"))
    assert (tmp_path / "out" / "a-sks-dog-0.png").stat().st_mtime_ns == kept


@pytest.mark.parametrize("other", [["--num_inference_steps", "3"], ["--dtype", "bfloat16"], ["--model"]])
def test_pictures_made_differently_are_never_overwritten(base, lora, tmp_path, capsys, other):
    flags = ["--model", base, "--output", tmp_path / "out", "--num_images", 1, "--prompt", DOG]
    assert run(*flags) == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    capsys.readouterr()
    assert_refused(capsys, *flags, *(other if len(other) > 1 else [*other, lora]), words=["already holds", "--output"])
    assert_refused(capsys, *flags, "a cat", "--model", lora, words=["already holds", "--output"])
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}


def test_weights_that_are_not_finite_are_refused(base, tmp_path, capsys):
    broken = StableDiffusionPipeline.from_pretrained(base)
    with torch.no_grad():
        next(broken.unet.parameters()).fill_(float("nan"))
    broken.save_pretrained(tmp_path / "model")
    assert run("--model", tmp_path / "model", "--prompt", DOG, "--output", tmp_path / "out") == 2
    assert "NaN" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_no_dropout_is_left_on(base, tmp_path):
    trained = StableDiffusionPipeline.from_pretrained(base)
    torch.manual_seed(0)
    trained.unet.add_adapter(LoraConfig(r=2, lora_alpha=2, lora_dropout=0.5, target_modules=["to_q", "to_v"]))
    for name, weight in trained.unet.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    settings = {"unet_lora_adapter_metadata": trained.unet.peft_config["default"].to_dict()}
    weights = get_peft_model_state_dict(trained.unet)
    StableDiffusionPipeline.save_lora_weights(tmp_path, weights, **settings)
    pipeline = generation.load_pipeline(str(tmp_path), str(base), "cpu")
    dropouts = [part for part in pipeline.unet.modules() if isinstance(part, torch.nn.Dropout) and part.p == 0.5]
    assert dropouts and not any(part.training for part in pipeline.unet.modules())
    assert_same(draw(pipeline, num_images=2)[1], draw(pipeline, seed=1)[0])


def test_prompt_without_trained_word_causes_warning(lora, tmp_path, capsys):
    folder = shutil.copytree(lora, tmp_path / "lora")
    config = yaml.safe_load((folder / model_folder.CONFIG_NAME).read_text())
    config |= {"instance_prompt": "a photo of sks dog", "class_prompt": "a photo of dog"}
    (folder / model_folder.CONFIG_NAME).write_text(yaml.safe_dump(config))
    assert run("--model", folder, "--prompt", "a dog", DOG, "--output", tmp_path / "out", "--num_images", 1) == 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if "lacks 'sks'" in line]
    assert len(warnings) == 1 and "'a dog'" in warnings[0]


def test_unavailable_hub_model_is_refused(tmp_path, capsys):
    assert_refused(
        capsys,
        "--model",
        "nobody/nothing",
        "--prompt",
        DOG,
        "--output",
        tmp_path / "out",
        words=["nobody/nothing", "no such folder"],
    )
    assert not (tmp_path / "out").exists()


def test_folder_that_is_not_model_is_refused(tmp_path, capsys):
    flags = ["--model", tmp_path, "--prompt", DOG, "--output", tmp_path / "out"]
    assert_refused(capsys, *flags, words=[tmp_path, "model_index.json", "--output_dir"])
    assert not (tmp_path / "out").exists()


def test_pipeline_with_part_missing_is_refused(base, tmp_path, capsys):
    shutil.copytree(base, tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / "unet")
    flags = ["--model", tmp_path / "model", "--prompt", DOG, "--output", tmp_path / "out"]
    assert run(*flags) == 2
    *_, line = capsys.readouterr().err.splitlines()  # after the loader's progress bar
    assert "error: " in line
    assert "cannot be loaded" in line
    assert not (tmp_path / "out").exists()


# LoRA


def test_lora_weights_are_loaded_onto_base_in_their_config(lora, base, pipeline):
    by_hand = DiffusionPipeline.from_pretrained(base).to("cpu")
    by_hand.load_lora_weights(lora, weight_name=model_folder.LORA_NAME)
    ours = draw(generation.load_pipeline(str(lora), device="cpu"))
    assert_same(ours, draw(by_hand))
    assert differ(ours, draw(pipeline))


def test_lora_folder_works_like_any_model(lora, tmp_path):
    assert run("--model", lora, "--prompt", DOG, "--output", tmp_path, "--num_images", 1) == 0
    with Image.open(tmp_path / "a-sks-dog-0.png") as picture:
        expected = draw(generation.load_pipeline(str(lora), device="cpu"))
        assert_same(np.asarray(picture), expected[0])
        assert picture.text["model"] == str(lora)


@pytest.mark.parametrize("config", [None, "use_lora: true\n", "- a list\n", ""])
def test_lora_weights_without_known_base_are_refused(lora, tmp_path, capsys, config):
    shutil.copy(lora / model_folder.LORA_NAME, tmp_path)
    if config is not None:
        (tmp_path / model_folder.CONFIG_NAME).write_text(config)
    flags = ["--model", tmp_path, "--prompt", DOG, "--output", tmp_path / "out"]
    assert_refused(capsys, *flags, words=[tmp_path, "--base_model"])


def test_base_model_flag_replaces_or_overrides_config(lora, base, tmp_path):
    expected = draw(generation.load_pipeline(str(lora), device="cpu"))
    shutil.copy(lora / model_folder.LORA_NAME, tmp_path)
    alone = generation.load_pipeline(str(tmp_path), base_model=str(base), device="cpu")
    assert_same(draw(alone), expected)
    (tmp_path / model_folder.CONFIG_NAME).write_text("pretrained_model_name_or_path: /no/such/base\n")
    overridden = generation.load_pipeline(str(tmp_path), base_model=str(base), device="cpu")
    assert_same(draw(overridden), expected)


def test_missing_base_is_refused_with_both_names(lora, tmp_path):
    shutil.copy(lora / model_folder.LORA_NAME, tmp_path)
    (tmp_path / model_folder.CONFIG_NAME).write_text("pretrained_model_name_or_path: /no/such/base\n")
    with pytest.raises(UserError, match="cannot be loaded") as error:
        generation.load_pipeline(str(tmp_path))
    assert "/no/such/base" in str(error.value)
    assert str(tmp_path) in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("damaged", [model_folder.CONFIG_NAME, model_folder.LORA_NAME])
def test_damaged_lora_folder_is_refused_in_one_line(lora, damaged, capsys, tmp_path):
    folder = shutil.copytree(lora, tmp_path / "lora")
    (folder / damaged).write_bytes(b"{: no")
    assert run("--model", folder, "--prompt", DOG, "--output", tmp_path / "out") == 2
    assert "error: " in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_setting_that_the_pipeline_lacks_is_refused(pipelines):
    with pytest.raises(UserError, match="--negative_prompt has no use with a Flux2KleinPipeline; drop it"):
        generation.generate(generation.load_pipeline(pipelines / "flux2-klein"), [DOG], negative_prompt="blur")
