"""The attention loss on transformers: the picture's attention to the words, in joint attention."""

import math
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from persam_dreambooth.errors import UserError
from persam_dreambooth.training import objective
from persam_dreambooth.training.data.dataset import InstancePhoto, Region
from persam_dreambooth.training.families.chat_prompts import ChatPrompts
from persam_dreambooth.training.families.joint_attention import LAYERS, JointAttention, recorded
from persam_dreambooth.training.families.loading import token_ids
from persam_dreambooth.training.objective import training_loss
from tests.training.runs import train
from tests.training.small import batch_for, make, noised_for, tokenized, trained_parameters
from tests.training.test_background_prior import logged

ON = {"attention_loss_weight": 0.5, "identifier": "sks"}
JOINT = ["sd3", "flux", "flux2-klein", "qwen-image", "z-image"]  # Flux.2's transformer is that of Klein
every_transformer = pytest.mark.parametrize("base", JOINT, indirect=True)


def family_and_batch(base, model=None, class_images=False, weight=0.5):
    config, family = make(base, model or {}, ON | {"attention_loss_weight": weight})
    torch.manual_seed(3)
    for parameter in trained_parameters(family):
        parameter.data += 0.02 * torch.randn_like(parameter)  # zero-initialized weights would pass no gradient
    places = places_of(family, config, "a sks dog", "sks")
    return config, family, batch_for(family, class_images)._replace(places=[(places,), (places,)])


def places_of(family, config, prompt, phrase):
    photo = InstancePhoto(Path("a.png"), (Region(Path("m.png"), phrase),), (8, 8), (8, 8), prompt)
    (photo,) = objective.with_places([photo], [type("Subject", (), {"identifier": None})], type(family), config.model)
    return photo.regions[0].places


def blocks_of(family):
    return getattr(family.transformer, "transformer_blocks", None) or family.transformer.layers


def predict(family, batch, config, count=2, shape=(16, 16)):
    torch.manual_seed(4)
    noised = noised_for(family, config, torch.randn(count, 4, *shape))
    noised.noisy.requires_grad_()
    with family.record_attention() as seen:
        prediction = family.predict(noised, family.encode_prompt(batch.prompt))
    return seen, prediction, noised


