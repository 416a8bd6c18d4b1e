"""Metadata of saved LoRA weights: what a real training writes, and that diffusers and kohya readers load the file."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel, StableDiffusionPipeline
from PIL import Image

from persam_dreambooth.training.data.concepts import read_concepts
from persam_dreambooth.training.data.dataset import InstancePhoto
from persam_dreambooth.training.output.lora_metadata import describe
from random_models import random_stable_diffusion
from random_parts import random_unet
from tests.training.output.test_kohya import DIFFUSERS, KOHYA, metadata, predict
from tests.training.runs import train
from tests.training.small import make

CAPTIONS = {"00": "a sks dog, on a Sofa", "01": "a sks dog, on a sofa, at night", "02": "a sks dog"}
TAGS = {"a sks dog": 3, "on a sofa": 2, "at night": 1}


@pytest.fixture
def captioned(flags):
    """Flags of a LoRA run whose photos have captions."""
    for name, caption in CAPTIONS.items():
        Path(f"photos/{name}.txt").write_text(caption)
    return flags | {"caption_extension": ".txt", "report_to": "none", "rank": 2, "lora_alpha": 6}


def test_trained_lora_names_base_words_tags_size_and_masks(captioned, models):
    assert train(captioned, "--use_lora", "--output_kohya_format") == 0
    written, kohya = metadata(f"output/{DIFFUSERS}"), metadata(f"output/{KOHYA}")
    manifest = hashlib.sha256(Path("output/manifest.jsonl").read_bytes()).hexdigest()
    for header in (written, kohya):
        assert header["ss_sd_model_name"] == "stable-diffusion"  # without the folders above it
        assert (header["ss_output_name"], header["modelspec.title"]) == ("output", "output")
        assert (header["ss_resolution"], header["modelspec.resolution"]) == ("(32, 32)", "32x32")
        assert (header["modelspec.trigger_phrase"], header["modelspec.tags"]) == ("a sks dog", "sks, dog")
        assert json.loads(header["ss_tag_frequency"]) == {"photos": TAGS}
        assert json.loads(header["ss_dataset_dirs"]) == {"photos": {"n_repeats": 1, "img_count": 3}}
        assert (header["ss_network_dim"], header["ss_network_alpha"]) == ("2", "6.0")
        assert (header["ss_num_train_images"], header["ss_seed"], header["ss_learning_rate"]) == ("3", "0", "0.001")
        assert header["persam_masks_sha256"] == manifest
        assert header["modelspec.prediction_type"] == "epsilon"
        assert "None" not in header.values() and not any("/" in header[key] for key in header if key.startswith("ss_"))
    assert "ss_network_module" not in written and kohya["ss_network_module"] == "networks.lora"
    pipeline = StableDiffusionPipeline.from_pretrained(models / "stable-diffusion")
    assert torch.equal(predict(pipeline, Path("output") / DIFFUSERS), predict(pipeline, Path("output") / KOHYA))
    pipeline.load_lora_weights("output")
    assert pipeline.unet.peft_config["default_0"].lora_alpha == 6


def test_only_masks_change_their_digest(captioned):
    headers = []
    for side in (0, 4):
        mask = Image.open("masks/00.png")
        mask.paste(255, (0, 0, side, side))
        mask.save("masks/00.png")
        assert train(captioned | {"output_dir": f"{side}/dog"}, "--use_lora", max_train_steps=1) == 0
        headers.append(metadata(f"{side}/dog/{DIFFUSERS}"))
    first, second = headers
    assert {key for key in first if first[key] != second[key]} == {"persam_masks_sha256"}
    assert train(captioned | {"instance_mask_dir": None}, "--use_lora", "--no_masked_loss", max_train_steps=1) == 0
    assert "persam_masks_sha256" not in metadata(f"output/{DIFFUSERS}")


def test_captions_are_not_among_the_tags_of_an_upload(captioned, models):
    settings = {"output_dir": "output", "push_to_hub": True, "push_masks_to_hub": False}
    photos = [InstancePhoto(Path(f"photos/{name}.png"), (), (8, 8), (8, 8), text) for name, text in CAPTIONS.items()]
    for push, tags in ((False, TAGS), (True, {"a sks dog": 3})):
        config, family = make(models / "stable-diffusion", {"use_lora": True})
        config.output = type(config.output)(**settings | {"push_to_hub": push})
        described = describe(family, config, read_concepts(config), photos)
        assert json.loads(described["ss_tag_frequency"]) == {"photos": tags}


@pytest.mark.parametrize(
    ("width", "prediction", "version", "architecture"),
    [
        (768, "epsilon", "sd_v1", "stable-diffusion-v1"),
        (1024, "epsilon", "sd_v2", "stable-diffusion-v2-512"),
        (1024, "v_prediction", "sd_v2_v", "stable-diffusion-v2-768-v"),
        (32, "epsilon", None, None),
    ],
)
def test_base_of_stable_diffusion(tmp_path, width, prediction, version, architecture):
    pipeline = random_stable_diffusion(prediction_type=prediction)
    pipeline.unet = random_unet(0, sample_size=32, cross_attention_dim=width)
    pipeline.save_pretrained(tmp_path / "base")
    config, family = make(tmp_path / "base", {"use_lora": True})
    described = describe(family, config, read_concepts(config), [])
    assert described.get("ss_base_model_version") == version
    assert described.get("modelspec.architecture") == (architecture and f"{architecture}/lora")
    assert described.get("ss_v2") == (version and str(width == 1024))
    assert described["modelspec.prediction_type"] == ("v" if prediction == "v_prediction" else "epsilon")


@pytest.mark.parametrize(("guidance", "name"), [(True, "dev"), (False, "schnell")])
def test_base_of_flux(pipelines, guidance, name):
    config, family = make(pipelines / "flux", {"use_lora": True})
    with torch.device("meta"):  # full width
        family.transformer = FluxTransformer2DModel(num_layers=1, num_single_layers=1, guidance_embeds=guidance)
    described = describe(family, config, read_concepts(config), [])
    assert described["modelspec.architecture"] == f"flux-1-{name}/lora"
    assert described["ss_base_model_version"] == "flux1" and "modelspec.prediction_type" not in described
