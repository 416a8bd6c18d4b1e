"""The small random SAM of the recordings, built with both packages from the same weights."""

from functools import partial
from pathlib import Path

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from transformers import SamConfig, SamModel

DATA = Path(__file__).parent / "data"
WEIGHTS = DATA / "sam_tiny_random.pth"
SIDE, PATCH, WIDTH, PROMPT_WIDTH = 1024, 16, 32, 64

# segment-anything's name -> transformers' name, tried in this order on every key.
RENAMED = (
    ("pe_layer.positional_encoding_gaussian_matrix", "shared_embedding.positional_embedding"),
    ("image_encoder.", "vision_encoder."),
    (".blocks.", ".layers."),
    ("patch_embed.proj.", "patch_embed.projection."),
    ("neck.0.", "neck.conv1."),
    ("neck.1.", "neck.layer_norm1."),
    ("neck.2.", "neck.conv2."),
    ("neck.3.", "neck.layer_norm2."),
    (".norm", ".layer_norm"),
    ("output_upscaling.0.", "upscale_conv1."),
    ("output_upscaling.1.", "upscale_layer_norm."),
    ("output_upscaling.3.", "upscale_conv2."),
    ("mask_downscaling.0.", "mask_embed.conv1."),
    ("mask_downscaling.1.", "mask_embed.layer_norm1."),
    ("mask_downscaling.3.", "mask_embed.conv2."),
    ("mask_downscaling.4.", "mask_embed.layer_norm2."),
    ("mask_downscaling.6.", "mask_embed.conv3."),
    ("point_embeddings.", "point_embed."),
)


def original() -> Sam:
    """The recorded SAM in segment-anything's classes."""
    grid = SIDE // PATCH
    sam = Sam(
        ImageEncoderViT(
            img_size=SIDE,
            patch_size=PATCH,
            embed_dim=WIDTH,
            depth=2,
            num_heads=2,
            mlp_ratio=4,
            out_chans=PROMPT_WIDTH,
            qkv_bias=True,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=14,
            global_attn_indexes=(1,),
        ),
        PromptEncoder(PROMPT_WIDTH, (grid, grid), (SIDE, SIDE), mask_in_chans=16),
        MaskDecoder(
            transformer_dim=PROMPT_WIDTH,
            transformer=TwoWayTransformer(depth=2, embedding_dim=PROMPT_WIDTH, num_heads=4, mlp_dim=128),
            iou_head_depth=3,
            iou_head_hidden_dim=64,
        ),
    )
    sam.load_state_dict(torch.load(WEIGHTS, weights_only=True))
    return sam


def transformers() -> SamModel:
    """The recorded SAM in transformers' class."""
    config = SamConfig(
        vision_config={
            "hidden_size": WIDTH,
            "output_channels": PROMPT_WIDTH,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "global_attn_indexes": [1],
            "num_pos_feats": PROMPT_WIDTH // 2,
            "mlp_dim": 4 * WIDTH,
            "image_size": SIDE,
        },
        prompt_encoder_config={"hidden_size": PROMPT_WIDTH, "image_size": SIDE},
        mask_decoder_config={
            "hidden_size": PROMPT_WIDTH,
            "mlp_dim": 128,
            "num_attention_heads": 4,
            "iou_head_hidden_dim": 64,
        },
    )
    model = SamModel(config)
    state = {_rename(key): value for key, value in torch.load(WEIGHTS, weights_only=True).items()}
    positional = state["prompt_encoder.shared_embedding.positional_embedding"]
    state["shared_image_embedding.positional_embedding"] = positional
    model.load_state_dict(state)
    return model


def _rename(key: str) -> str:
    for old, new in RENAMED:
        key = key.replace(old, new)
    parts = key.split(".")
    if "iou_prediction_head" in parts or "output_hypernetworks_mlps" in parts:
        number = parts.index("layers") + 1
        name = {"0": "proj_in", "1": "layers.0", "2": "proj_out"}[parts[number]]
        parts[number - 1 : number + 1] = [name]
    return ".".join(parts)
