"""A SAM that sees more pixels than it was trained with: its position embeddings are stretched."""

from copy import deepcopy
from typing import Any

import torch.nn.functional as F
from transformers import SamModel

from persam_dreambooth.errors import UserError


def with_larger_input(model: SamModel, side: int) -> SamModel:
    """Return a copy of a SAM for a larger square.

    Args:
        model: a `transformers.SamModel`.
        side: of the new square in pixels, a multiple of the patch size (16 for the published SAMs).

    Raises:
        UserError: the side is not larger than the model's, or not a multiple of its patch size.
    """
    config: Any = deepcopy(model.config)
    trained, patch = config.vision_config.image_size, config.vision_config.patch_size
    if side <= trained or side % patch:
        raise UserError(
            f"a SAM trained at {trained} pixels cannot run at {side}; give a multiple of {patch} above {trained}"
        )
    cells = side // patch
    config.vision_config.image_size = config.prompt_encoder_config.image_size = side
    config.prompt_encoder_config.image_embedding_size = cells
    state = dict(model.state_dict())
    position = "vision_encoder.pos_embed"
    if position in state:
        grid = state[position].permute(0, 3, 1, 2)
        grid = F.interpolate(grid, (cells, cells), mode="bicubic", align_corners=False)
        state[position] = grid.permute(0, 2, 3, 1)
    for number in config.vision_config.global_attn_indexes:  # windows keep their size
        for axis in ("h", "w"):
            name = f"vision_encoder.layers.{number}.attn.rel_pos_{axis}"
            if name in state:
                state[name] = F.interpolate(state[name].T[None], 2 * cells - 1, mode="linear")[0].T
    larger: Any = SamModel(config)
    larger.load_state_dict(state)
    built: SamModel = larger.to(model.dtype).eval()
    return built
