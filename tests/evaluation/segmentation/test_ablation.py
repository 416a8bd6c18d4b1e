"""The ablations: each row is the method it is named after, each fit learns, and the SAM stays unchanged."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import SamMaskDecoderConfig
from transformers.models.sam.modeling_sam import SamMaskDecoder

from persam_dreambooth.errors import UserError
from persam_dreambooth.evaluation.segmentation import ablation, quoted
from persam_dreambooth.evaluation.segmentation.running import one_shot_method
from persam_dreambooth.segmentation import Method, PerSAM, Prompts, Reference, load_backbone, reference_from
from persam_dreambooth.segmentation.mask_weights import dice_and_focal
from persam_dreambooth.torch_utils import weights_checksum
from random_models import random_sam
from tests.parity.recorded_sam import original
from tests.scene import scene

PHOTO = scene(90, 150, seed=1)[0]
TUNERS = {"prompt-tokens": ablation.prompt_tokens, "adapters": ablation.adapters, "lora": ablation.lora}
PERSAM_F = Method.persam_f()


@pytest.fixture(scope="module")
def backbone():
    return load_backbone(random_sam(), device="cpu")


def mask_by(method, backbone):
    """The method's mask of a photo, learned from another."""
    (photo,) = PerSAM(backbone).encode([PHOTO])
    return method([Reference(*scene(90, 150))])(photo)


def expected(backbone, method, reference=None):
    persam = PerSAM(backbone, method)
    return persam.segment(PHOTO, persam.personalize(reference or Reference(*scene(90, 150)))).mask


# Tables 4 and 6


def test_each_ablation_step_adds_one_technique():
    techniques = ("negative_prior", "refinement", "guided_attention", "semantic_prompting")
    switched = [[getattr(method, name) for name in techniques] for method in ablation.ladder("corrected").values()]
    assert switched[:5] == [[number < steps for number in range(4)] for steps in range(5)]
    assert ablation.ladder("official")["persam"] == Method("official")
    assert ablation.ladder("official")["persam-f"] == Method.persam_f("official")
    printed = [ablation.ladder(fidelity)["persam-f-printed"] for fidelity in ("corrected", "paper")]
    assert [replace(method, mask_weights=False) for method in printed] == [Method(), Method("paper")]
    assert printed[1] == Method.persam_f("paper")


def test_every_row_of_every_table_can_be_built_and_run(backbone):
    names = ablation.methods_of(list(ablation.TABLES))
    built = ablation.build(names, backbone, "corrected", steps=2)
    assert set(built) == set(names) == {name for table in ablation.TABLES.values() for name in table}
    assert set(quoted.ABLATIONS) <= set(names)
    for name, method in built.items():
        assert mask_by(method, backbone).shape == PHOTO.shape[:2], name


def test_evaluated_method_equals_persam(backbone):
    for method in ablation.ladder("corrected").values():
        np.testing.assert_array_equal(
            mask_by(one_shot_method(PerSAM(backbone, method)), backbone), expected(backbone, method)
        )


def test_box_reference_is_sams_mask_of_tight_box(backbone):
    image, disc = scene(90, 150)
    rows, columns = np.flatnonzero(disc.any(1)), np.flatnonzero(disc.any(0))
    box = [columns[0], rows[0], columns[-1], rows[-1]]
    reference = reference_from(PerSAM(backbone), image, box=box)
    assert not np.array_equal(reference.foreground, disc)
    found = mask_by(one_shot_method(PerSAM(backbone, Method()), box=True), backbone)
    np.testing.assert_array_equal(found, expected(backbone, Method(), reference))
    assert not np.array_equal(found, expected(backbone, Method()))


# Table 5


def reference_loss(backbone, decoder):
    """Compute the loss of a decoder's three masks, equally weighted, against the reference mask it is fitted to."""
    reference = Reference(*scene(90, 150))
    subject, photo = ablation._at_thirds(PerSAM(backbone, PERSAM_F), reference)
    question, foreground = ablation._question(photo, subject), ablation._foreground(reference, photo)
    with ablation._in_place(backbone, decoder):
        logits, _ = backbone.decode(photo.embedding, question, multimask=True)
    return dice_and_focal(photo.frame.to_original(logits).mean(0), foreground)


