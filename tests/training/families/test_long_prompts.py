"""Prompts of more than 75 tokens in training and in drawing; `tests/test_long_prompts.py` tests their encoding."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from persam_dreambooth.cli import main
from persam_dreambooth.errors import UserError
from tests.training.runs import train
from tests.training.small import configure

LORA = "pytorch_lora_weights.safetensors"
SHORT, LONG = "a sks dog", "a sks dog" + "x" * 90


def captioned(flags, caption):
    for photo in Path("photos").glob("*.png"):
        photo.with_suffix(".txt").write_text(caption)
    more = {"caption_extension": ".txt", "report_to": "none", "validation_prompt": caption, "num_validation_images": 1}
    return flags | more | {"max_train_steps": 2}


def trained(flags, output, *switches, **more):
    assert train(flags | {"output_dir": output} | more, "--use_lora", *switches) == 0
    weights = load_file(f"{output}/{LORA}")
    return torch.cat([weight.flatten() for weight in weights.values()])


def test_training_reads_the_end_of_long_captions(flags, caplog):
    """Without the flag it is cut off, and the warning says so, once for all photos of that caption."""
    flags = captioned(flags, LONG)
    plain, long = trained(flags, "plain"), trained(flags, "long", max_token_length=150)
    warnings = [record.getMessage() for record in caplog.records if "cut off" in record.getMessage()]
    assert len(warnings) == 1 and "--max_token_length 225 reads more" in warnings[0]
    assert not torch.equal(plain, long)
    cached = trained(flags, "cached", "--pre_compute_text_embeddings", max_token_length=150)
    assert torch.allclose(cached, long, atol=1e-5)
    flags = captioned(flags, SHORT)
    assert torch.equal(trained(flags, "short"), trained(flags, "short-long", max_token_length=225))


def test_generate_and_validation_read_prompts_as_the_training_did(flags, caplog):
    """Two prompts that differ behind their 75th token give different pictures only after such a training."""
    drawn = ("--num_images", "1", "--num_inference_steps", "2", "--height", "32", "--width", "32")
    ends = [f"{LONG} {end}" for end in ("uuu", "vvv")]
    for output, more, alike in (("plain", {}, True), ("long", {"max_token_length": 150}, False)):
        shown = []
        for number, prompt in enumerate(ends):
            trained(captioned(flags, SHORT), f"{output}-{number}", validation_prompt=prompt, **more)
            shown.append(Image.open(f"{output}-{number}/validation/step-000002-0.png").tobytes())
        assert (shown[0] == shown[1]) == alike
        pictures = []
        for number, prompt in enumerate(ends):
            folder = f"drawn-{output}-{number}"
            assert main(["generate", "--model", f"{output}-0", "--prompt", prompt, *drawn, "--output", folder]) == 0
            (picture,) = (path for path in Path(folder).glob("*.png") if path.name != "grid.png")
            pictures.append(Image.open(picture).tobytes())
            assert ("does not read the end of" in caplog.text) == alike  # it says so
            caplog.clear()
        assert (pictures[0] == pictures[1]) == alike


def test_class_images_read_long_prompts(flags):
    images = {}
    for end in ("uuu", "vvv"):
        prior = {"class_data_dir": f"class-{end}", "class_prompt": f"{LONG} {end}", "num_class_images": 2}
        more = prior | {"max_train_steps": 1, "report_to": "none", "max_token_length": 150}
        trained(flags | more, end, "--with_prior_preservation")
        images[end] = [path.read_bytes() for path in sorted(Path(f"class-{end}").glob("*.png"))]
    assert len(images["uuu"]) == 2 and all(one != other for one, other in zip(*images.values(), strict=True))


def test_attention_loss_is_refused():
    with pytest.raises(UserError, match="--max_token_length exclude each other"):
        configure("base", {"max_token_length": 150}, {"attention_loss_weight": 0.1, "identifier": "sks"})
