"""A subject's photos, two small pipelines, and small image encoders: real classes with random weights."""

from pathlib import Path

import pytest
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from persam_dreambooth.cli import main
from persam_dreambooth.photos import files
from random_models import byte_tokenizer, draw_weights, random_stable_diffusion
from tests.scene import scene

TOWER = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}
SQUARE = {"height": 32, "width": 32}
PROMPTS = """\
# two scenes and a property
a {unique_token} {class_token} [in the snow]
a {unique_token} {class_token} [on the beach]

a red {unique_token} {class_token}
"""


@pytest.fixture(scope="session")
def eyes(tmp_path_factory) -> Path:
    """A folder with `clip`, `dino` (the original one, without a pooler as on the hub) and `dinov2`."""
    folder, tokenizer = tmp_path_factory.mktemp("eyes"), byte_tokenizer()
    text = {**TOWER, "vocab_size": len(tokenizer), "max_position_embeddings": 77, "projection_dim": 32}
    ends = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.eos_token_id,
    }
    vision = {**TOWER, "image_size": 32, "patch_size": 8, "projection_dim": 32}
    clip = CLIPModel(CLIPConfig(text_config=text | ends, vision_config=vision, projection_dim=32))
    small = ViTConfig(**TOWER, image_size=32, patch_size=8)
    for name, model, prepare in (
        ("clip", clip, CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=SQUARE)),
        ("dino", ViTModel(small, add_pooling_layer=False), ViTImageProcessor(size=SQUARE)),
        ("dinov2", Dinov2Model(Dinov2Config(**TOWER, image_size=32, patch_size=8)), ViTImageProcessor(size=SQUARE)),
    ):
        draw_weights(model, seed=1).save_pretrained(folder / name)
        prepare.save_pretrained(folder / name)
    tokenizer.save_pretrained(folder / "clip")
    return folder


@pytest.fixture(scope="session")
def generators(models, tmp_path_factory) -> Path:
    """A folder with two small Stable Diffusion models, `one` and `other`, and `copy`, a copy of `one`."""
    folder = tmp_path_factory.mktemp("drawers")
    for name, seed in (("one", 0), ("other", 1), ("copy", 0)):
        random_stable_diffusion(seed).save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="session")
def subject(tmp_path_factory) -> Path:
    """A folder with `photos`, their `masks`, and `prompts.txt`."""
    folder = tmp_path_factory.mktemp("subject")
    for number in range(3):
        pixels, disc = scene(48, 48 + 8 * number, number)
        files.write_picture(Image.fromarray(pixels), folder / "photos" / f"{number}.png")
        files.write_mask(disc, folder / "masks" / f"{number}.png")
    (folder / "prompts.txt").write_text(PROMPTS)
    return folder


@pytest.fixture(scope="session")
def flags_without_output(models, eyes, generators, subject) -> dict[str, list[str]]:
    """Flags of the command: two models, two pictures per prompt, none of the class."""
    given = {
        "model": [generators / "one", generators / "other"],
        "instance_data_dir": subject / "photos",
        "instance_mask_dir": subject / "masks",
        "prompts": subject / "prompts.txt",
        "unique_token": "sks",
        "class_token": "disc",
        "training_scenes": "on a lawn",
        "num_images": 2,
        "class_images": 0,
        "num_inference_steps": 1,
        "height": 32,
        "width": 32,
        "sam": models / "sam",
        "clip_model": eyes / "clip",
        "dino_model": eyes / "dino",
        "device": "cpu",
    }
    return {name: list(map(str, value if isinstance(value, list) else [value])) for name, value in given.items()}


@pytest.fixture
def options(flags_without_output, tmp_path) -> dict[str, list[str]]:
    """Flags of the command, for tests to modify."""
    return flags_without_output | {"output": [str(tmp_path / "out")]}


def argv(options: dict[str, list[str]], **changed: object) -> list[str]:
    """Build the command line; a flag that is changed to None is left out."""
    given = options | {name: value if isinstance(value, list) else [value] for name, value in changed.items()}
    flags = [[f"--{name}", *map(str, value)] for name, value in given.items() if value != [None]]
    return ["evaluate", "generation", *(word for flag in flags for word in flag)]


def evaluate(options: dict[str, list[str]], **changed: object) -> int:
    """Run the command in this process."""
    return main(argv(options, **changed))
