"""Small families with their configs and batches, shared by the tests of the loss."""

from dataclasses import replace

import pytest
import torch

from persam_dreambooth.errors import UserError
from persam_dreambooth.training.config import (
    DataConfig,
    MaskConfig,
    ModelConfig,
    OptimizationConfig,
    OutputConfig,
    TrainingConfig,
    ValidationConfig,
)
from persam_dreambooth.training.data.concepts import read_concepts
from persam_dreambooth.training.data.dataset import Batch, stack_prompts
from persam_dreambooth.training.data.instances import find_instances
from persam_dreambooth.training.families import FAMILIES, check_base_model, load_family
from persam_dreambooth.training.families.base import Family
from random_models import PIPELINES

SIDE = 32
KINDS = {
    "full": {},
    "full-text": {"train_text_encoder": True},
    "lora": {"use_lora": True, "rank": 4, "lora_alpha": 8},
    "lora-text": {"use_lora": True, "rank": 4, "lora_alpha": 8, "train_text_encoder": True},
    "dora": {"use_lora": True, "use_dora": True},
}
NAMED = dict(zip(PIPELINES, FAMILIES.values(), strict=True))
every_family = pytest.mark.parametrize(
    "base", ["epsilon", *(name for name in NAMED if name != "stable-diffusion")], indirect=True
)
"""Limits the fixture `base` to one prediction type a family, for tests that do not depend on the target."""


def configure(base, model=None, mask=None, optimization=None, data=None, output=None):
    """Build a training config from changes to each group's defaults."""
    return TrainingConfig(
        ModelConfig(pretrained_model_name_or_path=str(base), **(model or {})),
        DataConfig(**({"instance_data_dir": "photos", "instance_prompt": "a sks dog"} | (data or {}))),
        MaskConfig(**({"instance_mask_dir": "masks"} | (mask or {}))),
        OptimizationConfig(**(optimization or {})),
        ValidationConfig(),
        OutputConfig(**(output or {})),
    )


def photos_of(config, sizes):
    """The photos of a run with one subject, and those that are left out."""
    found = find_instances(read_concepts(config)[0], config, sizes)
    return found.instances, found.left_out


def make(base, model=None, mask=None, optimization=None, data=None):
    config = configure(base, model, mask, optimization, data)
    check_base_model(config.model).check(config)
    return config, load_family(config.model)


def is_refused(family, model=None, mask=None, optimization=None):
    """Return whether a family, by its name in `random_models.PIPELINES`, refuses these settings.

    Runs only the checks that read no files, so that only the settings can be the reason.
    """
    try:
        Family.check.__func__(NAMED[family], configure(family, model, mask, optimization))
    except UserError:
        return True
    return False


def batch_for(family, class_images):
    torch.manual_seed(0)
    mask = torch.zeros(2, 1, SIDE, SIDE)
    mask[0, :, 4:17, 4:20] = 1
    mask[1, :, 20:30, 2:9] = 1
    prompts = ["a sks dog"] * 2 + (["a dog"] * 2 if class_images else [])
    pixels = torch.rand(len(prompts), 3, SIDE, SIDE) * 2 - 1
    crop = torch.tensor([[40, 48, 0, 5, SIDE, SIDE]] * len(prompts))
    weight = torch.ones(2)
    photos = ["first.png", "second.png"]
    return Batch(photos, mask, weight, tokenized(family, prompts), pixels=pixels, crop=crop)


def noised_for(family, config, latents=None):
    """Add noise to the given latents, or to random ones of two photos."""
    side = SIDE // family.cell_of(config.model)
    latents = torch.randn(2, 4, side, side) if latents is None else latents
    crop = torch.tensor([[40, 48, 0, 5, SIDE, SIDE]] * len(latents))
    return replace(family.add_noise(latents, config.optimization), crop=crop)


def trained_parameters(family):
    return [weight for part in family.trained().values() for weight in part.parameters() if weight.requires_grad]


def prediction_of(family, noised, batch):
    with torch.no_grad():
        return family.predict(noised, family.encode_prompt(batch.prompt))


def tokenized(family, prompts):
    return stack_prompts([family.tokenize(prompt) for prompt in prompts])
