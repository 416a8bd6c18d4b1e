"""Convert layers of transformers to kohya's names: Stable Diffusion 3, Flux.1 and Lumina Image 2.0.

Kohya uses the names of the original releases, where one layer is often several in diffusers: queries, keys and values
in all models, in Flux.1's single blocks also the first layer of the feed-forward.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from persam_dreambooth.errors import UserError

Pair = tuple[Tensor, Tensor]
"""Down, (r, in), and up, (out, r)."""


@dataclass(frozen=True)
class Blocks:
    """Blocks of one kind.

    Attributes:
        name: in kohya's format.
        count: number of blocks in the largest model.
        layers: kohya's layer -> diffusers' layers in the order of its rows, with their relative numbers of rows.
    """

    name: str
    count: int
    layers: dict[str, dict[str, int]]


QKV = {"attn.to_q": 1, "attn.to_k": 1, "attn.to_v": 1}
ADDED_QKV = {"attn.add_q_proj": 1, "attn.add_k_proj": 1, "attn.add_v_proj": 1}
SD3 = {
    "transformer_blocks": Blocks(
        "joint_blocks",
        38,
        {
            "x_block_attn_qkv": QKV,
            "x_block_attn_proj": {"attn.to_out.0": 1},
            "x_block_attn2_qkv": {"attn2.to_q": 1, "attn2.to_k": 1, "attn2.to_v": 1},
            "x_block_attn2_proj": {"attn2.to_out.0": 1},
            "x_block_mlp_fc1": {"ff.net.0.proj": 1},
            "x_block_mlp_fc2": {"ff.net.2": 1},
            "context_block_attn_qkv": ADDED_QKV,
            "context_block_attn_proj": {"attn.to_add_out": 1},
            "context_block_mlp_fc1": {"ff_context.net.0.proj": 1},
            "context_block_mlp_fc2": {"ff_context.net.2": 1},
        },
    ),
}
FLUX = {
    "transformer_blocks": Blocks(
        "double_blocks",
        19,
        {
            "img_attn_qkv": QKV,
            "img_attn_proj": {"attn.to_out.0": 1},
            "img_mlp_0": {"ff.net.0.proj": 1},
            "img_mlp_2": {"ff.net.2": 1},
            "img_mod_lin": {"norm1.linear": 1},
            "txt_attn_qkv": ADDED_QKV,
            "txt_attn_proj": {"attn.to_add_out": 1},
            "txt_mlp_0": {"ff_context.net.0.proj": 1},
            "txt_mlp_2": {"ff_context.net.2": 1},
            "txt_mod_lin": {"norm1_context.linear": 1},
        },
    ),
    "single_transformer_blocks": Blocks(
        "single_blocks",
        38,
        {
            "linear1": QKV | {"proj_mlp": 4},
            "linear2": {"proj_out": 1},
            "modulation_lin": {"norm.linear": 1},
        },
    ),
}
LUMINA_LAYERS = {
    "attention_qkv": {"attn.to_q": 3, "attn.to_k": 1, "attn.to_v": 1},  # three queries share a key and a value
    "attention_out": {"attn.to_out.0": 1},
    "feed_forward_w1": {"feed_forward.linear_1": 1},
    "feed_forward_w2": {"feed_forward.linear_2": 1},
    "feed_forward_w3": {"feed_forward.linear_3": 1},
}
LUMINA2 = {
    "layers": Blocks("layers", 26, LUMINA_LAYERS),
    "noise_refiner": Blocks("noise_refiner", 2, LUMINA_LAYERS),
    "context_refiner": Blocks("context_refiner", 2, LUMINA_LAYERS),
}
FLUX_CHANNELS = 3072
"""Input channels of Flux.1's blocks; no SD3 has this many."""


