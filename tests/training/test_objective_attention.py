"""The attention loss: the identifier's cross-attention against the mask."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers.models.attention_processor import Attention
from safetensors.torch import load_file

from persam_dreambooth.training import objective
from persam_dreambooth.training.config import MaskConfig
from persam_dreambooth.training.data.dataset import Batch
from persam_dreambooth.training.families import cross_attention
from persam_dreambooth.training.objective import training_loss
from tests.parity.diffusers_cases import logged_losses
from tests.training.runs import launch, train
from tests.training.small import KINDS, batch_for, make, noised_for, trained_parameters
from tests.training.test_background_prior import SWITCHES, drifted_family, logged

ON = {"attention_loss_weight": 0.5, "identifier": "sks"}
POSITIONS = (2, 3, 4)  # "<|startoftext|> a s k s d o g": the small models' tokens are letters
every_kind = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "dora"])
every_unet = pytest.mark.parametrize("base", ["epsilon", "sdxl"], indirect=True)


def family_and_batch(base, kind="full", class_images=False, model=None, mask=None, **groups):
    config, family = make(base, KINDS[kind] | (model or {}), ON | (mask or {}), **groups)
    torch.manual_seed(3)
    for weight in trained_parameters(family):
        weight.data += 0.02 * torch.randn_like(weight)  # zero-initialized adapters would pass no gradient
    return config, family, batch_for(family, class_images)._replace(places=[(POSITIONS,), (POSITIONS,)])


def record_attention(family, batch, config, count=2):
    torch.manual_seed(4)
    noised = noised_for(family, config, torch.randn(count, 4, 16, 16))
    noised.noisy.requires_grad_()
    with cross_attention.recorded(family.unet) as seen:
        prediction = family.predict(noised, family.encode_prompt(batch.prompt))
    return seen, prediction, noised


def test_attention_loss_by_hand():
    """Two positions and two tokens: attention to the first is 1/2 and 3/4, relative to its maximum 2/3 and 1."""
    layer = Attention(query_dim=1, heads=1, dim_head=1)
    query = torch.tensor([[[0.0], [math.log(3)]]])
    seen = cross_attention.CrossAttention(0, [layer], [query.repeat(2, 1, 1)], [torch.tensor([[[1.0], [0.0]]] * 2)])
    mask = torch.tensor([[[[1.0, 0.0]]]] * 2)
    batch = Batch(["first.png", "second.png"], mask, torch.ones(2), {}, places=[((0,),), ((0, 1),)])
    config = MaskConfig(instance_mask_dir="masks", **ON)
    torch.testing.assert_close(seen.probabilities(2)[0], torch.tensor([[0.5, 0.5], [0.75, 0.25]]))
    # Summed over both tokens the positions are equal: (1, 1) against (1, 0).
    first, second = ((1 / 3) ** 2 + 1) / 2, 1 / 2
    for weights in ((1.0, 1.0), (1.0, 0.25)):
        term = objective.attention_loss(seen, batch._replace(weight=torch.tensor(weights)), (1, 2), config)
        assert term.item() == pytest.approx((weights[0] * first + weights[1] * second) / 2)


@every_unet
@every_kind
def test_gradient_reaches_queries_keys_and_text_but_not_class_images(base, kind):
    config, family, batch = family_and_batch(base, kind, class_images=True)
    seen, _, noised = record_attention(family, batch, config, count=4)
    objective.attention_loss(seen, batch, (16, 16), config.mask).backward()
    reached = {
        name
        for part, module in family.trained().items()
        for name in (
            f"{part}.{key}"
            for key, weight in module.named_parameters()
            if weight.grad is not None and weight.grad.any()
        )
    }
    assert any("attn2.to_q" in name for name in reached) and any("attn2.to_k" in name for name in reached)
    assert any(name.startswith("text_encoder") for name in reached) == ("text" in kind)
    assert noised.noisy.grad[:2].any() and (noised.noisy.grad[2:] == 0.0).all()


@every_unet
@every_kind
def test_background_prior_is_not_recorded(base, kind):
    terms = {}
    for prior in (0.0, 1.0):
        mask = ON | {"background_prior_weight": prior}
        config, family, batch = drifted_family(base, kind, prior, mask=mask)
        torch.manual_seed(1)
        _, terms[prior] = training_loss(family, batch._replace(places=[(POSITIONS,), (POSITIONS,)]), config)
    assert terms[1.0]["background_prior_loss"] > 0
    assert torch.equal(terms[0.0]["attention_loss"], terms[1.0]["attention_loss"])


@every_unet
@every_kind
def test_checkpointing_leaves_gradients_unchanged(base, kind):
    gradients, losses = {}, {}
    for checkpointing in (False, True):
        model = {"gradient_checkpointing": checkpointing}
        torch.manual_seed(2)
        config, family, batch = family_and_batch(base, kind, model=model, mask={"attention_loss_weight": 10.0})
        for part in family.trained().values():
            part.train()  # nothing is checkpointed in eval mode
        torch.manual_seed(1)
        loss, _ = training_loss(family, batch, config)
        loss.backward()
        losses[checkpointing] = loss.detach()
        gradients[checkpointing] = [weight.grad for weight in trained_parameters(family)]
    assert torch.equal(losses[False], losses[True])
    for plain, checkpointed in zip(gradients[False], gradients[True], strict=True):
        assert plain is checkpointed or torch.allclose(plain, checkpointed, rtol=1e-4, atol=1e-7)


@every_unet
def test_recording_draws_no_extra_dropout(base):
    """Queries and keys do not go through LoRA's dropout twice: the generator ends in the same state."""
    states = []
    for weight in (0.0, 1.0):
        torch.manual_seed(2)
        config, family, batch = family_and_batch(
            base, "lora", model={"lora_dropout": 0.3}, mask={"attention_loss_weight": weight}
        )
        family.unet.train()
        torch.manual_seed(1)
        _, terms = training_loss(family, batch, config)
        states.append((torch.get_rng_state(), terms["instance_loss"]))
    assert all(torch.equal(without, with_term) for without, with_term in zip(*states, strict=True))


