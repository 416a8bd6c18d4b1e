"""Lumina Image 2.0: a text encoder in bf16 whatever the rest has, and the pipeline's system prompt."""

import pytest
import torch

from tests.training.families.calls import calls_of, numbered
from tests.training.small import make, tokenized


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_text_encoder_stays_in_bf16_and_pipelines_get_a_copy(pipelines, dtype):
    """Pictures need it in the precision of the other parts; prompts that are encoded have that as well."""
    _, family = make(pipelines / "lumina2", {"use_lora": True})
    assert family.text_encoder.dtype == torch.bfloat16
    family.place(torch.device("cpu"), dtype)
    drawing = family.pipeline().text_encoder
    assert drawing.dtype == dtype and family.text_encoder.dtype == torch.bfloat16
    assert (drawing is family.text_encoder) == (dtype == torch.bfloat16)
    assert family.encode_prompt(family.tokenize("a dog"))["embeds"].dtype == dtype
    assert family.vae.dtype == torch.float32


def test_checksum_of_prompts_has_their_precision(pipelines):
    """Caches of prompts in float32 and in bf16 differ, though the encoder is the same."""
    _, family = make(pipelines / "lumina2", {"use_lora": True})
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        family.dtype = dtype
        found.append((family.checksum("text"), family.checksum("vae")))
    (text, vae), (other_text, other_vae) = found
    assert text != other_text and vae == other_vae


def test_prompts_follow_the_pipelines_system_prompt_and_are_padded_at_the_right(pipelines):
    _, family = make(pipelines / "lumina2", {"max_sequence_length": 300})
    tokens = family.tokenize("a sks dog")
    count = int(tokens["attention_mask"].sum())
    assert tokens["input_ids"].shape == (1, 300) and 0 < count < 300
    assert tokens["attention_mask"][0, :count].all() and not tokens["attention_mask"][0, count:].any()
    assert family.asked("a sks dog") == f"{family.pipeline().system_prompt} <Prompt Start> a sks dog"


def test_transformer_gets_the_share_of_the_way_to_the_picture(pipelines):
    _, family = make(pipelines / "lumina2")
    calls, prompt = calls_of(family.transformer), family.encode_prompt(tokenized(family, ["a dog", "a sks dog"]))
    with torch.no_grad():
        prediction = family.predict(numbered(4, 6), prompt)
    _, given, output = calls[0]
    assert given["timestep"].tolist() == [0.25, 0.75] and torch.equal(prediction, output[0])
    assert torch.equal(given["encoder_attention_mask"], prompt["attention_mask"])
    assert prompt["attention_mask"].sum(1).diff().tolist() == [len("sks ")]
