"""Prompts in chunks of 75 tokens: short ones unchanged, long ones as in sd-scripts, in training and in drawing."""

from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from safetensors.torch import load_file

from persam_dreambooth import long_prompts
from persam_dreambooth.cli import main
from persam_dreambooth.errors import UserError
from persam_dreambooth.training.data.dataset import stack_prompts
from tests.training.runs import train
from tests.training.small import configure, make, noised_for

LORA = "pytorch_lora_weights.safetensors"
SHORT, FULL = "a sks dog", "d" * 75  # a token a letter
LONG, LONGER = "a sks dog" + "x" * 90, "b" * 170 + "y"
UNETS = ["stable-diffusion", "sdxl"]


def families(pipelines, name, limit=225):
    """The family without and with chunks."""
    return [make(pipelines / name, {"use_lora": True, "max_token_length": length})[1] for length in (None, limit)]


@torch.no_grad()
def encoded(family, *prompts):
    return family.encode_prompt(stack_prompts([family.tokenize(prompt) for prompt in prompts]))


@torch.no_grad()
def chunk_by_chunk(family, prompt, limit):
    """Encode each chunk alone, padded as the tokenizer pads; drop the starts and ends between chunks."""
    pieces = []
    for suffix in ("", "_2"):
        tokenizer, encoder = (getattr(family, f"{name}{suffix}", None) for name in ("tokenizer", "text_encoder"))
        if encoder is None:
            continue
        begin, *ids, end = tokenizer(prompt).input_ids
        ids = ids[:limit]
        rows, pooled = [], None
        for start in range(0, len(ids), 75):
            row = [begin, *ids[start : start + 75], end]
            row += [tokenizer.pad_token_id] * (77 - len(row))
            output = encoder(torch.tensor([row]), output_hidden_states=True)
            pooled = getattr(output, "text_embeds", None) if pooled is None else pooled
            rows.append(output.hidden_states[-2] if hasattr(family, "text_encoder_2") else output.last_hidden_state)
        inner = torch.cat([row[:, 1:76] for row in rows], 1)
        pieces.append(torch.cat([rows[0][:, :1], inner, rows[-1][:, 76:]], 1))
    return torch.cat(pieces, -1), pooled


@pytest.mark.parametrize("name", UNETS)
def test_short_prompts_are_encoded_as_without_the_flag(pipelines, name):
    plain, chunked = families(pipelines, name)
    for prompt in (SHORT, FULL, ""):
        theirs, ours = encoded(plain, prompt), encoded(chunked, prompt)
        assert set(ours) - set(theirs) == {"text_mask"} and ours["text_mask"].all()
        assert all(torch.equal(theirs[key], ours[key]) for key in theirs)


@pytest.mark.parametrize("limit", [150, 225])
@pytest.mark.parametrize("name", UNETS)
def test_long_prompts_equal_chunks_encoded_one_by_one(pipelines, name, limit):
    _, family = families(pipelines, name, limit)
    for prompt in (LONG, LONGER, "c" * 150):
        ours = encoded(family, prompt)
        embeds, pooled = chunk_by_chunk(family, prompt, limit)
        chunks = 3 if limit == 225 and prompt == LONGER else 2
        assert ours["embeds"].shape[1] == 75 * chunks + 2
        assert torch.allclose(ours["embeds"], embeds, atol=1e-5)
        assert pooled is None or torch.allclose(ours["pooled"], pooled, atol=1e-5)


@pytest.mark.parametrize("name", UNETS)
def test_prompts_of_a_batch_do_not_change_each_other(pipelines, name):
    _, family = families(pipelines, name)
    config = configure(pipelines / name)
    noised = noised_for(family, config)
    both = encoded(family, SHORT, LONGER)
    assert both["text_mask"].sum(1).tolist() == [77, 227]
    with torch.no_grad():
        together = family.predict(noised, both)
        alone = [family.predict(noised, encoded(family, prompt, prompt)) for prompt in (SHORT, LONGER)]
    assert torch.allclose(together[0], alone[0][0], atol=1e-5)
    assert torch.allclose(together[1], alone[1][1], atol=1e-5)
    assert not torch.allclose(alone[0], alone[1], atol=1e-3)


@pytest.mark.parametrize("name", UNETS)
def test_pipeline_gets_what_training_encodes(pipelines, name):
    _, family = families(pipelines, name)
    pipeline = DiffusionPipeline.from_pretrained(pipelines / name)
    found = long_prompts.arguments(pipeline, LONGER, None, 225)
    ours = encoded(family, LONGER)
    assert torch.allclose(found["prompt_embeds"], ours["embeds"], atol=1e-5)
    if "pooled" in ours:
        assert torch.allclose(found["pooled_prompt_embeds"], ours["pooled"], atol=1e-5)
    assert found["negative_prompt_embeds"].shape == found["prompt_embeds"].shape
    assert long_prompts.arguments(pipeline, FULL, SHORT, 225) == {"prompt": FULL}
    assert long_prompts.arguments(pipeline, LONGER, None, None) == {"prompt": LONGER}
    longer_negative = long_prompts.arguments(pipeline, SHORT, LONGER, 225)
    assert torch.allclose(longer_negative["negative_prompt_embeds"], ours["embeds"], atol=1e-5)


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
