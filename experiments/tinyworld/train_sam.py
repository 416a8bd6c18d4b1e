"""Train tinyworld's SAM with points, boxes and masks to predict whole, part and sub-part masks and their IoU.

    python experiments/tinyworld/train_sam.py

Writes `models/sam` (a transformers SamModel). `--go_on --seed 1` continues training from those weights.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from torch import Tensor
from transformers import SamImageProcessor, SamModel

from cards import load_fitted, save_card
from corpus import CROWDED, Corpus, batches
from fitting import fit
from loading import load
from models import SAM, sam
from persam_dreambooth.segmentation.frame import PIXEL_MEAN, PIXEL_STD
from training_flags import TrainingFlags, read_flags

PICTURES = 16000
PROMPTS = 3
"""Prompts per picture in one step."""
FOCAL_WEIGHT, DICE_WEIGHT = 20.0, 1.0
"""As in SAM's paper, section A."""


@dataclass
class Asked:
    """Prompts for K masks, and the decoder's targets.

    Attributes:
        points: (K, 1, 2, 2) float32, a positive and a negative point (x, y).
        boxes: (K, 1, 4) float32 XYXY of `target`, jittered.
        levels: (K, 3, side, side) float32 in {0, 1}: sub-part, part and whole under the positive point.
        target: (K, side, side) float32: the level that the box encloses.
    """

    points: Tensor
    boxes: Tensor
    levels: Tensor
    target: Tensor


def sam_pixels(images: np.ndarray) -> Tensor:
    """Convert (B, side, side, 3) uint8 to the input of SAM's encoder."""
    mean, std = torch.tensor(PIXEL_MEAN), torch.tensor(PIXEL_STD)
    return ((torch.from_numpy(images).float() - mean) / std).permute(0, 3, 1, 2)


def label_tables(corpus: Corpus) -> tuple[Tensor, Tensor]:
    """Return (N, 64) ids of the part and of the subject that each label of a picture belongs to; 0 is the scene."""
    parts, owners = torch.zeros(len(corpus), 64, dtype=torch.long), torch.zeros(len(corpus), 64, dtype=torch.long)
    for number, fact in enumerate(corpus.facts):
        groups = [(owner, name.split("/")[0]) for owner, name in fact["names"]]
        for label, group in enumerate(groups, 1):
            parts[number, label] = groups.index(group) + 1
            owners[number, label] = group[0] + 1
    return parts, owners


def ask(labels: Tensor, parts: Tensor, owners: Tensor, rng: Generator) -> Asked:
    """Draw `PROMPTS` prompts per picture.

    Args:
        labels: (B, side, side) int64 label maps.
        parts, owners: (B, 64) from `label_tables`.
        rng: the random numbers to draw from.
    """
    points, levels, targets, boxes = [], [], [], []
    side = labels.shape[-1]
    for label_map, part_of, owner_of in zip(labels, parts, owners, strict=True):
        owner_map = owner_of[label_map]
        inside, outside = owner_map.flatten().nonzero()[:, 0], (owner_map == 0).flatten().nonzero()[:, 0]
        for _ in range(PROMPTS):
            if len(inside) == 0:
                inside = torch.arange(side * side)
            # Sub-parts are small, so half of the points are drawn from a random label.
            spot = inside[int(rng.integers(len(inside)))]
            if rng.random() < 0.5:
                present = label_map.unique()
                own = (label_map == present[int(rng.integers(len(present)))]).flatten() & (owner_map > 0).flatten()
                spots = own.nonzero()[:, 0]
                spot = spots[int(rng.integers(len(spots)))] if len(spots) else spot
            y, x = divmod(int(spot), side)
            label = label_map[y, x]
            level = torch.stack(
                [label_map == label, part_of[label_map] == part_of[label], owner_map == owner_of[label]]
            )
            others = ((owner_map > 0) & ~level[2]).flatten().nonzero()[:, 0]
            pool = others if len(others) and rng.random() < 0.4 else outside
            away_y, away_x = divmod(int(pool[int(rng.integers(len(pool)))]), side)
            target = level[int(rng.choice(3, p=[0.15, 0.25, 0.6]))]
            rows, columns = target.any(1).nonzero()[:, 0], target.any(0).nonzero()[:, 0]
            edges = np.array([columns[0], rows[0], columns[-1], rows[-1]], dtype=np.float32)
            # Pixel indices, without the half pixel to the centre, which SAM adds itself; the same for boxes.
            points.append([[float(x), float(y)], [float(away_x), float(away_y)]])
            boxes.append((edges + rng.normal(0, 0.8, 4)).clip(0, side - 1))
            levels.append(level)
            targets.append(target)
    return Asked(
        torch.tensor(points)[:, None],
        torch.tensor(np.array(boxes), dtype=torch.float32)[:, None],
        torch.stack(levels).float(),
        torch.stack(targets).float(),
    )


