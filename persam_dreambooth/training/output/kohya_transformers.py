"""Convert layers of transformers to kohya's names: Stable Diffusion 3, Flux, Lumina, Z-Image, Qwen-Image, Krea 2.

Kohya uses the names of the original releases, where one layer is often several in diffusers: queries, keys and values
in most models, in Flux.1's single blocks also the first layer of the feed-forward.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

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


@dataclass(frozen=True)
class Architecture:
    """A transformer.

    Attributes:
        module: the trainer's module for its LoRA, of sd-scripts or, for the newer models, of musubi-tuner.
        blocks: by diffusers' name.
        outside: diffusers' layers outside of blocks, and kohya's.
    """

    module: str
    blocks: dict[str, Blocks]
    outside: dict[str, str] = field(default_factory=dict)


QKV = {"attn.to_q": 1, "attn.to_k": 1, "attn.to_v": 1}
ADDED_QKV = {"attn.add_q_proj": 1, "attn.add_k_proj": 1, "attn.add_v_proj": 1}
SD3_BLOCKS = {
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
FLUX_BLOCKS = {
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
LUMINA_BLOCKS = {
    "layers": Blocks("layers", 26, LUMINA_LAYERS),
    "noise_refiner": Blocks("noise_refiner", 2, LUMINA_LAYERS),
    "context_refiner": Blocks("context_refiner", 2, LUMINA_LAYERS),
}
FLUX2_BLOCKS = {
    "transformer_blocks": Blocks(
        "double_blocks",
        8,
        {
            "img_attn_qkv": QKV,
            "img_attn_proj": {"attn.to_out.0": 1},
            "img_mlp_0": {"ff.linear_in": 1},
            "img_mlp_2": {"ff.linear_out": 1},
            "txt_attn_qkv": ADDED_QKV,
            "txt_attn_proj": {"attn.to_add_out": 1},
            "txt_mlp_0": {"ff_context.linear_in": 1},
            "txt_mlp_2": {"ff_context.linear_out": 1},
        },
    ),
    "single_transformer_blocks": Blocks(
        "single_blocks", 48, {"linear1": {"attn.to_qkv_mlp_proj": 1}, "linear2": {"attn.to_out": 1}}
    ),
}
Z_IMAGE_LAYERS = {
    "attention_qkv": {"attention.to_q": 1, "attention.to_k": 1, "attention.to_v": 1},
    "attention_out": {"attention.to_out.0": 1},
    **{f"feed_forward_w{number}": {f"feed_forward.w{number}": 1} for number in (1, 2, 3)},
}
Z_IMAGE_BLOCKS = {
    "layers": Blocks("layers", 30, Z_IMAGE_LAYERS),
    "noise_refiner": Blocks("noise_refiner", 2, Z_IMAGE_LAYERS),
    "context_refiner": Blocks("context_refiner", 2, Z_IMAGE_LAYERS),
}
QWEN_LAYERS = (  # the same in both formats, but for the dots
    *QKV,
    *ADDED_QKV,
    *("attn.to_out.0", "attn.to_add_out", "img_mod.1", "txt_mod.1"),
    *("img_mlp.net.0.proj", "img_mlp.net.2", "txt_mlp.net.0.proj", "txt_mlp.net.2"),
)
QWEN_BLOCKS = {
    "transformer_blocks": Blocks(
        "transformer_blocks", 60, {layer.replace(".", "_"): {layer: 1} for layer in QWEN_LAYERS}
    )
}
KREA2_LAYERS = {
    **{f"attn_w{name}": {f"attn.to_{name}": 1} for name in "qkv"},
    **{"attn_wo": {"attn.to_out.0": 1}, "attn_gate": {"attn.to_gate": 1}},
    **{f"mlp_{name}": {f"ff.{name}": 1} for name in ("gate", "up", "down")},
}
KREA2_BLOCKS = {
    "transformer_blocks": Blocks("blocks", 28, KREA2_LAYERS),
    "text_fusion.layerwise_blocks": Blocks("txtfusion_layerwise_blocks", 2, KREA2_LAYERS),
    "text_fusion.refiner_blocks": Blocks("txtfusion_refiner_blocks", 2, KREA2_LAYERS),
}
KREA2_OUTSIDE = {
    **{"img_in": "first", "final_layer.linear": "last_linear", "text_fusion.projector": "txtfusion_projector"},
    **{"time_embed.linear_1": "tmlp_0", "time_embed.linear_2": "tmlp_2", "time_mod_proj": "tproj_1"},
    **{"txt_in.linear_1": "txtmlp_1", "txt_in.linear_2": "txtmlp_3"},
}
ARCHITECTURES = {
    "StableDiffusion3Pipeline": Architecture("networks.lora_sd3", SD3_BLOCKS),
    "FluxPipeline": Architecture("networks.lora_flux", FLUX_BLOCKS),
    "Lumina2Pipeline": Architecture("networks.lora_lumina", LUMINA_BLOCKS),
    "Flux2Pipeline": Architecture("networks.lora_flux_2", FLUX2_BLOCKS),
    "Flux2KleinPipeline": Architecture("networks.lora_flux_2", FLUX2_BLOCKS),
    "ZImagePipeline": Architecture("networks.lora_zimage", Z_IMAGE_BLOCKS),
    "QwenImagePipeline": Architecture("networks.lora_qwen_image", QWEN_BLOCKS),
    "Krea2Pipeline": Architecture("networks.lora_krea2", KREA2_BLOCKS, KREA2_OUTSIDE),
}
"""By diffusers' class of the pipeline."""
NAMED = "SD3, Flux.1, Flux.2, Lumina Image 2.0, Z-Image, Qwen-Image or Krea 2"
WIDE = 3072
"""Input channels of the blocks of Flux.1 and Qwen-Image."""
WIDTHS = {"StableDiffusion3Pipeline": False, "FluxPipeline": True, "QwenImagePipeline": True}
"""Whether the blocks have `WIDE` input channels, for transformers whose layers have the same names."""


