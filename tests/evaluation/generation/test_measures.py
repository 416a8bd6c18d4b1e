"""The measures: hand-computed cases, torchmetrics' own numbers, and invariances."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize
from torchmetrics.functional import pairwise_cosine_similarity
from torchmetrics.functional.multimodal import clip_score
from transformers import CLIPModel, CLIPProcessor, ViTModel

from persam_dreambooth.evaluation.generation import measures
from persam_dreambooth.evaluation.generation.features import Clip
from persam_dreambooth.evaluation.generation.report import _difference
from persam_dreambooth.evaluation.generation.table import estimate
from persam_dreambooth.segmentation import ImageEncoder
from tests.scene import scene

EAST, NORTH, WEST, NORTHEAST = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0.6, 0.8]])


def random_features(seed, count, width=7):
    return normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_by_hand():
    real = torch.stack([EAST, NORTH])
    assert measures.similarity(torch.stack([EAST, NORTHEAST, WEST]), real).tolist() == pytest.approx([0.5, 0.7, -0.5])
    assert measures.likeness_among(torch.stack([EAST, NORTH, WEST])).tolist() == pytest.approx([-0.5, 0, -0.5])
    assert measures.diversity(torch.stack([EAST, NORTH, WEST])) == pytest.approx((1 + 1 + 2) / 3)
    assert measures.diversity(EAST[None]) is None
    assert measures.diversity(torch.stack([EAST, EAST])) == 0
    assert measures.prompt_fidelity(real, torch.stack([NORTHEAST, NORTHEAST])).tolist() == pytest.approx([0.6, 0.8])
    assert measures.recognized(torch.stack([NORTHEAST, WEST]), real).tolist() == [1, 1]


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**31), count=st.integers(2, 6), reals=st.integers(1, 5), turn=st.permutations(range(7)))
def test_similarities_match_torchmetrics_and_do_not_depend_on_order(seed, count, reals, turn):
    generated, real = random_features(seed, count), random_features(seed + 1, reals)
    ours = measures.similarity(generated, real)
    torch.testing.assert_close(ours, pairwise_cosine_similarity(generated, real).mean(1))
    torch.testing.assert_close(ours.mean(), measures.similarity(real, generated).mean())  # a mean over all pairs
    torch.testing.assert_close(ours, measures.similarity(generated[:, turn], real[:, turn].flip(0)))
    among = pairwise_cosine_similarity(generated)  # zero on its diagonal
    torch.testing.assert_close(measures.likeness_among(generated), among.sum(1) / (count - 1))
    assert measures.diversity(generated) == pytest.approx(1 - float(among.sum()) / (count * (count - 1)), abs=1e-5)
    assert ours.abs().max() <= 1 + 1e-6 and -1e-6 <= measures.diversity(generated) <= 2 + 1e-6


def test_clip_t_equals_torchmetrics_clip_score(eyes):
    pictures = [scene(60, 80, seed)[0] for seed in range(3)]
    prompts = ["a disc in the snow", "a red disc", "something else altogether"]

    class Older(CLIPModel):
        """Returns tensors, as torchmetrics expects."""

        def get_image_features(self, *given):
            return super().get_image_features(*given).pooler_output

        def get_text_features(self, *given):
            return super().get_text_features(*given).pooler_output

    def theirs(turned):
        model = Older.from_pretrained(eyes / "clip")
        model.visual_projection.weight.data *= turned
        return model, CLIPProcessor.from_pretrained(eyes / "clip")

    clip = Clip.from_pretrained(eyes / "clip", "cpu")
    ours = measures.prompt_fidelity(clip.encode(pictures), clip.encode_texts(prompts)).mean()
    tensors = [torch.from_numpy(picture).permute(2, 0, 1) for picture in pictures]
    with torch.no_grad():
        scores = [float(clip_score(tensors, prompts, lambda turned=turned: theirs(turned))) for turned in (1, -1)]
    # torchmetrics returns 100 * max(mean, 0); ours is negative where the negated model's is positive.
    assert scores == pytest.approx([100 * max(float(ours), 0), 100 * max(-float(ours), 0)], abs=1e-3)
    assert max(scores) > 0.1


def test_dino_feature_is_class_token_of_last_layer(eyes):
    picture = scene(60, 80)[0]
    encoder = ImageEncoder.from_pretrained(eyes / "dino", "cpu")
    pixels = encoder.processor([picture], return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 32, 32)
    with torch.no_grad():
        token = ViTModel.from_pretrained(eyes / "dino")(pixel_values=pixels).last_hidden_state[0, 0]
    torch.testing.assert_close(encoder.encode([picture])[0], token / token.norm())


@pytest.mark.parametrize(("prompts", "verdict"), [(2, ""), (7, ""), (8, "worse")])
def test_difference_over_few_prompts_is_not_called_significant(prompts, verdict):
    made = estimate([[-0.04 - 0.001 * number] for number in range(prompts)])
    assert _difference("dino", {"dino": made})["says"] == verdict
