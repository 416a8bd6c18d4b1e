"""Prompts in chunks of 75 tokens: short ones unchanged, long ones as in sd-scripts."""

import pytest
import torch
from diffusers import DiffusionPipeline

from persam_dreambooth import long_prompts
from persam_dreambooth.training.data.dataset import stack_prompts
from random_parts import byte_tokenizer
from tests.training.small import configure, make, noised_for

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


def test_shorter_prompts_of_a_batch_get_empty_chunks():
    tokenizer = byte_tokenizer()
    tokens = long_prompts.tokenize([tokenizer, tokenizer], [SHORT, LONGER, ""], 150)
    assert tokens["chunks"].tolist() == [[1, 0], [1, 1], [1, 0]]
    assert tokens["input_ids"].shape == (3, 2, 77) and torch.equal(tokens["input_ids"], tokens["input_ids_2"])
    begin, *_, end = empty = tokenizer("", padding="max_length").input_ids
    assert tokens["input_ids"][0, 1].tolist() == tokens["input_ids"][2, 0].tolist() == empty
    first, second = tokens["input_ids"][1].tolist()
    whole = tokenizer(LONGER).input_ids[1:151]
    assert (first[0], first[-1]) == (second[0], second[-1]) == (begin, end) and first[1:76] + second[1:76] == whole
    assert "input_ids_2" not in long_prompts.tokenize([tokenizer], [SHORT], 150)


@pytest.mark.parametrize(
    ("prompt", "length", "asked", "expected"),
    [
        ("abcdef", 8, None, ""),
        ("abcdef", 7, None, "f"),
        ("abcdef", 6, None, "ef"),
        ("abc def", 5, None, "def"),
        ("def", 7, "a photo of def", "def"),
        ("def", 12, "a photo of def", "f"),
    ],
)
def test_end_that_is_not_read_is_found(prompt, length, asked, expected):
    """A token a letter, and two for the begin and the end."""
    assert long_prompts.cut_off(byte_tokenizer(), prompt, length, asked) == expected
