"""Write pipelines as single files, under the names of the original releases of Stable Diffusion and Flux.1.

The names were taken from what the published files hold; diffusers' converter goes the other way.
"""

import torch
from safetensors.torch import save_file

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
OUTER = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
VAE = {
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.resnets.1": "mid.block_2",
    "mid_block.attentions.0": "mid.attn_1",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
    "conv_norm_out": "norm_out",
    "conv_shortcut": "nin_shortcut",
}
OPEN_CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def replaced(name, names):
    for old, new in names.items():
        name = name.replace(old, new)
    return name


def unet_weights(unet):
    """A UNet's weights as `input_blocks`, `middle_block` and `output_blocks`."""
    layers = unet.config.layers_per_block + 1
    return {unet_name(name, layers, unet): value for name, value in unet.state_dict().items()}


def unet_name(name, layers, unet):
    words = name.split(".")
    if words[0] == "mid_block":
        place, rest = {"attentions": "1", "resnets": str(2 * int(words[2]))}[words[1]], ".".join(words[3:])
        return f"middle_block.{place}.{rest if words[1] == 'attentions' else replaced(rest, RESNET)}"
    if words[0] not in ("down_blocks", "up_blocks"):
        return replaced(name, OUTER)
    block, kind, number, rest = int(words[1]), words[2], int(words[3]), ".".join(words[4:])
    first, side = (1, "input_blocks") if words[0] == "down_blocks" else (0, "output_blocks")
    inner = first + block * layers + number
    if kind == "resnets":
        return f"{side}.{inner}.0.{replaced(rest, RESNET)}"
    if kind == "attentions":
        return f"{side}.{inner}.1.{rest}"
    last = first + block * layers + layers - 1
    if kind == "downsamplers":
        return f"{side}.{last}.0.op.{words[-1]}"
    has_attention = hasattr(unet.up_blocks[block], "attentions")
    return f"{side}.{last}.{2 if has_attention else 1}.conv.{words[-1]}"


def vae_weights(vae):
    """An autoencoder's weights; its attention has convolutions in place of linear layers."""
    levels = len(vae.config.block_out_channels)
    weights = {}
    for name, value in vae.state_dict().items():
        for level in range(levels):
            name = name.replace(f"down_blocks.{level}.", f"down.{level}.")
            name = name.replace(f"up_blocks.{level}.", f"UP.{levels - 1 - level}.")
        name = name.replace("UP.", "up.").replace("downsamplers.0", "downsample").replace("upsamplers.0", "upsample")
        if "mid_block.attentions" in name and value.ndim == 2:
            value = value[:, :, None, None]
        weights[replaced(name, VAE).replace(".resnets.", ".block.")] = value
    return weights


def clip_weights(clip):
    """CLIP's weights under transformers' older names."""
    return {f"text_model.{name.removeprefix('text_model.')}": value for name, value in clip.state_dict().items()}


def open_clip_weights(clip):
    """CLIP's weights under the names of open_clip, which has one matrix for queries, keys and values."""
    state = {name.removeprefix("text_model."): value for name, value in clip.state_dict().items()}
    weights = {
        "token_embedding.weight": state.pop("embeddings.token_embedding.weight"),
        "positional_embedding": state.pop("embeddings.position_embedding.weight"),
    }
    if "text_projection.weight" in state:
        weights["text_projection"] = state.pop("text_projection.weight").T
    for kind in ("weight", "bias"):
        weights[f"ln_final.{kind}"] = state.pop(f"final_layer_norm.{kind}")
        for number in range(clip.config.num_hidden_layers):
            layer = f"encoder.layers.{number}.self_attn"
            parts = [state.pop(f"{layer}.{name}_proj.{kind}") for name in "qkv"]
            weights[f"transformer.resblocks.{number}.attn.in_proj_{kind}"] = torch.cat(parts)
    for name, value in state.items():
        weights[replaced(name, OPEN_CLIP).replace("encoder.layers.", "transformer.resblocks.")] = value
    return weights


ENCODERS = {
    "1": {"text_encoder": ("cond_stage_model.transformer.", clip_weights)},
    "2": {"text_encoder": ("cond_stage_model.model.", open_clip_weights)},
    "xl": {
        "text_encoder": ("conditioner.embedders.0.transformer.", clip_weights),
        "text_encoder_2": ("conditioner.embedders.1.model.", open_clip_weights),
    },
}


def single_file_weights(pipeline, version):
    """All weights of a pipeline under the names of an original release: "1", "2" or "xl"."""
    parts = {"unet": ("model.diffusion_model.", unet_weights), "vae": ("first_stage_model.", vae_weights)}
    return {
        f"{beginning}{name}": value.contiguous().clone()
        for part, (beginning, weights) in (parts | ENCODERS[version]).items()
        for name, value in weights(getattr(pipeline, part)).items()
    }


def save_single_file(pipeline, version, path, metadata=None):
    save_file(single_file_weights(pipeline, version), path, metadata)


FLUX = {
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "context_embedder": "txt_in",
    "x_embedder": "img_in",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "proj_out": "final_layer.linear",
}
FLUX_DOUBLE = {
    "norm1_context.linear": "txt_mod.lin",
    "norm1.linear": "img_mod.lin",
    "attn.norm_added_q.weight": "txt_attn.norm.query_norm.scale",
    "attn.norm_added_k.weight": "txt_attn.norm.key_norm.scale",
    "attn.norm_q.weight": "img_attn.norm.query_norm.scale",
    "attn.norm_k.weight": "img_attn.norm.key_norm.scale",
    "attn.to_out.0": "img_attn.proj",
    "attn.to_add_out": "txt_attn.proj",
    "ff_context.net.0.proj": "txt_mlp.0",
    "ff_context.net.2": "txt_mlp.2",
    "ff.net.0.proj": "img_mlp.0",
    "ff.net.2": "img_mlp.2",
}
FLUX_SINGLE = {
    "norm.linear": "modulation.lin",
    "attn.norm_q.weight": "norm.query_norm.scale",
    "attn.norm_k.weight": "norm.key_norm.scale",
    "proj_out": "linear2",
}
SINGLE = ("single_blocks", FLUX_SINGLE)
FLUX_FUSED = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
}


def flux_weights(transformer):
    """Flux.1's transformer, as its release has it: fused queries, keys and values, shift before scale at the end."""
    state, weights = transformer.state_dict(), {}
    kinds = {"transformer_blocks": ("double_blocks", FLUX_DOUBLE), "single_transformer_blocks": SINGLE}
    for ours, (theirs, names) in kinds.items():
        fused = [layer for layer in FLUX_FUSED if (layer == "linear1") == (theirs == "single_blocks")]
        for number in range(len(getattr(transformer, ours))):
            begin = f"{ours}.{number}."
            for layer in fused:
                for kind in ("weight", "bias"):
                    parts = [state.pop(f"{begin}{part}.{kind}") for part in FLUX_FUSED[layer]]
                    weights[f"{theirs}.{number}.{layer}.{kind}"] = torch.cat(parts)
            for name in [name for name in state if name.startswith(begin)]:
                weights[f"{theirs}.{number}.{replaced(name.removeprefix(begin), names)}"] = state.pop(name)
    for name, value in state.items():
        if name.startswith("norm_out"):
            value = torch.cat(value.chunk(2)[::-1])
        weights[replaced(name, FLUX)] = value
    return weights