# The families differ in how the decoder receives its tokens, which matters to prompt tuning only.
@pytest.mark.parametrize(
    ("make", "name"),
    [*((random_sam, name) for name in TUNERS), (original, "prompt-tokens")],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_tuned_decoder_fits_reference_better_and_leaves_sam_unchanged(make, name):
    backbone = load_backbone(make(), device="cpu")
    before, decoder = weights_checksum(backbone._model), backbone._model.mask_decoder
    losses = []
    for steps in (0, 4):
        find = ablation.tuned_decoder(backbone, PERSAM_F, TUNERS[name], steps)([Reference(*scene(90, 150))])
        inside = [cell.cell_contents for cell in find.__closure__]
        (copied,) = (cell for cell in inside if isinstance(cell, torch.nn.Module))
        losses.append(reference_loss(backbone, copied))
    assert losses[1] < losses[0] - 5e-5
    assert backbone._model.mask_decoder is decoder
    assert weights_checksum(backbone._model) == before
    assert not any(weight.requires_grad for weight in backbone._model.parameters())


def test_untrained_adapters_and_lora_change_nothing(backbone):
    nothing = mask_by(ablation.tuned_decoder(backbone, PERSAM_F, None), backbone)
    for tuner in (ablation.adapters, ablation.lora):
        np.testing.assert_array_equal(
            mask_by(ablation.tuned_decoder(backbone, PERSAM_F, tuner, steps=0), backbone), nothing
        )


def test_tuned_decoder_differs_and_is_deterministic(backbone):
    nothing = mask_by(ablation.tuned_decoder(backbone, PERSAM_F, None), backbone)
    for tuner in (ablation.lora, ablation.adapters, ablation.prompt_tokens):
        found = mask_by(ablation.tuned_decoder(backbone, PERSAM_F, tuner, steps=8), backbone)
        assert not np.array_equal(found, nothing)
    again = mask_by(ablation.tuned_decoder(backbone, PERSAM_F, ablation.prompt_tokens, steps=8), backbone)
    np.testing.assert_array_equal(again, found)


def test_only_added_weights_are_fitted(backbone):
    width, blocks = 32, 2
    expected = {
        "prompt-tokens": blocks * ablation.PROMPT_TOKENS * width,
        "adapters": blocks * 2 * width * ablation.ADAPTER_WIDTH,
    }
    for name, tuner in TUNERS.items():
        decoder = load_backbone(random_sam(), device="cpu")._model.mask_decoder
        tuner(decoder.transformer)
        count = sum(weight.numel() for weight in decoder.parameters() if weight.requires_grad)
        assert count == expected.get(name, count)
        assert count > 0


@pytest.mark.parametrize(("name", "thousands"), [("prompt-tokens", 12), ("adapters", 196), ("lora", 293)])
def test_decoder_of_sams_size_gets_the_papers_number_of_parameters(name, thousands):
    decoder = SamMaskDecoder(SamMaskDecoderConfig()).requires_grad_(False)
    TUNERS[name](decoder.transformer)
    count = sum(weight.numel() for weight in decoder.parameters() if weight.requires_grad)
    assert count // 1000 == thousands
    assert f"({thousands}K)" in ablation.TABLES["5"][name]


def test_each_block_has_prompt_tokens_of_its_own():
    backbone = load_backbone(random_sam(), device="cpu")
    decoder = backbone._model.mask_decoder
    (photo,) = PerSAM(backbone).encode([PHOTO])
    prompts = Prompts(torch.tensor([[64.0, 40.0]]), torch.tensor([1]))
    ablation.prompt_tokens(decoder.transformer)
    logits = []
    for block in (None, 0, 1):
        with torch.no_grad():
            decoder.transformer.prompt_tokens.zero_()
            if block is not None:
                decoder.transformer.prompt_tokens[block] += 1
        logits.append(backbone.decode(photo.embedding, prompts, multimask=True)[0])
    for other in (1, 2):
        assert (logits[other] - logits[0]).abs().max() > 1e-3
    assert (logits[1] - logits[2]).abs().max() > 1e-3


def test_three_weights_need_not_sum_to_one_and_beat_thirds():
    # Three masks: the first is the truth, the second its inverse and the third empty.
    true = torch.from_numpy(scene(20, 30)[1]).float()
    logits = torch.stack([2 * true - 1, 1 - 2 * true, torch.full_like(true, -0.5)])
    weights = ablation.fit_three_weights(logits, true, steps=100)
    assert weights[0] > 1 / 3 > weights[1]
    assert abs(weights.sum() - 1) > 1e-2
    before, after = (
        dice_and_focal(torch.einsum("k,khw->hw", mix, logits), true) for mix in (torch.full((3,), 1 / 3), weights)
    )
    assert after < before


def test_backbone_without_replaceable_decoder_is_refused_immediately():
    class Other:
        name = "another"

    with pytest.raises(UserError, match=r"another cannot be replaced.*leave 5 out"):
        ablation.build(["lora"], Other(), "corrected", steps=1)
