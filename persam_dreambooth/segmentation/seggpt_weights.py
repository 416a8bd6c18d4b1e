"""Load a SegGPT or a Painter from a transformers folder, a hub name, or its original `.pth` file.

Painter (Wang et al. 2022, arXiv 2212.02499) is the same network before it was trained to segment, without the tokens
for the type of segmentation, which are zero here.
"""

from math import isqrt
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from transformers import SegGptConfig, SegGptForImageSegmentation

from persam_dreambooth.errors import UserError
from persam_dreambooth.segmentation.backbones.published import SUFFIXES, Rules, State, read_published, renamed
from persam_dreambooth.segmentation.pretrained import load_pretrained

RULES: Final[Rules] = (
    (r"^(pos_embed|mask_token|segment_token_[xy]|type_token_\w+|patch_embed)", r"model.embeddings.\1"),
    (r"pos_embed$", "position_embeddings"),
    (r"segment_token_x$", "segment_token_input"),
    (r"segment_token_y$", "segment_token_prompt"),
    (r"type_token_cls$", "type_token_semantic"),
    (r"type_token_ins$", "type_token_instance"),
    (r"patch_embed\.proj", "patch_embeddings.projection"),
    (r"^blocks\.", "model.encoder.layers."),
    (r"\.attn\.", ".attention."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.mlp\.fc([12])\.", r".mlp.lin\1."),
    (r"^norm\.", "model.encoder.layernorm."),
    (r"^decoder_(embed|pred)", r"decoder.decoder_\1"),
    (r"decoder_pred\.0\.", "decoder_pred.conv."),
    (r"decoder_pred\.1\.", "decoder_pred.layernorm."),
    (r"decoder_pred\.3\.", "decoder_pred.head."),
)
"""Rules of `renamed` from the authors' names of weights to transformers'."""
TYPES: Final = ("type_token_semantic", "type_token_instance")
KNOWN_BY: Final = ("segment_token_x", "decoder_embed.weight")
"""Weights that both files have, and no other model here."""


def load_seggpt(source: str) -> SegGptForImageSegmentation:
    """Load a SegGPT or a Painter.

    Args:
        source: hub name ("BAAI/seggpt-vit-large"), folder, or the path of `seggpt_vit_large.pth` or
            `painter_vit_large.pth`, which are read with `weights_only=True`.

    Raises:
        UserError: nothing found, or not a complete SegGPT or Painter.
    """
    if Path(source).suffix not in SUFFIXES:
        model: SegGptForImageSegmentation
        model, _ = load_pretrained(source, {"seggpt": SegGptForImageSegmentation}, "SegGPT", "BAAI/seggpt-vit-large")
        return model
    state = read_published(Path(source), "SegGPT")
    if not isinstance(state, dict) or not all(isinstance(state.get(name), Tensor) for name in KNOWN_BY):
        raise UserError(f"{source} is not a SegGPT or Painter; give seggpt_vit_large.pth or painter_vit_large.pth")
    try:
        return from_published(state)
    except (KeyError, RuntimeError, IndexError) as error:
        raise UserError(f"{source} lacks weights of a SegGPT or Painter; download it again") from error


def from_published(state: State) -> SegGptForImageSegmentation:
    """Build the model of the authors' file; its sizes are those of the weights.

    Raises:
        KeyError, RuntimeError: a weight is missing, left over or of another size.
    """
    config: Any = SegGptConfig(**_sizes(state))
    model: Any = SegGptForImageSegmentation(config)
    weights = {f"model.embeddings.{name}": torch.zeros(1, 1, 1, config.hidden_size) for name in TYPES}
    model.load_state_dict(weights | renamed(state, RULES))
    built: SegGptForImageSegmentation = model.eval()
    return built


def _sizes(state: State) -> dict[str, Any]:
    """Infer a model's sizes from its weights, by their names in the config; other settings keep the defaults."""
    width, _, patch, _ = state["patch_embed.proj.weight"].shape
    rows, head = state["blocks.0.attn.rel_pos_h"].shape  # a row for each distance between two cells
    columns = len(state["blocks.0.attn.rel_pos_w"])
    return {
        "hidden_size": width,
        "num_hidden_layers": sum(name.endswith(".norm1.weight") for name in state),
        "num_attention_heads": width // head,
        "mlp_dim": len(state["blocks.0.mlp.fc1.weight"]),
        "patch_size": patch,
        "image_size": ((rows + 1) // 2 * patch, (columns + 1) // 2 * patch),
        "pretrain_image_size": isqrt(state["pos_embed"].shape[1] - 1) * patch,
        "decoder_hidden_size": len(state["decoder_pred.0.weight"]),
    }
