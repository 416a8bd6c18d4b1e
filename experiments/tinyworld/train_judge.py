"""Train tinyworld's judge, the independent classifier that scores generated images.

    python experiments/tinyworld/train_judge.py

Writes `models/judge`. Pictures are blurred, noised and re-lit at random, because generated images are soft.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as transform

from cards import save_card
from corpus import batches, class_numbers
from fitting import fit
from judge import Judge
from models import JUDGE
from subjects import PATTERNS
from training_flags import TrainingFlags, read_flags

PICTURES = 32000


def wear(pixels: Tensor, draw: torch.Generator) -> Tensor:
    """Degrade (B, 3, h, w) pictures in [-1, 1] roughly as generation does: blur, noise, other light."""
    low, blur, contrast, light, noise = torch.rand(5, generator=draw).tolist()
    side = pixels.shape[-1]
    if low < 0.5:
        small = int(side * (0.35 + low))
        pixels = F.interpolate(F.interpolate(pixels, (small, small), mode="area"), (side, side), mode="bilinear")
    if blur < 0.4:
        pixels = transform.gaussian_blur(pixels, [5, 5], [0.4 + 3 * blur])
    pixels = pixels * (0.75 + 0.4 * contrast) + 0.3 * (light - 0.5)
    return pixels + 0.12 * noise * torch.randn(pixels.shape, generator=draw)


def train(flags: TrainingFlags) -> None:
    """Train the model, save it and its training record."""
    torch.manual_seed(flags.seed)
    model = Judge().to(flags.device, memory_format=torch.channels_last)
    corpus = flags.corpus("pictures", PICTURES, seed=1)
    scenes, kinds = class_numbers(corpus.facts)
    patterns = torch.tensor(
        [PATTERNS.index(fact["identities"][0]["pattern"]) if fact["kinds"] else -1 for fact in corpus.facts]
    )
    crowded = torch.tensor([len(fact["kinds"]) > 1 for fact in corpus.facts])
    kinds, patterns = kinds.masked_fill(crowded, -1), patterns.masked_fill(crowded, -1)
    order = batches(len(corpus), flags.batch_size, flags.seed, flags.first_step("judge"))

    def loss_of(step: int) -> Tensor:
        index = next(order)
        pixels = wear(corpus.pixels(index), torch.Generator().manual_seed(step)).to(flags.device)
        verdict = model(pixels.to(memory_format=torch.channels_last))
        masks = torch.from_numpy(corpus.labels[index.numpy()] > 0).float()[:, None].to(flags.device)
        asked = ((verdict.scene, scenes), (verdict.kind, kinds), (verdict.pattern, patterns))
        loss = 2 * F.binary_cross_entropy_with_logits(verdict.mask.float(), masks)
        for said, truth in asked:
            loss = loss + F.cross_entropy(said.float(), truth[index].to(flags.device), ignore_index=-1)
        return loss

    fitted = fit(model, loss_of, flags.steps, flags.batch_size, flags.learning_rate, flags.state("judge"))
    model.half().save_pretrained(JUDGE)
    save_card(JUDGE, fitted)


if __name__ == "__main__":
    train(read_flags(__doc__, steps=1000, batch_size=32, learning_rate=2e-3))
