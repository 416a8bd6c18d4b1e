"""Train tinyworld's detector of kinds, which counts uninvited companions.

    python experiments/tinyworld/train_detector.py

Writes `models/detector`. Half of the pictures show two subjects; all are degraded as for the judge.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cards import save_card
from companions import KindDetector
from corpus import Crowd, batches
from fitting import fit
from models import DETECTOR
from recipes import KIND_NAMES
from train_judge import wear
from training_flags import TrainingFlags, read_flags

PICTURES = 16000
CROWD: Crowd = (0.1, 0.4, 0.4, 0.1)


def present(facts: list[dict]) -> Tensor:
    """Return (N, 8) float32: 1 for each kind that a picture shows."""
    return torch.tensor([[float(kind in fact["kinds"]) for kind in KIND_NAMES] for fact in facts])


def train(flags: TrainingFlags) -> None:
    """Train the model, save it and its training record."""
    torch.manual_seed(flags.seed)
    model = KindDetector().to(flags.device, memory_format=torch.channels_last)
    corpus = flags.corpus("company", PICTURES, seed=11, crowd=CROWD)
    shown = present(corpus.facts)
    order = batches(len(corpus), flags.batch_size, flags.seed, flags.first_step("detector"))

    def loss_of(step: int) -> Tensor:
        index = next(order)
        pixels = wear(corpus.pixels(index), torch.Generator().manual_seed(step)).to(flags.device)
        logits = model(pixels.to(memory_format=torch.channels_last))
        return F.binary_cross_entropy_with_logits(logits.float(), shown[index].to(flags.device))

    fitted = fit(model, loss_of, flags.steps, flags.batch_size, flags.learning_rate, flags.state("detector"))
    model.half().save_pretrained(DETECTOR)
    save_card(DETECTOR, fitted)


if __name__ == "__main__":
    train(read_flags(__doc__, steps=1500, batch_size=32, learning_rate=2e-3))