@every_unet
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_attention_moves_to_mask(base, kind):
    config, family, batch = family_and_batch(base, kind, mask={"attention_loss_weight": 1.0})
    optimizer = torch.optim.AdamW(trained_parameters(family), 1e-2)
    terms = []
    for _ in range(20):
        torch.manual_seed(1)
        _, found = training_loss(family, batch, config)
        terms.append(found["attention_loss"].item())
        torch.manual_seed(1)
        training_loss(family, batch, config)[0].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert terms[-1] < 0.7 * terms[0]


@every_kind
def test_zero_weight_equals_flag_unset(flags, kind):
    weights = {}
    for name, more in {"without": {}, "zero": ON | {"attention_loss_weight": 0}, "on": ON}.items():
        assert train(flags, *SWITCHES[kind], **more, output_dir=name) == 0
        AcceleratorState._reset_state(reset_partial_state=True)
        (path,) = [path for path in Path(name).rglob("*.safetensors") if "unet" in path.parts or "lora" in path.name]
        weights[name] = load_file(path)
    assert all(torch.equal(weight, weights["zero"][key]) for key, weight in weights["without"].items())
    assert not all(torch.equal(weight, weights["on"][key]) for key, weight in weights["without"].items())
    with pytest.raises(KeyError):
        logged("attention_loss", "zero")


@every_kind
def test_combines_with_all_other_options(flags, kind):
    """Class images, background prior, accumulation, checkpointing and bf16: the loss is the sum of its terms."""
    shutil.copytree("photos", "class")
    together = {"class_data_dir": "class", "class_prompt": "a dog", "num_class_images": 2, "snr_gamma": 5.0}
    together |= {"background_prior_weight": 0.5, "gradient_accumulation_steps": 2, "mixed_precision": "bf16"}
    switches = ("--with_prior_preservation", "--gradient_checkpointing", "--cache_latents", *SWITCHES[kind])
    assert train(flags, *switches, **ON, **together) == 0
    names = ("instance_loss", "background_prior_loss", "attention_loss", "prior_loss")
    values = {name: logged(name) for name in ("loss", *names)}
    assert len(values["loss"]) == 4 and min(values["attention_loss"]) > 0
    rows = zip(*(values[name] for name in names), strict=True)
    sums = [instance + 0.5 * background + 0.5 * attended + prior for instance, background, attended, prior in rows]
    assert values["loss"] == pytest.approx(sums, rel=1e-5)
    assert "attention loss weight 0.5" in Path("output/README.md").read_text()


