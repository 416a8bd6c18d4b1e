"""The UNet's cross-attention as it is recorded: the layers, their probabilities, and an unchanged prediction."""

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor

from persam_dreambooth.training.families import cross_attention
from random_parts import random_unet
from tests.training.small import noised_for
from tests.training.test_objective_attention import (
    POSITIONS,
    every_kind,
    every_unet,
    family_and_batch,
    record_attention,
)


@every_unet
@every_kind
def test_probabilities_match_diffusers_processor(base, kind, monkeypatch):
    config, family, batch = family_and_batch(base, kind)
    seen, prediction, _ = record_attention(family, batch, config)
    ours = seen.probabilities(2)
    scores, theirs = Attention.get_attention_scores, []

    def record_scores(layer, *args):
        found = scores(layer, *args)
        if found.shape[-1] != found.shape[-2]:  # not self-attention
            theirs.append(found.unflatten(0, (2, -1)).mean(1))
        return found

    family.unet.set_attn_processor(AttnProcessor())
    monkeypatch.setattr(Attention, "get_attention_scores", record_scores)
    torch.manual_seed(4)
    noised = noised_for(family, config, torch.randn(2, 4, 16, 16))
    expected = family.predict(noised, family.encode_prompt(batch.prompt))
    theirs = [probabilities for probabilities in theirs if probabilities.shape[1] == ours.shape[1]]
    assert len(theirs) == len(seen.layers)
    torch.testing.assert_close(ours, torch.stack(theirs).mean(0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(expected, prediction, rtol=1e-4, atol=1e-6)
    assert ours[..., POSITIONS].std() > 1e-4  # a uniform map would prove nothing


@every_unet
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_recording_leaves_prediction_bit_identical(base, dtype):
    config, family, batch = family_and_batch(base, "lora")
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        _, recorded, _ = record_attention(family, batch, config)
        torch.manual_seed(4)
        noised = noised_for(family, config, torch.randn(2, 4, 16, 16))
        plain = family.predict(noised, family.encode_prompt(batch.prompt))
    assert torch.equal(recorded, plain)
    assert not any(module._forward_hooks for module in family.unet.modules())


@every_unet
def test_recorded_resolution_is_nearest_to_quarter(base):
    config, family, batch = family_and_batch(base)
    levels = cross_attention._layers(family.unet)
    seen, _, _ = record_attention(family, batch, config)
    assert abs(seen.level - 2) == min(abs(level - 2) for level in levels)
    side = 16 // 2**seen.level
    assert all(query.shape[1] == side * side for query in seen.queries)
    names = {name for name, module in family.unet.named_modules() if any(module is layer for layer in seen.layers)}
    assert names and all(name.endswith("attn2") for name in names)


@every_unet
def test_odd_and_non_square_latents(base):
    config, family, batch = family_and_batch(base)
    torch.manual_seed(4)
    noised = noised_for(family, config, torch.randn(2, 4, 10, 18))
    with cross_attention.recorded(family.unet) as seen:
        family.predict(noised, family.encode_prompt(batch.prompt))
    found = seen.maps([(POSITIONS,), (POSITIONS,)], (10, 18))
    assert found.shape[-2:] == (-(-10 // 2**seen.level), -(-18 // 2**seen.level))
    assert torch.equal(found.amax((1, 2, 3)), torch.ones(2)) and found.min() > 0


def test_nothing_is_recorded_behind_the_block_even_if_it_fails():
    unet = random_unet(0, sample_size=8, cross_attention_dim=32)
    given = (torch.randn(1, 4, 8, 8), 1, torch.randn(1, 3, 32))
    with pytest.raises(ZeroDivisionError), cross_attention.recorded(unet) as seen:
        unet(*given)
        raise ZeroDivisionError
    count = len(seen.queries)
    assert count == len(seen.keys) == len(seen.layers) > 0
    unet(*given)
    assert len(seen.queries) == len(seen.keys) == count
