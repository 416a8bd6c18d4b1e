"""Guidance of a mask decoder: it changes what the paper says, nothing else, and is removed completely."""

import copy

import numpy as np
import pytest
import torch
from segment_anything.modeling.transformer import Attention
from transformers import SamMaskDecoderConfig
from transformers.models.sam.modeling_sam import SamAttention

from persam_dreambooth.segmentation import Prompts, load_backbone
from persam_dreambooth.segmentation.guidance import Guidance, guided, guided_attention
from random_models import random_sam
from tests.parity import recorded_sam

CROSS_ATTENTION = {f"layers.{number}.cross_attn_token_to_image" for number in range(2)}


class Prompted:
    """A SAM with a seeded image embedding, a prompt and guidance of the right sizes."""

    def __init__(self, model, width, grid):
        self.model, self.backbone = model, load_backbone(model, device="cpu")
        random = torch.Generator().manual_seed(0)
        self.embedding = torch.randn(width, grid, grid, generator=random)
        self.bias = torch.rand(grid * grid, generator=random) * 20
        self.target = torch.randn(width, generator=random)
        side = self.backbone.image_size
        self.prompts = Prompts(torch.tensor([[0.3, 0.4], [0.9, 0.1]]) * side, torch.tensor([1, 0]))

    @property
    def decoder(self):
        return self.model.mask_decoder

    def decode(self, guidance=None):
        return self.backbone.decode(self.embedding, self.prompts, multimask=True, guidance=guidance)

    def both(self):
        return Guidance(self.bias, self.target)


@pytest.fixture(params=["transformers", "segment-anything"])
def prompted(request):
    if request.param == "transformers":
        return Prompted(random_sam(), width=32, grid=8)
    return Prompted(recorded_sam.original(), width=recorded_sam.PROMPT_WIDTH, grid=64)


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def hooks_in(module):
    """List the hooks of every kind on a module and its submodules."""
    kinds = [name for name in vars(module) if "_hooks" in name]
    assert "_forward_hooks" in kinds
    return [hook for part in module.modules() for kind in kinds for hook in getattr(part, kind, None) or ()]


# Guidance is removed completely


@pytest.mark.parametrize("repeat", [True, False])
def test_weights_hooks_and_outputs_are_restored(prompted, repeat):
    weights, outputs = copy.deepcopy(prompted.decoder.state_dict()), prompted.decode()
    with_guidance = prompted.decode(Guidance(prompted.bias, prompted.target, repeat))
    assert not same(with_guidance, outputs)
    assert hooks_in(prompted.model) == []
    after = prompted.decoder.state_dict()
    assert list(after) == list(weights)
    assert all(torch.equal(after[name], weights[name]) for name in weights)
    assert same(prompted.decode(), outputs)


def test_exception_in_block_removes_guidance(prompted):
    outputs = prompted.decode()
    with pytest.raises(KeyError), guided(prompted.decoder, prompted.both()):
        assert hooks_in(prompted.decoder) != []
        raise KeyError
    assert hooks_in(prompted.decoder) == []
    assert same(prompted.decode(), outputs)


def test_exception_in_decoder_removes_guidance(prompted):
    outputs = prompted.decode()
    with pytest.raises(RuntimeError):
        prompted.decode(Guidance(attention_bias=prompted.bias[:-1], target_embedding=prompted.target))
    assert hooks_in(prompted.decoder) == []
    assert same(prompted.decode(), outputs)


def test_guidance_tensors_are_not_modified(prompted):
    bias, target, embedding = prompted.bias.clone(), prompted.target.clone(), prompted.embedding.clone()
    prompted.decode(prompted.both())
    assert same((prompted.bias, prompted.target, prompted.embedding), (bias, target, embedding))


# Empty guidance


def test_empty_guidance_changes_nothing(prompted):
    assert same(prompted.decode(Guidance(None, None)), prompted.decode())


@pytest.mark.parametrize("repeat", [True, False])
def test_zero_target_embedding_changes_nothing(prompted, repeat):
    assert same(prompted.decode(Guidance(None, torch.zeros_like(prompted.target), repeat)), prompted.decode())


def test_bias_and_embedding_each_change_masks(prompted):
    plain, biased, prompted, both = (
        prompted.decode(guidance)[0]
        for guidance in (None, Guidance(prompted.bias), Guidance(None, prompted.target), prompted.both())
    )
    masks = [plain, biased, prompted, both]
    assert not any(torch.equal(a, b) for number, a in enumerate(masks) for b in masks[:number])


def test_adding_embedding_once_differs_from_repeatedly(prompted):
    once, repeatedly = (prompted.decode(Guidance(None, prompted.target, repeat)) for repeat in (False, True))
    assert not same(once, repeatedly)


def test_embedding_added_once_is_added_to_every_token(prompted):
    """Equation 9: T^g = repeat(T_R) + concat(T_M, T_P), here added to the weights themselves."""
    found = prompted.decode(Guidance(None, prompted.target, repeat_embedding=False))
    decoder, prompts = prompted.decoder, prompted.model.prompt_encoder
    points = prompts.point_embeddings if hasattr(prompts, "point_embeddings") else prompts.point_embed
    for token in (decoder.iou_token, decoder.mask_tokens, *points, prompts.not_a_point_embed):
        token.weight += prompted.target
    for expected, actual in zip(prompted.decode(), found, strict=True):
        torch.testing.assert_close(expected, actual, atol=1e-3, rtol=1e-3)