def to_kohya(pairs: Mapping[str, Pair], alpha: float | None, pipeline: str) -> dict[str, Tensor]:
    """Rename a transformer's LoRA weights to kohya's names; the change of every base weight stays the same.

    Args:
        pairs: diffusers' layers, such as `transformer_blocks.0.attn.to_q`.
        alpha: of all layers; None is the rank of each.
        pipeline: one of `ARCHITECTURES`.

    Returns:
        `lora_unet_...`, each with `.lora_down.weight`, `.lora_up.weight` and `.alpha`, (), float32.

    Raises:
        UserError: a layer that this model does not have, or pairs that cannot be fused into one.
    """
    layers: dict[str, tuple[dict[str, int], dict[str, Pair]]] = {}
    for name, pair in pairs.items():
        place = _place(name, ARCHITECTURES[pipeline])
        if place is None:
            raise _foreign(name)
        layer, shares, part = place
        layers.setdefault(layer, (shares, {}))[1][part] = pair
    converted: dict[str, Tensor] = {}
    for layer, (shares, parts) in layers.items():
        down, up = _fused(layer, shares, parts)
        # Ranks add up, so alphas must too: the change is scaled by alpha / rank.
        whole = len(down) if alpha is None else alpha * len(shares)
        converted |= {f"{layer}.lora_down.weight": down, f"{layer}.lora_up.weight": up}
        converted[f"{layer}.alpha"] = torch.tensor(float(whole))
    return converted


def pipeline_of(channels: Mapping[str, int]) -> str:
    """Return diffusers' class of the pipeline whose transformer has layers of these names; for files without a record.

    Many layers of SD3, Flux.1 and Qwen-Image have the same names. Their sizes tell SD3 from the others.

    Args:
        channels: the number of input channels of each of diffusers' layers.

    Raises:
        UserError: no transformer has them all, or several have.
    """
    is_wide = WIDE in channels.values()
    unsized = not all(layer.startswith("transformer_blocks.") for layer in channels)
    fitting = [
        name
        for name, architecture in ARCHITECTURES.items()
        if all(_place(layer, architecture) for layer in channels) and (unsized or WIDTHS.get(name, is_wide) == is_wide)
    ]
    if not fitting:
        known = ARCHITECTURES.values()
        strange = (layer for layer in channels if not any(_place(layer, architecture) for architecture in known))
        raise _foreign(next(strange, next(iter(channels))))
    if is_wide and len({ARCHITECTURES[name].module for name in fitting}) > 1:
        raise UserError(
            "the transformer's weights may be Flux.1's or Qwen-Image's by their names and sizes; load the diffusers "
            "file as it is"
        )
    return fitting[0]


def _place(name: str, architecture: Architecture) -> tuple[str, dict[str, int], str] | None:
    """Return for one of diffusers' layers: kohya's layer, the parts of that layer, and which part this is."""
    if name in architecture.outside:
        return f"lora_unet_{architecture.outside[name]}", {name: 1}, name
    for kind, blocks in architecture.blocks.items():
        number, _, part = name.removeprefix(f"{kind}.").partition(".")
        if not name.startswith(f"{kind}.") or number not in map(str, range(blocks.count)):
            continue
        for layer, shares in blocks.layers.items():
            if part in shares:
                return f"lora_unet_{blocks.name}_{number}_{layer}", shares, part
    return None


def _foreign(name: str) -> UserError:
    return UserError(
        f"the transformer has {name}, which is not a layer of {NAMED} with a name in kohya's format; load the "
        "diffusers file as it is"
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
