"""Transformers that pack 2 x 2 latent cells into a token: masks follow the packing, and prompts the padding."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from persam_dreambooth.training import losses
from persam_dreambooth.training.data.dataset import stack_prompts
from tests.training.small import SIDE, batch_for, make, noised_for

# The layer that computes the tokens of the prediction, of each transformer that packs latents.
LAST = {
    "flux": "proj_out",
    "qwen-image": "proj_out",
    "flux2-klein": "proj_out",
    "flux2": "proj_out",
    "z-image": "all_final_layer.2-1",
    "krea2": "final_layer",
}
GRID = SIDE // 2  # these small models have cells of 2 x 2 pixels
masks = st.binary(min_size=GRID * GRID // 8, max_size=GRID * GRID // 8).map(
    lambda drawn: torch.from_numpy(np.unpackbits(np.frombuffer(drawn, np.uint8)).reshape(1, 1, GRID, GRID)).float()
)


@pytest.fixture(scope="module", params=LAST)
def packed(request, pipelines):
    """A prediction, (2, 4, h, w), and the tokens that it was unpacked from, (2, tokens, 4 x 4)."""
    config, family = make(pipelines / request.param)
    tokens = []
    layer = family.transformer.get_submodule(LAST[request.param])
    layer.register_forward_hook(lambda module, args, output: tokens.append(output))
    noised, batch = noised_for(family, config), batch_for(family, class_images=False)
    return family.predict(noised, family.encode_prompt(batch.prompt)), tokens[0]


@settings(max_examples=25, deadline=None)
@given(mask=masks)
def test_gradient_is_nonzero_at_masked_cells_of_each_token_only(packed, mask):
    prediction, tokens = packed
    (gradient,) = torch.autograd.grad((prediction * mask).sum(), tokens, retain_graph=True)
    gradient = gradient.abs()  # Z-Image's velocity is the negated output
    assert set(gradient.unique().tolist()) <= {0.0, 1.0}  # packing only moves numbers
    count = GRID * GRID // 4  # after the picture's tokens Z-Image has the prompt's
    cells = gradient.sum(-1)[:, :count].view(2, GRID // 2, GRID // 2) / 4  # four channels
    expected = 4 * torch.nn.functional.avg_pool2d(mask, 2)[0]
    assert torch.equal(cells, expected.expand(2, -1, -1)) and not gradient[:, count:].any()


@settings(max_examples=25, deadline=None)
@given(mask=masks)
def test_masked_loss_has_no_gradient_in_tokens_outside_mask(packed, mask):
    prediction, tokens = packed
    loss = losses.masked_mse(prediction, torch.zeros_like(prediction), mask.expand(2, -1, -1, -1))
    (gradient,) = torch.autograd.grad(loss, tokens, retain_graph=True)
    outside = torch.nn.functional.max_pool2d(mask, 2)[0] == 0
    assert not gradient[:, : outside.numel()].view(2, *outside.shape[1:], -1)[:, outside[0]].any()
    assert bool(gradient.any()) == bool(mask.any())


@pytest.mark.parametrize("name", ["qwen-image", "z-image", "krea2"])
def test_shorter_prompt_in_batch_predicts_as_alone(pipelines, name):
    """Tokens are unpadded, so that the shorter prompt of a batch is padded; encoded before or in the batch."""
    config, family = make(pipelines / name)
    noised, tokens = noised_for(family, config), [family.tokenize(text) for text in ("a sks dog on the moon", "a dog")]
    encoded = [family.encode_prompt(prompt) for prompt in tokens]
    together = [predicted(family, noised, stack_prompts(prompts)) for prompts in (tokens, encoded)]
    for number, prompt in enumerate(tokens):
        one = slice(number, number + 1)
        parts = {part: getattr(noised, part)[one] for part in ("noisy", "timesteps", "target", "weight", "crop")}
        alone = predicted(family, replace(noised, **parts), prompt)
        for prediction in together:
            torch.testing.assert_close(prediction[one], alone, rtol=1e-4, atol=1e-5)
    assert tokens[0]["input_ids"].shape != tokens[1]["input_ids"].shape


def predicted(family, noised, prompt):
    with torch.no_grad():
        return family.predict(noised, family.encode_prompt(prompt))