@every_transformer
def test_shares_match_written_out_attention(base, monkeypatch):
    """An attention that is written out instead of fused: the same prediction, and the rows of its softmax."""
    config, family, batch = family_and_batch(base)
    seen, prediction, noised = predict(family, batch, config)
    rows, prompt = [], family.encode_prompt(batch.prompt)
    positions = 8 * 8
    length = -(-prompt["embeds"].shape[1] // seen.multiple) * seen.multiple
    words = [[(token,) for token in range(length)]] * 2
    ours = seen.shares(words, positions).view(2, length, positions).mT
    few = seen.shares([[(0, 2)], [(1,), (2,)]], positions)  # few enough for fused attention

    def written_out(query, key, value, **_):
        found = (query @ key.mT / math.sqrt(query.shape[-1])).softmax(-1)
        rows.append(found)
        return found @ value

    monkeypatch.setattr(F, "scaled_dot_product_attention", written_out)
    expected = family.predict(noised, prompt)
    torch.testing.assert_close(expected, prediction, rtol=1e-4, atol=1e-5)
    joint = [found for found in rows if found.shape[-1] == positions + length][: len(blocks_of(family))]
    if seen.text_first:
        theirs = [found[:, :, length:, :length].mean(1) for found in joint]
    else:
        theirs = [found[:, :, :positions, positions:].mean(1) for found in joint]
    assert len(joint) == len(blocks_of(family)) == seen.calls and ours.shape == (2, positions, length)
    torch.testing.assert_close(ours, torch.stack(theirs).mean(0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(few, torch.stack([ours[0][:, [0, 2]].mean(1), ours[1][:, 1], ours[1][:, 2]]))
    assert ours.std(1).max() > 1e-5  # uniform maps would prove nothing


@every_transformer
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_recording_leaves_prediction_bit_identical(base, dtype):
    config, family, batch = family_and_batch(base, {"use_lora": True, "rank": 4})
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        _, seen, noised = predict(family, batch, config)
        plain = family.predict(noised, family.encode_prompt(batch.prompt))
    assert torch.equal(seen, plain)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in family.transformer.modules())


@pytest.mark.parametrize("text_first", [True, False])
def test_map_by_hand(text_first):
    """Two positions and one word: the picture's queries are 0 and log 3, the word's key 1, the others' 0."""
    queries, keys = [0.0, math.log(3)], [0.0, 0.0]
    queries, keys = ([9.0, *queries], [1.0, *keys]) if text_first else ([*queries, 9.0], [*keys, 1.0])
    query, key = (torch.tensor(values).view(1, 1, 3, 1) for values in (queries, keys))
    seen = JointAttention(1, text_first, 1, 2, [query, query], [key, key], [None, None])
    torch.testing.assert_close(seen.shares([((0,),)], 2), torch.tensor([[1 / 3, 3 / 5]]))
    torch.testing.assert_close(seen.maps([((0,),)], (2, 3)), torch.tensor([[[[5 / 9, 1.0]]]]))


def test_another_attention_than_torchs_is_refused():
    with pytest.raises(UserError, match="unset DIFFUSERS_ATTN_BACKEND"):
        JointAttention(1, True, calls=1).maps([((0,),)], (2, 2))


@every_transformer
def test_maps_have_the_packed_grid(base):
    config, family, batch = family_and_batch(base)
    seen, *_ = predict(family, batch, config, shape=(8, 12))
    found = seen.maps([batch.places[0] * 2, batch.places[1]], (8, 12))
    assert found.shape == (3, 1, 4, 6) and torch.equal(found.amax((1, 2, 3)), torch.ones(3)) and found.min() > 0


def test_layers_are_those_in_the_middle():
    layers = torch.nn.ModuleList(torch.nn.Identity() for _ in range(19))
    with recorded(list(layers), text_first=True):
        chosen = [number for number, layer in enumerate(layers) if layer._forward_hooks]
    assert chosen == [7, 8, 9, 10] and len(chosen) == LAYERS


@every_transformer
def test_gradient_reaches_queries_and_keys_but_nothing_behind_them(base):
    config, family, batch = family_and_batch(base, class_images=True)
    seen, _, noised = predict(family, batch, config, count=4)
    objective.attention_loss(seen, batch, (16, 16), config.mask).backward()
    weights = [
        (name.split(".")[1], weight)
        for name, weight in blocks_of(family)[-1].named_parameters()
        if name.startswith(("attn.", "attention."))
    ]
    assert {name for name, weight in weights if moved(weight)} == {
        *("to_q", "to_k", "add_k_proj", "norm_q", "norm_k", "norm_added_k")
    } & {name for name, _ in weights}
    transformer = family.transformer
    last = transformer.proj_out if hasattr(transformer, "proj_out") else transformer.all_final_layer
    behind = [last, *getattr(transformer, "single_transformer_blocks", [])]
    assert not any(moved(weight) for module in behind for weight in module.parameters())
    assert noised.noisy.grad[:2].any() and (noised.noisy.grad[2:] == 0.0).all()


def moved(weight):
    return weight.grad is not None and bool(weight.grad.any())


@every_transformer
def test_checkpointing_leaves_gradients_unchanged(base):
    gradients, losses = [], []
    for checkpointing in (False, True):
        model = {"use_lora": True, "rank": 4, "gradient_checkpointing": checkpointing}
        torch.manual_seed(2)
        config, family, batch = family_and_batch(base, model, weight=10.0)
        family.transformer.train()  # nothing is checkpointed in eval mode
        torch.manual_seed(1)
        loss, _ = training_loss(family, batch, config)
        loss.backward()
        losses.append(loss.detach())
        gradients.append([weight.grad for weight in trained_parameters(family)])
    assert torch.equal(*losses)
    for plain, checkpointed in zip(*gradients, strict=True):
        assert plain is checkpointed or torch.allclose(plain, checkpointed, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("base", ["sd3", "flux", "qwen-image", "z-image"], indirect=True)
def test_attention_moves_to_mask(base):
    config, family, batch = family_and_batch(base, {"use_lora": True, "rank": 4}, weight=1.0)
    optimizer = torch.optim.AdamW(trained_parameters(family), 1e-2)
    terms = []
    for _ in range(20):
        torch.manual_seed(1)
        loss, found = training_loss(family, batch, config)
        terms.append(found["attention_loss"].item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert terms[-1] < 0.8 * terms[0]


@every_transformer
def test_positions_are_those_of_the_encoded_prompt(base):
    """Another word in the phrase's place changes the tokens of the prompt at its positions and nowhere else."""
    config, family, _ = family_and_batch(base)
    tokens = [seen_tokens(family, config, prompt) for prompt in ("a sks dog", "a xyz dog")]
    assert len(tokens[0]) == family.encode_prompt(family.tokenize("a sks dog"))["embeds"].shape[1]
    changed = (tokens[0] != tokens[1]).nonzero().flatten().tolist()
    places = places_of(family, config, "a sks dog", "sks")
    assert changed and set(changed) <= set(places)  # T5's place also has the mark of a word's beginning
    assert len(places) <= len(changed) + 1 or base.name == "sd3"


def seen_tokens(family, config, prompt):
    if isinstance(family, ChatPrompts):
        return family.tokenize(prompt)["input_ids"][0, family.start :]
    tokenizers = family.prompt_tokenizers(config.model)
    return torch.cat([token_ids(tokenizer, prompt, length).input_ids[0] for tokenizer, length in tokenizers])


@pytest.mark.parametrize("base", ["qwen-image", "z-image"], indirect=True)
def test_padding_of_shorter_prompts_changes_no_attention(base):
    """In a batch with a longer prompt, padding is masked, so that a photo's map stays as it is alone."""
    config, family, batch = family_and_batch(base)
    prompts = ["a sks dog", "a sks dog that sleeps on " + "a very " * 9 + "old sofa"]
    places = [(places_of(family, config, prompt, "sks"),) for prompt in prompts]
    found = []
    for own in (prompts, prompts[:1] * 2):
        seen, *_ = predict(family, batch._replace(prompt=tokenized(family, own)), config)
        found.append(seen.maps([places[0]], (16, 16)))
    assert seen.masks[0] is None
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def test_resumed_run_equals_uninterrupted_one(flags, pipelines):
    """Qwen-Image, with prompts of two lengths in a batch."""
    Path("photos/00.txt").write_text("a sks dog and much else")
    own = {"attention_loss_weight": 0.5, "identifier": "sks", "caption_extension": ".txt", "checkpointing_steps": 1}
    own |= {"pretrained_model_name_or_path": pipelines / "qwen-image", "max_train_steps": 3, "train_batch_size": 2}
    switches = ("--use_lora", "--pre_compute_text_embeddings")
    assert train(flags, *switches, output_dir="whole", **own) == 0
    assert train(flags, *switches, **own | {"max_train_steps": 1}) == 0
    assert train(flags, *switches, resume_from_checkpoint="latest", **own) == 0
    assert logged("attention_loss") == logged("attention_loss", "whole") and min(logged("attention_loss")) > 0
    expected, resumed = (load_file(Path(name) / "pytorch_lora_weights.safetensors") for name in ("whole", "output"))
    assert all(torch.equal(expected[key], resumed[key]) for key in expected)


@pytest.mark.parametrize("name", ["sd3", "flux2", "z-image"])
def test_trains_with_regions(flags, pipelines, name):
    for phrase, masks in (("sks", "masks"), ("dog", "masks")):
        shutil.copytree(masks, f"regions/{phrase}")
    own = {"instance_mask_dir": None, "region_mask_dir": "regions", "attention_loss_weight": 0.5}
    own |= {"pretrained_model_name_or_path": pipelines / name, "mixed_precision": "bf16", "max_train_steps": 2}
    switches = ("--use_lora", "--cache_latents", "--pre_compute_text_embeddings", "--gradient_checkpointing")
    assert train(flags, *switches, **own) == 0
    terms = {term: logged(term) for term in ("loss", "instance_loss", "attention_loss")}
    sums = [a + 0.5 * b for a, b in zip(terms["instance_loss"], terms["attention_loss"], strict=True)]
    assert min(terms["attention_loss"]) > 0 and terms["loss"] == pytest.approx(sums, rel=1e-5)
    assert Path("output/pytorch_lora_weights.safetensors").exists()
