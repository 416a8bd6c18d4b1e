"""Base models in a single file: the same weights, trainings and pictures as from the folder, and what is refused."""

import shutil
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel, StableDiffusionXLPipeline
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from persam_dreambooth.cli import main
from persam_dreambooth.errors import UserError
from persam_dreambooth.evaluation.generation.models import Model, digest_of
from persam_dreambooth.evaluation.generation.pictures import Drawing, draw_pictures
from persam_dreambooth.evaluation.generation.prompts import Prompt
from persam_dreambooth.model_source import ModelSource
from persam_dreambooth.single_file import SingleFile
from random_models import PIPELINES, SCHEDULE, random_stable_diffusion
from random_parts import byte_tokenizer, draw_weights, random_clip, random_unet, random_vae
from tests.hub_cache import cache_model
from tests.training.original_layout import flux_weights, save_single_file
from tests.training.runs import same_weights, train
from tests.training.small import make

LORA = "pytorch_lora_weights.safetensors"
UNET = "model.diffusion_model."
FULL_WIDTH = {
    "num_layers": 1,
    "num_single_layers": 1,
    "num_attention_heads": 24,
    "attention_head_dim": 128,
    "axes_dims_rope": (16, 56, 56),
}
DRAWN = ("--prompt", "a sks dog", "--num_images", "1", "--num_inference_steps", "2", "--height", "32", "--width", "32")


def wider_clip(kind, **sizes):
    config = random_clip(kind, 0).config
    config.update({"num_attention_heads": 4, **sizes})
    return draw_weights(kind(config), 3)


def stable_diffusion_1():
    return random_stable_diffusion()


def stable_diffusion_2():
    """At the width by which version 2 is recognized, predicting velocity."""
    pipeline = random_stable_diffusion(prediction_type="v_prediction")
    pipeline.text_encoder = wider_clip(CLIPTextModel, hidden_size=1024)
    unet = dict(random_unet(0, sample_size=32, cross_attention_dim=1024).config)
    unet |= {
        "layers_per_block": 2,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "use_linear_projection": True,
    }
    pipeline.unet = draw_weights(type(pipeline.unet).from_config(unet), 0)
    return pipeline


def stable_diffusion_xl():
    """Its second text encoder has another width than the first, and the ten layers by which XL is recognized."""
    second = wider_clip(CLIPTextModelWithProjection, hidden_size=48, num_hidden_layers=10)
    unet = random_unet(
        0,
        sample_size=16,
        cross_attention_dim=80,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 32,
    )
    return StableDiffusionXLPipeline(
        vae=random_vae(0, 2),
        text_encoder=random_clip(CLIPTextModel, 0),
        text_encoder_2=second,
        tokenizer=byte_tokenizer(),
        tokenizer_2=byte_tokenizer(),
        unet=unet,
        scheduler=type(random_stable_diffusion().scheduler)(**SCHEDULE),
    )


VERSIONS = {"1": stable_diffusion_1, "2": stable_diffusion_2, "xl": stable_diffusion_xl}


@pytest.fixture
def bases(tmp_path):
    """Make a base model as a folder, as a file, and a folder of its configs alone; return their paths."""

    def write(version, metadata=None):
        pipeline = VERSIONS[version]()
        pipeline.save_pretrained(tmp_path / "folder")
        save_single_file(pipeline, version, tmp_path / "base.safetensors", metadata)
        shutil.copytree(tmp_path / "folder", tmp_path / "config", ignore=shutil.ignore_patterns("*.safetensors"))
        return tmp_path / "folder", tmp_path / "base.safetensors", tmp_path / "config"

    return write