def to_kohya(pairs: Mapping[str, Pair], alpha: float | None) -> dict[str, Tensor]:
    """Rename a transformer's LoRA weights to kohya's names; the change of every base weight stays the same.

    Args:
        pairs: diffusers' layers, such as `transformer_blocks.0.attn.to_q`.
        alpha: of all layers; None is the rank of each.

    Returns:
        `lora_unet_...`, each with `.lora_down.weight`, `.lora_up.weight` and `.alpha`, (), float32.

    Raises:
        UserError: a layer that these models do not have, or pairs that cannot be fused into one.
    """
    architecture = _architecture(pairs)
    layers: dict[str, tuple[dict[str, int], dict[str, Pair]]] = {}
    for name, pair in pairs.items():
        layer, shares, part = _place(name, architecture)
        layers.setdefault(layer, (shares, {}))[1][part] = pair
    converted: dict[str, Tensor] = {}
    for layer, (shares, parts) in layers.items():
        down, up = _fused(layer, shares, parts)
        # Ranks add up, so alphas must too: the change is scaled by alpha / rank.
        whole = len(down) if alpha is None else alpha * len(shares)
        converted |= {f"{layer}.lora_down.weight": down, f"{layer}.lora_up.weight": up}
        converted[f"{layer}.alpha"] = torch.tensor(float(whole))
    return converted


def _architecture(pairs: Mapping[str, Pair]) -> dict[str, Blocks]:
    """Return the first architecture that has blocks of all these kinds; only Flux.1 has single blocks."""
    kinds = {name.partition(".")[0] for name in pairs}
    found = next((blocks for blocks in (SD3, FLUX, LUMINA2) if kinds <= blocks.keys()), None)
    if found is None:
        raise _foreign(next(iter(pairs)))
    if found is SD3 and any(down.shape[1] == FLUX_CHANNELS for down, _ in pairs.values()):
        raise UserError(
            "the transformer's weights are SD3's by their names and Flux.1's or Qwen-Image's by their size; load the "
            "diffusers file as it is"
        )
    return found


def _place(name: str, architecture: Mapping[str, Blocks]) -> tuple[str, dict[str, int], str]:
    """Return for one of diffusers' layers: kohya's layer, the parts of that layer, and which part this is."""
    kind, _, rest = name.partition(".")
    number, _, part = rest.partition(".")
    blocks = architecture[kind]
    for layer, shares in blocks.layers.items():
        if part in shares and number in map(str, range(blocks.count)):
            return f"lora_unet_{blocks.name}_{number}_{layer}", shares, part
    raise _foreign(name)


def _foreign(name: str) -> UserError:
    return UserError(
        f"the transformer has {name}, which is not a layer of SD3, Flux.1 or Lumina Image 2.0 with a name in "
        "kohya's format; load the diffusers file as it is"
    )


def _fused(layer: str, shares: Mapping[str, int], parts: Mapping[str, Pair]) -> Pair:
    """Fuse the pairs of several parts into one that changes each part's rows as before; missing parts add 0.

    down = [down_1; ...; down_n], (n r, in), and up = diag(up_1, ..., up_n), (out, n r).
    """
    ranks = {len(down) for down, _ in parts.values()}
    channels = {down.shape[1] for down, _ in parts.values()}
    units = {divmod(len(up), shares[part]) for part, (_, up) in parts.items()}
    unit, rest = min(units)
    if len(ranks) > 1 or len(channels) > 1 or len(units) > 1 or rest:
        sizes = ", ".join(f"{part} {tuple(up.shape)}" for part, (_, up) in parts.items())
        raise UserError(
            f"{layer} is one layer in kohya's format, whose parts must have one rank and sizes that fit together; "
            f"here they are {sizes}; load the diffusers file as it is"
        )
    down, up = next(iter(parts.values()))
    pairs = [
        parts.get(part, (torch.zeros_like(down), up.new_zeros(share * unit, up.shape[1])))
        for part, share in shares.items()
    ]
    return torch.cat([down for down, _ in pairs]), torch.block_diag(*(up for _, up in pairs))
