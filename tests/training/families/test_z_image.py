"""Z-Image: reversed time, a negated velocity, and prompts without their padding."""

import pytest
import torch

from tests.training.families.calls import calls_of, numbered
from tests.training.small import make, tokenized


def test_transformer_gets_reversed_time_and_returns_the_negated_velocity(pipelines):
    """Pictures are videos of one frame."""
    _, family = make(pipelines / "z-image")
    noised, calls = numbered(4, 6), calls_of(family.transformer)
    with torch.no_grad():
        prediction = family.predict(noised, family.encode_prompt(tokenized(family, ["a dog"] * 2)))
    (videos, time, _), _, (output,) = calls[0]
    assert time.tolist() == [0.75, 0.25]
    for number in range(2):
        assert torch.equal(videos[number], noised.noisy[number].unsqueeze(1))
        assert torch.equal(prediction[number], -output[number].squeeze(1)) and prediction[number].shape == (4, 4, 6)


@pytest.mark.parametrize("longer", ["a sks dog", "a dog " * 9])
def test_prompts_are_given_without_their_padding(pipelines, longer):
    """The states of the last layer but one, as many as the prompt has tokens."""
    _, family = make(pipelines / "z-image")
    tokens, calls = [family.tokenize(prompt) for prompt in ("a dog", longer)], calls_of(family.transformer)
    with torch.no_grad():
        family.predict(numbered(4, 6), family.encode_prompt(tokenized(family, ["a dog", longer])))
        alone = [family.text_encoder(**one, output_hidden_states=True).hidden_states[-2][0] for one in tokens]
    (_, _, prompts), _, _ = calls[0]
    for given, expected in zip(prompts, alone, strict=True):
        torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5)
    assert len(prompts[1]) - len(prompts[0]) == len(longer) - len("a dog")