def same_tensors(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_part_has_the_same_weights(bases, version):
    folder, file, config = bases(version)
    _, whole = make(folder)
    _, single = make(file, {"single_file_config": str(config)})
    assert type(whole) is type(single)
    for part in ("unet", "vae", *whole.encoders):
        assert same_tensors(getattr(whole, part).state_dict(), getattr(single, part).state_dict()), part
    assert single.scheduler.config.prediction_type == whole.scheduler.config.prediction_type


@pytest.mark.parametrize("version", VERSIONS)
def test_training_equals_that_from_the_folder(flags, bases, version):
    folder, file, config = bases(version)
    more = flags | {
        "report_to": "none",
        "max_train_steps": 2,
        "validation_prompt": "a dog",
        "num_validation_images": 1,
    }
    assert train(more | {"pretrained_model_name_or_path": folder, "output_dir": "whole"}, "--use_lora") == 0
    single = {"pretrained_model_name_or_path": file, "single_file_config": config}
    assert train(more | single, "--use_lora") == 0
    assert same_tensors(load_file(f"whole/{LORA}"), load_file(f"output/{LORA}"))
    shown = [Image.open(f"{name}/validation/step-000002-0.png").tobytes() for name in ("whole", "output")]
    assert shown[0] == shown[1]
    for name in ("whole", "output"):
        assert main(["generate", "--model", name, *DRAWN, "--output", f"drawn-{name}"]) == 0
    drawn = [Image.open(f"drawn-{name}/a-sks-dog-0.png").tobytes() for name in ("whole", "output")]
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("kind", ["loha", "lokr", "oft"])
def test_other_adapters_equal_those_from_the_folder(flags, bases, kind):
    folder, file, config = bases("1")
    more = flags | {"report_to": "none", "max_train_steps": 2, "rank": 2, "adapter_type": kind, "learning_rate": 0.1}
    assert train(more | {"pretrained_model_name_or_path": folder, "output_dir": "whole"}, "--use_lora") == 0
    assert train(more | {"pretrained_model_name_or_path": file, "single_file_config": config}, "--use_lora") == 0
    weights = "unet/adapter_model.safetensors"
    assert same_tensors(load_file(f"whole/{weights}"), load_file(f"output/{weights}"))
    drawn = []
    for name in ("whole", "output", file):
        model = ("--model", str(name), *(("--single_file_config", str(config)) if name is file else ()))
        assert main(["generate", *model, *DRAWN, "--output", f"drawn-{len(drawn)}"]) == 0
        drawn.append(Image.open(f"drawn-{len(drawn)}/a-sks-dog-0.png").tobytes())
    assert drawn[0] == drawn[1] != drawn[2]


def test_full_fine_tune_and_class_images_equal_those_from_the_folder(flags, bases):
    folder, file, config = bases("1")
    more = flags | {"report_to": "none", "max_train_steps": 2, "class_prompt": "a dog", "num_class_images": 1}
    single = {"pretrained_model_name_or_path": file, "single_file_config": config, "class_data_dir": "class"}
    whole = {"pretrained_model_name_or_path": folder, "output_dir": "whole", "class_data_dir": "class-whole"}
    switches = ("--with_prior_preservation", "--train_text_encoder")
    assert train(more | whole, *switches) == 0 and train(more | single, *switches) == 0
    names = {path.relative_to("whole") for path in Path("whole").rglob("*.safetensors")}
    assert {path.parts[0] for path in names} == {"unet", "vae", "text_encoder"}
    assert all(same_weights(Path("whole") / name, Path("output") / name) for name in names)
    assert Path("class/class-00000.png").read_bytes() == Path("class-whole/class-00000.png").read_bytes()


def test_file_is_a_model_and_a_base_of_generate(flags, bases):
    """Also of a LoRA without its training's config."""
    folder, file, config = bases("1")
    single = ("--single_file_config", str(config))
    for name, model in (("whole", [folder]), ("file", [file, *single])):
        assert main(["generate", "--model", *map(str, model), *DRAWN, "--output", name]) == 0
    assert Image.open("whole/a-sks-dog-0.png").tobytes() == Image.open("file/a-sks-dog-0.png").tobytes()
    assert train(flags | {"pretrained_model_name_or_path": folder, "report_to": "none"}, "--use_lora") == 0
    assert main(["generate", "--model", "output", *DRAWN, "--output", "with-config"]) == 0
    Path("output/training_config.yaml").unlink()
    base = ("--base_model", str(file), *single)
    assert main(["generate", "--model", "output", *base, *DRAWN, "--output", "without"]) == 0
    assert Image.open("with-config/a-sks-dog-0.png").tobytes() == Image.open("without/a-sks-dog-0.png").tobytes()


def test_evaluation_draws_with_a_file(bases, tmp_path):
    folder, file, config = bases("1")
    settings = {"num_inference_steps": 2, "height": 32, "width": 32}
    shown, digests = [], []
    for source in (folder, file):
        model = Model("model", ModelSource(str(source)))
        drawing = Drawing([Prompt("a sks dog", "a dog", None)], 1, 0, settings)
        if source == file:
            with pytest.raises(UserError, match="no --single_file_config"):  # the default is on the hub
                model.source.check()
            model = Model("model", ModelSource(str(source), single_file_config=str(config)))
        model.source.check()
        (path,) = draw_pictures(model, drawing, tmp_path / f"report-{source.stem}/pictures").values()
        shown.append(Image.open(path).tobytes())
        digests.append(digest_of(model.source))
    assert shown[0] == shown[1] and all(digests)
    save_single_file(random_stable_diffusion(seed=1), "1", file)
    assert digest_of(ModelSource(str(file))) != digests[1]


def test_config_without_the_tokenizers_vocabulary_is_refused(bases):
    """As a folder's is: all prompts would be the same."""
    _, file, config = bases("1")
    (config / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="knows no words"):
        ModelSource(str(file), single_file_config=str(config)).load_whole()


def test_config_may_be_in_the_cache_of_the_hub(bases, tmp_path, monkeypatch):
    """Of the name that diffusers has for the file's kind; without the network, and without weights."""
    folder, file, config = bases("1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    cache_model(tmp_path / "hub", "stable-diffusion-v1-5/stable-diffusion-v1-5", {"main": config})
    _, single = make(file)
    _, whole = make(folder)
    assert same_tensors(single.unet.state_dict(), whole.unet.state_dict())
    assert single.pipeline().tokenizer.get_vocab() == whole.tokenizer.get_vocab()


def test_missing_parts_come_from_the_config(bases, tmp_path):
    folder, file, config = bases("1")
    weights = {name: value for name, value in load_file(file).items() if not name.startswith("first_stage_model.")}
    save_file(weights, tmp_path / "without.safetensors")
    _, family = make(tmp_path / "without.safetensors", {"single_file_config": str(folder)})
    _, whole = make(folder)
    assert same_tensors(family.vae.state_dict(), whole.vae.state_dict())
    assert SingleFile.read(str(file), str(config)).holds("vae")


def test_flux_transformer_with_the_other_parts_from_the_config(tmp_path, pipelines):
    """Flux.1 is published as the transformer alone. Of full width, the only one that diffusers' converter knows."""
    pipeline = PIPELINES["flux"]()
    with torch.device("meta"):
        transformer = FluxTransformer2DModel.from_config(dict(pipeline.transformer.config) | FULL_WIDTH)
    transformer.to_empty(device="cpu").to(torch.bfloat16)
    for number, weight in enumerate(transformer.parameters()):
        row = torch.randn(weight.shape[-1], generator=torch.Generator().manual_seed(number))
        weight.data.copy_(row.expand(weight.shape))
        weight.data.view(-1)[: len(weight)] = torch.arange(len(weight)) / len(weight)
    save_file(
        {f"{UNET}{name}": value for name, value in flux_weights(transformer).items()}, tmp_path / "flux.safetensors"
    )
    pipeline.save_pretrained(tmp_path / "config")
    shutil.rmtree(tmp_path / "config/transformer")
    transformer.save_config(tmp_path / "config/transformer")
    _, family = make(tmp_path / "flux.safetensors", {"single_file_config": str(tmp_path / "config")})
    assert type(family).__name__ == "Flux"
    for name, weight in family.transformer.state_dict().items():
        assert torch.equal(weight, transformer.state_dict()[name].float()), name
    for part in ("text_encoder", "text_encoder_2", "vae"):
        assert same_tensors(getattr(family, part).state_dict(), getattr(pipeline, part).state_dict())


def train_error(flags, capsys, **more):
    """The one-line error of a training that is refused before anything is written."""
    assert train(flags | more) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert not Path("output").exists()
    return line


def test_what_cannot_be_used_is_refused(flags, bases, capsys):
    _, file, config = bases("1")
    weights, layer = load_file(file), "model.diffusion_model.x"
    given = {
        "pickle.ckpt": (b"PK", "is a pickle, which can run code when it is read"),
        "damaged.safetensors": (file.read_bytes()[:1000], "cannot be read"),
        "quantized.safetensors": (
            weights | {f"{layer}.weight": torch.zeros(2).byte()},
            "quantized weights",
        ),
        "scaled.safetensors": (weights | {f"{layer}.scale_weight": torch.zeros(1)}, "quantized weights"),
        "lora.safetensors": (
            {"lora_unet_x.lora_down.weight": torch.zeros(2)},
            "holds unknown weights",
        ),
        "short.safetensors": (dict(list(weights.items())[:-5]), "lacks some of the weights"),
        "inpainting.safetensors": (
            weights | {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(32, 9, 3, 3)},
            "weights of the kind inpainting",
        ),
        "missing.safetensors": (None, "no such file"),
    }
    for name, (content, words) in given.items():
        if isinstance(content, bytes):
            Path(name).write_bytes(content)
        elif content is not None:
            save_file(content, name)
        line = train_error(flags, capsys, pretrained_model_name_or_path=name, single_file_config=config)
        assert words in line and name in line


def test_config_of_another_kind_is_refused(flags, bases, capsys, pipelines):
    _, file, config = bases("1", {"modelspec.prediction_type": "v"})
    single = {"pretrained_model_name_or_path": file}
    for more, words in (
        ({"single_file_config": pipelines / "sdxl"}, "is a StableDiffusionXLPipeline, but"),
        ({"single_file_config": config}, "says that it predicts v_prediction"),
        ({"single_file_config": "nowhere/at-all"}, "the hub cannot be reached"),
        ({}, "no --single_file_config"),
        ({"single_file_config": config, "variant": "fp16"}, "--variant is about a base model on the hub"),
        ({"pretrained_model_name_or_path": config, "single_file_config": config}, "--single_file_config is about"),
    ):
        assert words in train_error(flags, capsys, **single | more)
