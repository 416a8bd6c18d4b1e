"""The model card: how the model is loaded, what it was trained on, and what a public one leaves out."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard

from persam_dreambooth.training.data.concepts import Concept
from persam_dreambooth.training.data.mask_report import CheckedMask
from persam_dreambooth.training.output.best_checkpoint import BestCheckpoint
from persam_dreambooth.training.output.model_card import Card
from tests.training.small import configure

LORA = {"use_lora": True}


def card(folder, base="me/base", model=LORA, output=None, **data):
    """The card of a run into `folder / "dog"`; two masks cover a quarter and a half of their photos."""
    output = {"output_dir": str(folder / "dog")} | (output or {})
    config = configure(base, model, data={"class_prompt": "a dog"} | data, output=output)
    masks = [CheckedMask(Path("a.png"), (), torch.zeros(4, 4), 1.0, False) for _ in range(2)]
    for mask, rows in zip(masks, (1, 2), strict=True):
        mask.latent[:rows] = 1
    return Card(config, [Concept.of(config)], masks, [], "StableDiffusion")


def written(made, public=False):
    folder = Path(made.config.output.output_dir)
    made.save(folder, public)
    return (folder / "README.md").read_text()


def snippet(text):
    code = re.search(r"```python\n(.*?)\n```", text, re.DOTALL)[1]
    compile(code, "card", "exec")
    return code.splitlines()


def test_public_card_names_no_folder_and_shows_no_photo(tmp_path):
    base = tmp_path / "private" / "base"
    base.mkdir(parents=True)
    made = card(tmp_path, base)
    own, public = written(made), written(made, public=True)
    assert str(base) in own and "](masks.png)" in own and "manifest.jsonl" in own
    assert "`base`" in public and not any(word in public for word in (str(tmp_path), "masks.png", "manifest"))
    assert "| photos | 2; the subject covers 25% to 50% of them |" in public
    assert ModelCard(own).data.base_model is None
    shown = card(tmp_path, base, output={"push_to_hub": True, "push_masks_to_hub": True})
    assert "](masks.png)" in written(shown, public=True)


def test_header_names_the_hubs_base_the_prompt_and_the_method(tmp_path):
    data = ModelCard(written(card(tmp_path))).data
    assert (data.base_model, data.instance_prompt, data.library_name) == ("me/base", "a sks dog", "diffusers")
    assert data.tags[-1] == "lora" and "stable-diffusion" in data.tags
    other = replace(card(tmp_path, model=None), family="Flux")
    assert ModelCard(written(other)).data.tags == ["text-to-image", "diffusers", "flux", "dreambooth", "persam"]


@pytest.mark.parametrize(
    ("model", "here", "lines"),
    [
        (None, "me/dog", ["pipeline = DiffusionPipeline.from_pretrained('me/dog', torch_dtype=torch.float32)"]),
        (
            LORA,
            "me/dog",
            [
                "pipeline = DiffusionPipeline.from_pretrained('me/base', torch_dtype=torch.float32)",
                "pipeline.load_lora_weights('me/dog', weight_name='pytorch_lora_weights.safetensors')",
            ],
        ),
        (
            LORA | {"revision": "v2", "variant": "fp16"},
            None,
            [
                "pipeline = DiffusionPipeline.from_pretrained('me/base', torch_dtype=torch.float32, revision='v2', "
                "variant='fp16')",
                "pipeline.load_lora_weights('dog', weight_name='pytorch_lora_weights.safetensors')",
            ],
        ),
    ],
)
def test_model_is_loaded_from_the_hub_with_what_it_needs(tmp_path, model, here, lines):
    made = card(tmp_path, model=model, output={"hub_model_id": here, "push_to_hub": True})
    head = ["import torch", "from diffusers import DiffusionPipeline", ""]
    draw = "image = pipeline(prompt='a sks dog in the jungle').images[0]"
    assert snippet(written(made, public=True)) == [*head, *lines, draw]
    assert any("'this folder'" in line for line in snippet(written(made)))


def test_table_has_a_row_for_each_thing_that_is_known(tmp_path):
    made = card(
        tmp_path,
        instance_prompt="a sks|dog",
        with_prior_preservation=True,
        class_data_dir="class",
        num_class_images=7,
        prior_loss_weight=0.5,
    )
    rows = [line for line in written(made).splitlines() if line.startswith("|")]
    assert rows[2:] == [
        "| instance prompt | *a sks&#124;dog* |",
        "| class prompt | *a dog* |",
        "| class images | 7, weight 0.5 |",
        "| photos | 2; the subject covers 25% to 50% of them |",
    ]
    captioned = replace(made, concepts=[replace(made.concepts[0], prompt=None)], masks=[])
    text = written(captioned)
    assert "on\ncaptioned photos." in text and "| instance prompt | captions |" in text and "| photos" not in text
    assert "prompt='a photo in the jungle'" in text and "## Masks" not in text


def test_best_checkpoint_and_pictures_are_shown(tmp_path):
    folder = tmp_path / "dog"
    best = BestCheckpoint(folder / "checkpoint-2", "it leaks least", folder / "report.html")
    made = replace(card(tmp_path), best=best, pictures=[folder / "validation" / "step-2.png"])
    text = written(made)
    assert "## Checkpoints\n\nBest: `checkpoint-2`. it leaks least.\n" in text
    assert "![step-2](validation/step-2.png)" in text
    assert "## Checkpoints" not in written(card(tmp_path)) and "## Validation" not in written(card(tmp_path))
