"""Train tinyworld's CLIP on pictures and captions; its text tower is what the diffusion model reads prompts with.

    python examples/tinyworld/train_clip.py

writes `models/clip` (a transformers CLIPModel with its tokenizer and image processor).
"""

import torch
from torch import Tensor
from transformers import CLIPImageProcessor

from cards import save_card
from corpus import batches, class_numbers
from fitting import fit
from models import CLIP, clip, tokenizer
from training_flags import TrainingFlags, read_flags
from world import SCENES

PICTURES = 32000
ALIKE_STEPS = 800
"""Steps of the second phase, in which most batches show one scene only. Scenes alone tell most pictures of a mixed
batch apart, so that without it neither tower learns what a cat is."""


def train(flags: TrainingFlags) -> None:
    """Train, save, describe."""
    torch.manual_seed(flags.seed)
    words = tokenizer()
    model = clip(words).to(flags.device)
    corpus = flags.corpus("pictures", PICTURES, seed=1)
    processor = CLIPImageProcessor(
        size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    texts = [fact["caption"] for fact in corpus.facts]
    captions = words(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    order = batches(len(corpus), flags.batch_size, flags.seed, flags.first_step("clip"))

    def loss_of(index: Tensor) -> Tensor:
        pixels, tokens = corpus.pixels(index).to(flags.device), captions[index]
        output = model(input_ids=tokens.to(flags.device), pixel_values=pixels)
        # Captions that say the same are no wrong answers for each other: the target is shared between them.
        same = (tokens[:, None] == tokens[None]).all(-1).float().to(flags.device)
        target = same / same.sum(1, keepdim=True)
        cross = torch.nn.functional.cross_entropy
        return (cross(output.logits_per_text, target) + cross(output.logits_per_image, target)) / 2

    scenes, _ = class_numbers(corpus.facts)
    of_scene = [(scenes == scene).nonzero()[:, 0] for scene in range(len(SCENES))]

    def alike(step: int) -> Tensor:
        draw = torch.Generator().manual_seed(flags.seed * 1_000_003 + step)
        pool = of_scene[step // 4 % len(SCENES)] if step % 4 else torch.arange(len(corpus))
        return pool[torch.randperm(len(pool), generator=draw)[: flags.batch_size]]

    settings = (flags.batch_size, flags.learning_rate)
    fitted = fit(model, lambda step: loss_of(next(order)), flags.steps, *settings, flags.state("clip"))
    fitted += fit(model, lambda step: loss_of(alike(step)), ALIKE_STEPS, *settings, flags.state("clip-alike"))
    model.half().save_pretrained(CLIP)
    words.save_pretrained(CLIP)
    processor.save_pretrained(CLIP)
    save_card(CLIP, fitted)


if __name__ == "__main__":
    train(read_flags(__doc__, steps=600, batch_size=128, learning_rate=1e-3))
