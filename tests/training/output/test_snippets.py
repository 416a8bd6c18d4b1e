"""The "Use" snippet of every family's card runs unchanged, offline, for a base of any precision."""

import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from random_models import PIPELINES
from tests.training.original_layout import save_single_file
from tests.training.runs import train

SMALL = "num_inference_steps=1, height=32, width=32"


def run_snippet():
    """Run the card's snippet at a small picture size; return the picture."""
    card = Path("output/README.md").read_text()
    snippet = re.search(r"```python\n(.*?)```", card, re.DOTALL).group(1)
    lines = snippet.replace("'this folder'", "'output'").replace(" jungle')", f" jungle', {SMALL})")
    assert SMALL in lines and "'output'" in lines
    names = {}
    exec(compile(lines, "card", "exec"), names)
    return names["image"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", PIPELINES)
def test_lora_on_low_precision_base(flags, pipelines, name, dtype):
    PIPELINES[name]().to(dtype).save_pretrained("base")
    more = {"pretrained_model_name_or_path": "base", "max_train_steps": 1, "report_to": "none", "rank": 1}
    assert train(flags | more, "--use_lora") == 0
    assert isinstance(run_snippet(), Image.Image)


def test_variant_is_named(flags):
    PIPELINES["stable-diffusion"]().to(torch.float16).save_pretrained("base", variant="fp16")
    more = {"pretrained_model_name_or_path": "base", "max_train_steps": 1, "report_to": "none", "variant": "fp16"}
    assert train(flags | more, "--use_lora") == 0
    assert isinstance(run_snippet(), Image.Image)


def test_base_in_a_single_file(flags):
    pipeline = PIPELINES["stable-diffusion"]()
    pipeline.save_pretrained("config")
    save_single_file(pipeline, "1", "base.safetensors")
    base = {"pretrained_model_name_or_path": "base.safetensors", "single_file_config": "config"}
    assert train(flags | base | {"max_train_steps": 1, "report_to": "none"}, "--use_lora") == 0
    assert isinstance(run_snippet(), Image.Image)


def test_whole_pipeline(flags):
    assert train(flags, max_train_steps=1, report_to="none") == 0
    assert isinstance(run_snippet(), Image.Image)