def mask_loss(logits: Tensor, scores: Tensor, targets: Tensor) -> Tensor:
    """Return focal and dice loss of (K, M, h, w) logits plus the error of their (K, M) predicted IoU."""
    targets = targets.expand_as(logits)
    cross = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    share = logits.sigmoid()
    right = share * targets + (1 - share) * (1 - targets)
    focal = (cross * (1 - right) ** 2).mean(dim=(-1, -2))
    overlap = (share * targets).sum(dim=(-1, -2))
    dice = 1 - (2 * overlap + 1) / (share.sum(dim=(-1, -2)) + targets.sum(dim=(-1, -2)) + 1)
    with torch.no_grad():
        found, wanted = logits > 0, targets > 0.5
        iou = (found & wanted).sum(dim=(-1, -2)) / (found | wanted).sum(dim=(-1, -2)).clamp_min(1)
    return (FOCAL_WEIGHT * focal + DICE_WEIGHT * dice + (scores - iou) ** 2).mean()


def step_loss(model: SamModel, features: Tensor, asked: Asked, rng: Generator) -> Tensor:
    """Loss for the prompts of PerSAM and of SAM's users: a point, also with a negative one, a box, a mask to refine.

    For points alone, the three masks are sub-part, part and whole, and the single mask is the whole. For
    a box or a mask prompt, all masks are that prompt's target.
    """
    count = len(asked.points)
    positive = torch.ones(count, 1, 1, dtype=torch.long, device=features.device)
    both = torch.cat([positive, torch.zeros_like(positive)], dim=-1)
    whole = asked.levels[:, 2:]

    def decode(multimask: bool, **prompts: Tensor) -> tuple[Tensor, Tensor]:
        output = model(image_embeddings=features, multimask_output=multimask, **prompts)
        return output.pred_masks[:, 0].float(), output.iou_scores[:, 0].float()

    if rng.random() < 0.5:
        one = {"input_points": asked.points[:, :, :1], "input_labels": positive}
    else:
        one = {"input_points": asked.points, "input_labels": both}
    three, scores = decode(True, **one)
    single, score = decode(False, **one)
    loss = mask_loss(three, scores, asked.levels) + mask_loss(single, score, whole)
    if rng.random() < 0.5:
        prompts, target = {"input_boxes": asked.boxes}, asked.target[:, None]
    else:
        prompts, target = one | {"input_masks": single.detach()}, whole
        if rng.random() < 0.5:
            rows, columns = whole[:, 0].any(2).float(), whole[:, 0].any(1).float()
            prompts |= {"input_boxes": _boxes(rows, columns)}
    multimask = rng.random() < 0.5
    return loss + mask_loss(*decode(bool(multimask), **prompts), target)


def _boxes(rows: Tensor, columns: Tensor) -> Tensor:
    """Return (K, 1, 4) boxes around the occupied rows and columns, each (K, side)."""
    side = rows.shape[1]
    first = [occupied.argmax(1) for occupied in (columns, rows)]
    last = [side - 1 - occupied.flip(1).argmax(1) for occupied in (columns, rows)]
    return torch.stack([*first, *last], dim=1)[:, None].float()


def train(flags: TrainingFlags) -> None:
    """Train the model, save it and its training record."""
    torch.manual_seed(flags.seed)
    model = (load(SamModel, SAM).float() if flags.go_on else sam()).to(flags.device)
    earlier = load_fitted(SAM) if flags.go_on else None
    corpus = flags.corpus("crowds", PICTURES, seed=2, crowd=CROWDED)
    parts, owners = label_tables(corpus)
    order = batches(len(corpus), flags.batch_size, flags.seed, flags.first_step("sam"))

    def loss_of(step: int) -> Tensor:
        index = next(order)
        rng = np.random.default_rng([flags.seed, step])
        labels = torch.from_numpy(corpus.labels[index.numpy()]).long()
        asked = ask(labels, parts[index], owners[index], rng)
        asked = Asked(*(value.to(flags.device) for value in vars(asked).values()))
        pixels = sam_pixels(corpus.images[index.numpy()]).to(flags.device)
        features = model.vision_encoder(pixels).last_hidden_state
        return step_loss(model, features.repeat_interleave(PROMPTS, dim=0), asked, rng)

    fitted = fit(model, loss_of, flags.steps, flags.batch_size, flags.learning_rate, flags.state("sam"))
    fitted = earlier + fitted if earlier else fitted
    model.half().save_pretrained(SAM)
    SamImageProcessor(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64}).save_pretrained(SAM)
    save_card(SAM, fitted)


if __name__ == "__main__":
    train(read_flags(__doc__, steps=2000, batch_size=16, learning_rate=1e-3))
