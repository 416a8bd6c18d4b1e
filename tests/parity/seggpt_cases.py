"""The cases on which SegGPT and Painter are compared with their authors' code, and the recordings."""

from pathlib import Path

import numpy as np

from tests.parity.small_sams import random_state
from tests.scene import scene

DATA = Path(__file__).parent / "data" / "seggpt"
SIZE = {
    "img_size": (896, 448),  # the authors' functions know no other
    "patch_size": 32,
    "embed_dim": 16,
    "num_heads": 2,
    "pretrain_img_size": 128,
    "decoder_embed_dim": 4,
    "use_rel_pos": True,
}
"""Sizes of the small models; the authors' code fixes the number of layers that its decoder reads."""
GREY = 0.235
"""Half of white, as the models normalize colours."""
STEP = 8
"""Every how many rows and columns are kept of a painted picture."""
PHOTO, REFERENCES = (90, 150, 7), ((120, 100, 0), (70, 130, 1), (448, 448, 2))
"""Height, width and seed of `scene`."""
COUNTS = (1, 2, 3)
FRAMES, MEMORY = 6, 2
"""Frames of the video, of which the first is the example, and how many are remembered."""


def video():
    """Return the frames, in all of which the disc is of another size, and the first one's mask."""
    drawn = [scene(100 + 4 * number, 140, number) for number in range(FRAMES)]
    return [pixels[:100] for pixels, _ in drawn], drawn[0][1][:100]


def state_of(arrays, name):
    """Draw the random weights of "seggpt" or "painter" under the names and in the shapes of the authors' file."""
    pairs = zip(arrays[f"{name}_names"].tolist(), arrays[f"{name}_shapes"].tolist(), strict=True)
    state = random_state({weight: tuple(map(int, shape.split())) for weight, shape in pairs})
    # Paint greys around half of white, not saturated colours.
    state["decoder_pred.3.weight"] *= 0.3
    state["decoder_pred.3.bias"] += GREY
    return state


def recorded():
    """Return the recorded arrays by name."""
    with np.load(DATA / "recorded.npz") as arrays:
        return dict(arrays)


def thinned(picture):
    """Average the colours of an (S, S, 3) picture, and keep some of its pixels."""
    return np.asarray(picture, np.float32).mean(-1)[STEP // 2 :: STEP, STEP // 2 :: STEP]
