"""A SAM that sees more pixels than it was trained with.

Its position embeddings are interpolated to the larger square, and the attention of its global layers, which now
spreads over more cells, is sharpened by the scaling factor of BA-SAM (Song et al. 2024, arXiv 2401.02317): with n
cells instead of m, the products of queries and keys are multiplied by log n / log m. BA-SAM's attention mask is
left out.
"""

import math
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import SamModel

from persam_dreambooth.errors import UserError


def with_larger_input(model: SamModel, side: int, scaled: bool = True) -> SamModel:
    """Return a copy of a SAM for a larger square.

    Args:
        model: a `transformers.SamModel`.
        side: of the new square in pixels, a multiple of the patch size (16 for the published SAMs).
        scaled: apply BA-SAM's factor; without it the position embeddings alone are adapted.

    Raises:
        UserError: the side is not larger than the model's, or not a multiple of its patch size.
    """
    config: Any = deepcopy(model.config)
    trained, patch = config.vision_config.image_size, config.vision_config.patch_size
    if side <= trained or side % patch:
        raise UserError(
            f"a SAM trained at {trained} pixels cannot run at {side}; give a multiple of {patch} above {trained}"
        )
    cells, before = side // patch, trained // patch
    config.vision_config.image_size = config.prompt_encoder_config.image_size = side
    config.prompt_encoder_config.image_embedding_size = cells
    state = dict(model.state_dict())
    position = "vision_encoder.pos_embed"
    if position in state:
        grid = state[position].permute(0, 3, 1, 2)
        grid = F.interpolate(grid, (cells, cells), mode="bicubic", align_corners=False)
        state[position] = grid.permute(0, 2, 3, 1)
    factor = math.log(cells**2) / math.log(before**2) if scaled else 1.0
    for number in config.vision_config.global_attn_indexes:
        layer = f"vision_encoder.layers.{number}.attn."
        for name in (layer + "rel_pos_h", layer + "rel_pos_w"):
            if name in state:
                state[name] = F.interpolate(state[name].T[None], 2 * cells - 1, mode="linear")[0].T
        for name in (layer + "qkv.weight", layer + "qkv.bias"):
            if name in state:
                state[name] = _sharpened(state[name], factor)
    larger: Any = SamModel(config)
    larger.load_state_dict(state)
    built: SamModel = larger.to(model.dtype).eval()
    return built


def _sharpened(projection: Tensor, factor: float) -> Tensor:
    """Scale the key rows of a joint qkv projection; relative positions depend on the queries, so they stay as is."""
    query, key, value = projection.chunk(3)
    return torch.cat([query, key * factor, value])
