"""Train tinyworld's CLIP on pictures and captions; its text encoder is also the diffusion model's.

    python experiments/tinyworld/train_clip.py

Writes `models/clip` (a transformers CLIPModel with its tokenizer and image processor). `--go_on --seed 1` continues
training from those weights, with the second phase only.
"""

import torch
from torch import Tensor
from transformers import CLIPImageProcessor, CLIPModel

from cards import load_fitted, save_card
from corpus import batches
from fitting import fit
from loading import load
from models import CLIP, clip, tokenizer
from training_flags import TrainingFlags, read_flags

PICTURES = 32000
MIXED_STEPS = 600
"""Steps of the first phase, with random batches. The scene alone distinguishes most of their pictures, so neither
encoder learns the kinds; in the second phase all pictures of a batch have the same scene and main colour."""


def alike_pools(facts: list[dict], least: int) -> list[Tensor]:
    """Return the indices of the pictures of each (scene, main colour) pair that at least `least` pictures have."""
    pools: dict[tuple[str, str], list[int]] = {}
    for number, fact in enumerate(facts):
        if fact["kinds"]:
            pools.setdefault((fact["scene"], fact["identities"][0]["main"]), []).append(number)
    return [torch.tensor(pool) for _, pool in sorted(pools.items()) if len(pool) >= least]


def train(flags: TrainingFlags) -> None:
    """Train the model, save it and its training record."""
    torch.manual_seed(flags.seed)
    words = tokenizer()
    model = (load(CLIPModel, CLIP).float() if flags.go_on else clip(words)).to(flags.device)
    corpus = flags.corpus("pictures", PICTURES, seed=1)
    processor = CLIPImageProcessor(
        size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    texts = [fact["caption"] for fact in corpus.facts]
    captions = words(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids

    def loss_of(index: Tensor) -> Tensor:
        pixels, tokens = corpus.pixels(index).to(flags.device), captions[index]
        output = model(input_ids=tokens.to(flags.device), pixel_values=pixels)
        # Equal captions are all correct for each other's pictures, so they share the target.
        same = (tokens[:, None] == tokens[None]).all(-1).float().to(flags.device)
        target = same / same.sum(1, keepdim=True)
        cross = torch.nn.functional.cross_entropy
        return (cross(output.logits_per_text, target) + cross(output.logits_per_image, target)) / 2

    settings = (flags.batch_size, flags.learning_rate)
    pools = alike_pools(corpus.facts, flags.batch_size)

    def alike(step: int) -> Tensor:
        draw = torch.Generator().manual_seed(flags.seed * 1_000_003 + step)
        pool = pools[int(torch.randint(len(pools), (1,), generator=draw))] if step % 8 else torch.arange(len(corpus))
        return pool[torch.randperm(len(pool), generator=draw)[: flags.batch_size]]

    if flags.go_on:
        fitted = load_fitted(CLIP)
    else:
        order = batches(len(corpus), flags.batch_size, flags.seed, flags.first_step("clip"))
        fitted = fit(model, lambda step: loss_of(next(order)), MIXED_STEPS, *settings, flags.state("clip"))
    fitted += fit(model, lambda step: loss_of(alike(step)), flags.steps, *settings, flags.state("clip-alike"))
    model.half().save_pretrained(CLIP)
    words.save_pretrained(CLIP)
    processor.save_pretrained(CLIP)
    save_card(CLIP, fitted)


if __name__ == "__main__":
    train(read_flags(__doc__, steps=1500, batch_size=128, learning_rate=1e-3))