# Where guidance enters the decoder


def changed_in_isolation(prompted, guidance):
    """Return the names of the transformer's modules whose output for the same inputs changes with guidance."""
    transformer, calls = prompted.decoder.transformer, {}
    names = {module: name for name, module in transformer.named_modules()}

    def record(module, args, kwargs, output):
        calls[module] = (args, kwargs, output)

    recorders = [module.register_forward_hook(record, with_kwargs=True) for module in names]
    prompted.decode()
    for recorder in recorders:
        recorder.remove()
    assert {names[module] for module in calls} >= CROSS_ATTENTION | {"", "layers.1", "final_attn_token_to_image"}

    def outputs_of(module):
        args, kwargs, _ = calls[module]
        output = module(*args, **kwargs)
        return [part for part in (output if isinstance(output, tuple) else (output,)) if part is not None]

    with torch.no_grad():
        plain = {module: outputs_of(module) for module in calls}
        with guided(prompted.decoder, guidance):
            return {names[module] for module in calls if not same(outputs_of(module), plain[module])}


def test_bias_affects_only_token_to_image_attention_of_blocks(prompted):
    containers = {"", "layers.0", "layers.1"}
    assert changed_in_isolation(prompted, Guidance(prompted.bias)) == CROSS_ATTENTION | containers


def test_repeated_embedding_enters_each_block_and_final_query(prompted):
    changed = changed_in_isolation(prompted, Guidance(None, prompted.target, repeat_embedding=True))
    assert changed == {"", "layers.1", "final_attn_token_to_image"}


def test_embedding_added_once_enters_first_block_only(prompted):
    changed = changed_in_isolation(prompted, Guidance(None, prompted.target, repeat_embedding=False))
    assert changed == {""}


# Equation 8


def attention_layer(family, width, heads):
    torch.manual_seed(0)
    if family == "segment-anything":
        return Attention(width, heads, downsample_rate=2)
    return SamAttention(
        SamMaskDecoderConfig(hidden_size=width, num_attention_heads=heads, attention_downsample_rate=2)
    )


def softmax(values):
    weights = np.exp(values - values.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def by_hand(layer, query, key, value, bias, heads):
    """Compute equation 8 on (tokens, C) and (cells, C) arrays, one head at a time."""
    q, k, v = (
        tensor.numpy() @ projection.weight.numpy().T + projection.bias.numpy()
        for tensor, projection in ((query, layer.q_proj), (key, layer.k_proj), (value, layer.v_proj))
    )
    size = q.shape[-1] // heads
    outputs = []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        attention = softmax(q[:, part] @ k[:, part].T / np.sqrt(size))
        outputs.append(softmax(attention + bias.numpy()) @ v[:, part])
    return np.concatenate(outputs, axis=-1) @ layer.out_proj.weight.numpy().T + layer.out_proj.bias.numpy()


@torch.no_grad()
@pytest.mark.parametrize("family", ["transformers", "segment-anything"])
@pytest.mark.parametrize("heads", [1, 2])
def test_guided_attention_is_equation_8(family, heads):
    layer = attention_layer(family, width=8, heads=heads)
    query, key, value = torch.randn(3, 8), torch.randn(5, 8), torch.randn(5, 8)
    bias = torch.tensor([0, 1, -2, 3, 0.5])
    leading = (None, None) if family == "transformers" else (None,)
    found = guided_attention(layer, query[leading], key[leading], value[leading], bias)
    assert found.shape == (1,) * len(leading) + (3, 8)
    np.testing.assert_allclose(
        found.reshape(3, 8), by_hand(layer, query, key, value, bias, heads), rtol=1e-5, atol=1e-6
    )


@torch.no_grad()
@pytest.mark.parametrize("family", ["transformers", "segment-anything"])
def test_large_bias_makes_every_token_attend_to_its_cell(family):
    layer = attention_layer(family, width=8, heads=2)
    query, key, value = torch.randn(1, 1, 3, 8), torch.randn(1, 1, 5, 8), torch.randn(1, 1, 5, 8)
    bias = torch.tensor([0, 0, 0, 100.0, 0])
    found = guided_attention(layer, query, key, value, bias)
    only = layer.out_proj(layer.v_proj(value[..., 3:4, :]))
    torch.testing.assert_close(found, only.expand_as(found))


@torch.no_grad()
def test_both_families_give_same_guided_attention():
    ours, original = attention_layer("transformers", 8, 2), attention_layer("segment-anything", 8, 2)
    original.load_state_dict(ours.state_dict())
    query, key, value, bias = torch.randn(1, 3, 8), torch.randn(1, 5, 8), torch.randn(1, 5, 8), torch.randn(5)
    torch.testing.assert_close(
        guided_attention(ours, query[None], key[None], value[None], bias)[0],
        guided_attention(original, query, key, value, bias),
    )
