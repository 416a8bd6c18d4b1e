"""The header of kohya's files: the base model told by a layer's width, the LoRA's size, and no private path."""

import pytest
import torch

from persam_dreambooth.training.output.kohya_header import BASES, UNETS, channels, metadata, network


def lora(layer, width, rank=4, alpha=2.0):
    """Kohya's tensors of a layer with this number of input channels."""
    return {
        f"lora_x_{layer}.lora_down.weight": torch.zeros(rank, width),
        f"lora_x_{layer}.lora_up.weight": torch.zeros(8, rank),
        f"lora_x_{layer}.alpha": torch.tensor(alpha),
    }


def test_channels_are_those_of_the_layer():
    weights = lora("other", 5) | lora("attn2_to_k", 768)
    assert channels(weights, "attn2_to_k") == 768
    assert channels(weights, "attn2") is None


@pytest.mark.parametrize(
    ("pipeline", "layer", "width", "version", "architecture"),
    [
        (None, "attn2_to_k", 768, "sd_v1", "stable-diffusion-v1/lora"),
        ("StableDiffusionPipeline", "attn2_to_k", 1024, "sd_v2", None),
        ("StableDiffusionXLPipeline", "attn2_to_k", 2048, "sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora"),
        ("Flux2KleinPipeline", "linear1", 4096, "flux_2_klein_9b", "Flux.2-klein-9b/lora"),
        ("Flux2Pipeline", "linear1", 4096, None, None),  # of no known model
        (None, "attn1_to_k", 768, None, None),
    ],
)
def test_base_is_told_by_pipeline_and_width(pipeline, layer, width, version, architecture):
    header = metadata(lora(layer, width), {}, pipeline, "dog", {}, {})
    assert header.get("ss_base_model_version") == version
    assert header.get("modelspec.architecture") == architecture
    assert header.get("ss_v2") == (version and str(version == "sd_v2"))


def test_every_pipeline_has_its_own_widths():
    for layer, bases in (UNETS, *BASES.values()):
        assert layer and len({version for version, _ in bases.values()}) == len(bases) > 0


def test_size_is_dynamic_if_layers_differ():
    same = lora("a", 8) | lora("b", 16)
    assert network(same, None) == {
        "ss_network_module": "networks.lora",
        "ss_network_dim": 4,
        "ss_network_alpha": 2.0,
    }
    assert network(same | lora("c", 8, rank=2, alpha=1.0), None) == {
        "ss_network_module": "networks.lora",
        "ss_network_dim": "Dynamic",
        "ss_network_alpha": "Dynamic",
    }
    assert network(same, "FluxPipeline")["ss_network_module"] != "networks.lora"


def test_settings_are_written_without_folders_and_the_files_own_words_win():
    settings = {
        "pretrained_model_name_or_path": "/home/me/models/base",
        "resolution": 512,
        "learning_rate": 1e-4,
        "seed": None,
        "instance_prompt": "a sks dog",
    }
    written = {"ss_base_model_version": "sd_v2", "format": "pt", "ss_output_name": "old", "persam_pipeline": "X"}
    header = metadata(lora("attn2_to_k", 768), {"ss_network_dim": 4}, None, "dog", settings, written)
    assert all(isinstance(value, str) for value in header.values()) and "/home" not in str(header)
    assert header["ss_sd_model_name"] == "base" and header["ss_learning_rate"] == "0.0001"
    assert header["ss_resolution"] == "(512, 512)" and header["modelspec.resolution"] == "512x512"
    assert header["modelspec.trigger_phrase"] == "a sks dog" and header["ss_network_dim"] == "4"
    assert header["ss_base_model_version"] == "sd_v2" and header["persam_pipeline"] == "X"
    assert header["ss_output_name"] == header["modelspec.title"] == "dog"  # the new file's
    assert not {"format", "ss_seed"} & set(header)
    assert "ss_sd_model_name" not in metadata(lora("attn2_to_k", 768), {}, None, "dog", {}, {})
