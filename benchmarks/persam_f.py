"""Speed of PerSAM-F's fit: decode once and sample pixels, or decode and use all pixels at every step.

    python benchmarks/persam_f.py

Uses a random SAM of full decoder size and a synthetic 1024-pixel photo; both methods run in turn, several times. The
slow one is that of the authors' code: of its thousand steps only `--steps` are run, and the time is scaled up. Prints
both times and their ratio.
"""

import argparse
import platform
import time
from statistics import median

import numpy as np
import torch
from torchvision.ops import sigmoid_focal_loss
from transformers import SamConfig, SamModel

from persam_dreambooth.segmentation import Method, PerSAM, Prompts, Reference
from persam_dreambooth.segmentation.mask_weights import STEPS, fit_mask_weights

SIDE = 1024


def every_step(persam: PerSAM, reference: Reference, steps: int) -> float:
    """Return the seconds that `STEPS` steps would take if each decodes and uses all pixels."""
    photo = persam.encode([reference.pixels])[0]
    target = torch.from_numpy(reference.foreground).float().flatten()
    asked = Prompts(torch.tensor([[SIDE / 2, SIDE / 2]]), torch.tensor([1]))
    free = torch.full((2,), 1 / 3, requires_grad=True)
    optimizer = torch.optim.AdamW([free], lr=1e-3, eps=1e-4)
    start = time.perf_counter()
    for _ in range(steps):
        logits, _ = persam.backbone.decode(photo.embedding, asked, multimask=True, extra=photo.extra)
        pixels = photo.frame.to_original(logits).flatten(1)
        mask = torch.cat([1 - free.sum(0, keepdim=True), free]) @ pixels
        inside = mask.sigmoid()
        dice = 1 - (2 * (inside * target).sum() + 1) / (inside.sum() + target.sum() + 1)
        loss = dice + sigmoid_focal_loss(mask, target, 0.25, 2, "mean")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (time.perf_counter() - start) * STEPS / steps


def one_decode(persam: PerSAM, reference: Reference) -> float:
    """Return the seconds of our method: decoding, upsampling to the photo's pixels, and all `STEPS` steps."""
    photo = persam.encode([reference.pixels])[0]
    target = torch.from_numpy(reference.foreground.ravel())
    asked = Prompts(torch.tensor([[SIDE / 2, SIDE / 2]]), torch.tensor([1]))
    start = time.perf_counter()
    logits, _ = persam.backbone.decode(photo.embedding, asked, multimask=True, extra=photo.extra)
    fit_mask_weights(photo.frame.to_original(logits).flatten(1), target)
    return time.perf_counter() - start


def main() -> None:
    """Time both methods in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="how often each is timed (3)")
    parser.add_argument("--steps", type=int, default=5, help="steps of the slow method that are actually run (5)")
    flags = parser.parse_args()
    torch.manual_seed(0)
    small = {"num_hidden_layers": 1, "hidden_size": 64, "num_attention_heads": 2, "global_attn_indexes": [0]}
    persam = PerSAM.from_pretrained(SamModel(SamConfig(vision_config=small)), Method.persam_f(), "cpu")
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    mask = x**2 + 1.5 * y**2 < (SIDE / 3) ** 2
    noise = np.random.default_rng(0).integers(0, 80, (SIDE, SIDE, 3))
    reference = Reference((noise + 150 * mask[..., None]).astype(np.uint8), mask)
    slow, fast = [], []
    for _ in range(flags.rounds):
        slow.append(every_step(persam, reference, flags.steps))
        fast.append(one_decode(persam, reference))
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"a decode and all {SIDE * SIDE} pixels a step   {median(slow):8.1f} s for {STEPS} steps")
    print(f"one decode, a sample, five looks          {median(fast):8.2f} s")
    print(f"ratio                                     {median(slow) / median(fast):8.0f}")


if __name__ == "__main__":
    main()
