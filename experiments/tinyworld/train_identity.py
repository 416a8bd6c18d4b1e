"""Train tinyworld's re-identification network.

    python experiments/tinyworld/train_identity.py

writes `models/identity`. Held-out individuals are never seen; pictures are worn as the judge's are.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cards import save_card
from corpus import Crowd, batches
from fitting import fit
from identity import ATTRIBUTES, AttributeReader
from models import IDENTITY
from train_judge import wear
from training_flags import TrainingFlags, read_flags

PICTURES = 24000
SINGLE: Crowd = (0.0, 1.0, 0.0, 0.0)


def train(flags: TrainingFlags) -> None:
    """Train, save, describe."""
    torch.manual_seed(flags.seed)
    model = AttributeReader().to(flags.device, memory_format=torch.channels_last)
    corpus = flags.corpus("single", PICTURES, seed=12, crowd=SINGLE)
    truth = {
        name: torch.tensor([values.index(fact["identities"][0][name]) for fact in corpus.facts])
        for name, values in ATTRIBUTES.items()
    }
    order = batches(len(corpus), flags.batch_size, flags.seed, flags.first_step("identity"))

    def loss_of(step: int) -> Tensor:
        index = next(order)
        draw = torch.Generator().manual_seed(step)
        pixels = wear(corpus.pixels(index), draw)
        pixels = pixels.flip(-1) if torch.rand((), generator=draw) < 0.5 else pixels
        logits = model(pixels.to(flags.device, memory_format=torch.channels_last))
        losses = [F.cross_entropy(logits[name].float(), truth[name][index].to(flags.device)) for name in ATTRIBUTES]
        return torch.stack(losses).sum()

    fitted = fit(model, loss_of, flags.steps, flags.batch_size, flags.learning_rate, flags.state("identity"))
    model.half().save_pretrained(IDENTITY)
    save_card(IDENTITY, fitted)


if __name__ == "__main__":
    train(read_flags(__doc__, steps=2500, batch_size=32, learning_rate=1.5e-3))