def test_precomputed_and_cached_prompts_give_same_loss(flags):
    assert train(flags, **ON, output_dir="each-step") == 0
    for name in ("fresh", "kept"):
        cached = ("--pre_compute_text_embeddings", "--training_cache=cache")
        assert train(flags, *cached, **ON, output_dir=name) == 0
        assert logged("attention_loss", name) == pytest.approx(logged("attention_loss", "each-step"), rel=1e-4)


def test_two_processes_equal_one(flags):
    switches = ("--use_lora", "--seed_each_batch", "--train_text_encoder")
    common = {key: str(value) for key, value in flags.items()} | ON | {"train_batch_size": 1, "learning_rate": 1e-3}
    assert train(common, *switches, output_dir="one", gradient_accumulation_steps=2) == 0
    launch(2, common | {"output_dir": "two"}, *switches)
    assert logged("attention_loss", "two") == pytest.approx(logged("attention_loss", "one"), abs=1e-5)
    assert logged_losses(Path("two")) == pytest.approx(logged_losses(Path("one")), abs=1e-5)


def test_captions_and_identifiers_per_subject(flags):
    """Two subjects with their own identifiers; one subject's captions have it in different positions."""
    shutil.copytree("photos", "others")
    Path("others/00.txt").write_text("the best of all photos of zwx")
    entries = [
        {"instance_data_dir": "photos", "instance_prompt": "a sks dog", "identifier": "sks"},
        {
            "instance_data_dir": "others",
            "instance_prompt": "a zwx cat",
            "identifier": "zwx",
            "caption_extension": ".txt",
        },
    ]
    Path("concepts.json").write_text(json.dumps([entry | {"instance_mask_dir": "masks"} for entry in entries]))
    two_subjects = flags | {"instance_data_dir": None, "instance_prompt": None, "concepts_list": "concepts.json"}
    two_subjects["instance_mask_dir"] = None
    assert train(two_subjects, attention_loss_weight=0.1) == 0
    assert min(logged("attention_loss")) > 0
    assert train(two_subjects, **ON, output_dir="wrong") == 0  # an entry's own identifier overrides the flag
    entries[1]["identifier"] = "sks"
    Path("concepts.json").write_text(json.dumps([entry | {"instance_mask_dir": "masks"} for entry in entries]))
    assert train(two_subjects, **ON, output_dir="refused") == 2 and not Path("refused").exists()


REFUSED = [
    ({"attention_loss_weight": 0.1}, "needs --identifier"),
    ({"attention_loss_weight": 0.1, "identifier": " "}, "needs --identifier"),
    ({"attention_loss_weight": -1, "identifier": "sks"}, "must be at least 0"),
    ({"attention_loss_weight": "nan", "identifier": "sks"}, "must be at least 0"),
    (ON | {"identifier": "zwx"}, "00.png, 'a sks dog', does not contain --identifier zwx"),
    (ON | {"tokenizer_max_length": 3}, "does not contain --identifier sks"),
    (ON | {"torch_compile": "--"}, "--torch_compile exclude each other"),
    (ON | {"instance_mask_dir": None, "no_masked_loss": "--"}, "needs masks"),
]


@pytest.mark.parametrize(("given", "words"), REFUSED)
def test_invalid_settings_are_refused_in_one_line(flags, capsys, given, words):
    switches = [f"--{key}" for key, value in given.items() if value == "--"]
    assert train(flags, *switches, **{key: value for key, value in given.items() if value != "--"}) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(lines) == 1 and words in lines[0] and not Path("output").exists()
