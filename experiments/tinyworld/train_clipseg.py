"""Train the decoder of tinyworld's CLIPSeg, which masks what a phrase describes; its CLIP is tinyworld's, frozen.

    python experiments/tinyworld/train_clipseg.py

Writes `models/clipseg` (a transformers CLIPSegForImageSegmentation with its processor). Half of the phrases name a
subject of the picture ("a dog", "a red dog"), half are drawn at random; most of these describe nothing in it.
"""

import torch
from torch import Tensor, nn
from transformers import CLIPModel, CLIPSegForImageSegmentation, CLIPSegProcessor, CLIPTokenizer, ViTImageProcessor

from cards import save_card
from corpus import Corpus, Crowd, batches
from fitting import fit
from loading import load
from models import CLIP, CLIPSEG, clipseg
from subjects import COLOURS
from train_sam import label_tables
from training_flags import TrainingFlags, read_flags
from world import KIND_NAMES, SIDE

PICTURES = 8000
CROWD: Crowd = (0.05, 0.35, 0.4, 0.2)
PHRASES = {(kind, colour): f"a {colour} {kind}" for kind in KIND_NAMES for colour in COLOURS}
PHRASES |= {(kind, None): f"a {kind}" for kind in KIND_NAMES}
"""By kind and main colour, or kind alone."""


def described(corpus: Corpus, owners: Tensor, number: int, kind: str, colour: str | None) -> Tensor:
    """Return the mask of everything in a picture that a phrase describes, (side, side) bool."""
    shown = torch.zeros(owners.shape[1], dtype=torch.bool)
    for owner, identity in enumerate(corpus.facts[number]["identities"]):
        shown |= (owners[number] == owner + 1) & (identity["kind"] == kind and colour in (None, identity["main"]))
    return shown[torch.from_numpy(corpus.labels[number]).long()]


def draw_phrase(corpus: Corpus, number: int, draw: torch.Generator) -> tuple[str, str | None]:
    """Draw a key of `PHRASES`: in half of the cases of a subject in the picture, if there is one."""

    def below(count: int) -> int:
        return int(torch.randint(count, (1,), generator=draw))

    identities = corpus.facts[number]["identities"]
    if not identities or below(2):
        return list(PHRASES)[below(len(PHRASES))]
    identity = identities[below(len(identities))]
    return identity["kind"], (None, identity["main"])[below(2)]


@torch.no_grad()
def encode(model: CLIPSegForImageSegmentation, corpus: Corpus, device: torch.device) -> Tensor:
    """Return what the decoder reads of each picture, since the image encoder stays as it is: (N, 3, 65, C) float16."""
    encoded = []
    for index in torch.arange(len(corpus)).split(100):
        pixels = corpus.pixels(index).to(device)
        layers = model.clip.vision_model(pixels, output_hidden_states=True).hidden_states[1:]
        encoded.append(torch.stack(layers, 1).half())
    return torch.cat(encoded)


@torch.no_grad()
def standardize(decoder: nn.Module, pictures: Tensor, phrases: Tensor) -> None:
    """Scale the first weights as if the decoder read standardized values: what all phrases share says nothing.

    Args:
        decoder: CLIPSeg's; it reads the image encoder's last layer first.
        pictures: from `encode`.
        phrases: (P, C), the phrases' features.
    """
    readers = [(layer, pictures[:1000, -1 - n].flatten(0, 1).float()) for n, layer in enumerate(decoder.reduces)]
    for layer, read in (*readers, (decoder.film_mul, phrases), (decoder.film_add, phrases)):
        layer.weight /= read.std(0)
        layer.bias -= layer.weight @ read.mean(0)


def train(flags: TrainingFlags) -> None:
    """Train the decoder, save the model and its training record."""
    torch.manual_seed(flags.seed)
    words = load(CLIPTokenizer, CLIP)
    model = clipseg(load(CLIPModel, CLIP).float()).to(flags.device).eval()
    corpus = flags.corpus("phrases", PICTURES, seed=21, crowd=CROWD)
    _, owners = label_tables(corpus)
    tokens = words(list(PHRASES.values()), padding=True, return_tensors="pt").to(flags.device)
    with torch.no_grad():
        phrases = model.clip.get_text_features(**tokens).pooler_output
    pictures, rows = encode(model, corpus, flags.device), {key: row for row, key in enumerate(PHRASES)}
    standardize(model.decoder, pictures, phrases)
    order = batches(len(corpus), flags.batch_size, flags.seed, flags.first_step("clipseg"))

    def loss_of(step: int) -> Tensor:
        index, draw = next(order), torch.Generator().manual_seed(flags.seed * 1_000_003 + step)
        asked = [(number, *draw_phrase(corpus, number, draw)) for number in index.tolist()]
        target = torch.stack([described(corpus, owners, *phrase) for phrase in asked]).float().to(flags.device)
        layers = pictures[index.to(flags.device)].float().unbind(1)
        logits = model.decoder(layers, phrases[[rows[phrase[1:]] for phrase in asked]]).logits
        return torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), target)

    settings = (flags.steps, flags.batch_size, flags.learning_rate)
    fitted = fit(model.decoder, loss_of, *settings, flags.state("clipseg"))
    model.half().save_pretrained(CLIPSEG)
    square = {"height": SIDE, "width": SIDE}
    images = ViTImageProcessor(size=square, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    CLIPSegProcessor(images, words).save_pretrained(CLIPSEG)
    save_card(CLIPSEG, fitted)


if __name__ == "__main__":
    train(read_flags(__doc__, steps=500, batch_size=64, learning_rate=2e-3))
