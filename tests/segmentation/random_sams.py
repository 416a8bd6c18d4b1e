"""Small random models of the families other than SAM: real classes, tens of thousands of weights, 8 x 8 cells."""

import torch
from transformers import (
    EdgeTamConfig,
    EdgeTamModel,
    Sam2Config,
    Sam2Model,
    Sam2VideoConfig,
    Sam2VideoModel,
    Sam3TrackerConfig,
    Sam3TrackerModel,
    Sam3VideoConfig,
    Sam3VideoModel,
    SamHQConfig,
    SamHQModel,
)

from random_parts import draw_weights

WIDTH, GRID = 32, 8
LEVELS = [[4 * GRID, 4 * GRID], [2 * GRID, 2 * GRID], [GRID, GRID]]
DECODER = {"hidden_size": WIDTH, "mlp_dim": 64, "num_attention_heads": 2, "iou_head_hidden_dim": 32}
HIERA = {
    "hidden_size": 8,
    "image_size": [128, 128],
    "blocks_per_stage": [1, 1, 2, 1],
    "embed_dim_per_stage": [8, 16, 32, 64],
    "num_attention_heads_per_stage": [1, 1, 2, 2],
    "window_size_per_stage": [8, 4, 4, 4],
    "global_attention_blocks": [3],
}
SAM2 = {
    "vision_config": {
        "model_type": "sam2_vision_model",
        "backbone_config": {"model_type": "sam2_hiera_det_model", **HIERA},
        "backbone_channel_list": [64, 32, 16, 8],
        "backbone_feature_sizes": LEVELS,
        "fpn_hidden_size": WIDTH,
    },
    "prompt_encoder_config": {"hidden_size": WIDTH, "image_size": 128},
    "mask_decoder_config": DECODER,
}

VIT = {
    "model_type": "sam3_vit_model",
    "hidden_size": WIDTH,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 112,
    "window_size": 4,
    "global_attn_indexes": [1],
    "pretrain_image_size": 56,
}
SAM3 = {
    "vision_config": {
        "model_type": "sam3_vision_model",
        "backbone_config": VIT,
        "backbone_feature_sizes": LEVELS,
        "fpn_hidden_size": WIDTH,
    },
    "prompt_encoder_config": {"hidden_size": WIDTH, "image_size": 112},
    "mask_decoder_config": DECODER,
}
MEMORY = {
    "memory_attention_hidden_size": WIDTH,
    "memory_attention_num_layers": 1,
    "memory_attention_feed_forward_hidden_size": 32,
    "memory_attention_rope_feat_sizes": [GRID, GRID],
    "memory_encoder_hidden_size": WIDTH,
    "memory_encoder_output_channels": 16,
    "mask_downsampler_embed_dim": WIDTH,
    "memory_fuser_embed_dim": WIDTH,
    "memory_fuser_intermediate_dim": 32,
}


def sam_hq(seed=0):
    vision = {
        "hidden_size": 24,
        "output_channels": WIDTH,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "global_attn_indexes": [0, 2],
        "window_size": 4,
        "num_pos_feats": WIDTH // 2,
        "mlp_dim": 48,
        "image_size": 128,
    }
    config = SamHQConfig(
        vision_config=vision,
        prompt_encoder_config={"hidden_size": WIDTH, "image_size": 128},
        mask_decoder_config={**DECODER, "vit_dim": 24},
    )
    return drawn(SamHQModel, config, seed)


def sam2(seed=0):
    return drawn(Sam2Model, Sam2Config(**SAM2), seed)


def sam2_video(seed=0):
    """Build SAM 2's video model: the image model's parts and a memory."""
    return drawn(Sam2VideoModel, Sam2VideoConfig(**SAM2, image_size=128, **MEMORY), seed)


def edgetam(seed=0):
    """Build EdgeTAM, whose image encoder is a timm model."""
    timm_config = {
        "model_type": "timm_wrapper",
        "architecture": "test_resnet",
        "num_classes": 2,
        "model_args": {"in_chans": 3, "features_only": True, "out_indices": [1, 2, 3, 4]},
    }
    vision = {
        "model_type": "edgetam_vision_model",
        "backbone_config": timm_config,
        "backbone_channel_list": [96, 192, 48, 32],
        "backbone_feature_sizes": LEVELS,
        "fpn_hidden_size": WIDTH,
    }
    return drawn(EdgeTamModel, EdgeTamConfig(**{**SAM2, "vision_config": vision}), seed)


def sam3(seed=0):
    return drawn(Sam3TrackerModel, Sam3TrackerConfig(**SAM3), seed)


def sam3_video(seed=0):
    """Build all of SAM 3: the text-prompted detector and the tracker."""
    detr = {"hidden_size": WIDTH, "num_attention_heads": 2, "intermediate_size": 32, "num_layers": 1}
    words = {"model_type": "clip_text_model", "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    detector = {
        "vision_config": SAM3["vision_config"],
        "text_config": {**words, "num_attention_heads": 2, "vocab_size": 50000, "projection_dim": 32},
        "geometry_encoder_config": detr,
        "detr_encoder_config": detr,
        "detr_decoder_config": {**detr, "num_queries": 4},
        "mask_decoder_config": {"hidden_size": WIDTH, "num_attention_heads": 2},
    }
    tracker = {"model_type": "sam3_tracker_video", **SAM3, "image_size": 112, **MEMORY}
    return drawn(Sam3VideoModel, Sam3VideoConfig(detector_config=detector, tracker_config=tracker), seed)


def drawn(model_class, config, seed):
    """Build a model with seeded weights and buffers; `draw_weights` does not draw buffers."""
    torch.manual_seed(seed)
    return draw_weights(model_class(config), seed)


FAMILIES = {"sam_hq": sam_hq, "sam2": sam2, "edgetam": edgetam, "sam3_tracker": sam3}
