"""Rankings of mask proposals by how much they resemble a subject: matched cells, as in Matcher, and merged masks.

A photo is seen in several views, the whole photo and crops of it; the cells of all views are matched together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment, linprog
from torch import Tensor

from persam_dreambooth.segmentation.crops import crop_boxes, is_cut
from persam_dreambooth.segmentation.types import Box, EncodedPhoto


@dataclass(frozen=True, eq=False)
class View:
    """The whole photo, or a crop of it.

    Attributes:
        box: where it lies in the photo.
        pixels: (h, w, 3) uint8 RGB.
    """

    box: Box
    pixels: NDArray[np.uint8]

    def on_photo(self, part: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
        """Return an (h, w) mask of the view as one of the whole photo; empty if the crop's edge cuts it."""
        left, top, right, bottom = self.box
        mask = np.zeros(size, dtype=bool)
        if not is_cut(part, self.box, size):
            mask[top:bottom, left:right] = part
        return mask


def views(pixels: NDArray[np.uint8]) -> list[View]:
    """Return the whole photo, then the four crops of the first crop layer of SAM's automatic mask generator."""
    height, width, _ = pixels.shape
    boxes = [(0, 0, width, height), *crop_boxes(height, width, 1)]
    return [View(box, pixels[box[1] : box[3], box[0] : box[2]].copy()) for box in boxes]


@dataclass(frozen=True, eq=False)
class Candidate:
    """A mask that was found in one view.

    Attributes:
        view: the view's number.
        part: (h, w) bool, the mask in the view.
        mask: (H, W) bool, the mask in the photo.
        score: predicted IoU.
    """

    view: int
    part: NDArray[np.bool_]
    mask: NDArray[np.bool_]
    score: float


@dataclass(frozen=True, eq=False)
class Cells:
    """An encoder's cells in the reference, and in all views of a photo.

    Attributes:
        similarity: (m, n) float32, cosines of the reference's m cells with the views' n cells.
        subject: (m,) bool, the reference's cells under its mask, at least one.
        centres: (n, 2) int64, (x, y) in pixels of the photo.
        view: (n,) int64, the number of each cell's view.
    """

    similarity: Tensor
    subject: Tensor
    centres: Tensor
    view: Tensor

    def inside(self, mask: NDArray[np.bool_]) -> Tensor:
        """Return which cells of all views have their centre in a mask of the photo, (n,) bool."""
        x, y = self.centres.T
        return torch.from_numpy(mask)[y, x]

    def own(self, candidate: Candidate) -> Tensor:
        """Return which cells of its own view a candidate covers, (n,) bool."""
        return self.inside(candidate.mask) & (self.view == candidate.view)

    @cached_property
    def matched(self) -> Tensor:
        """Matcher's matches, (k,) int64: one cell for each of the subject's, kept if its own match is on the subject.

        If there are more than 40, the less similar half is dropped; if none leads back, all are kept.
        """
        similarity, subject = self.similarity.numpy(), self.subject.numpy()
        rows, cells = linear_sum_assignment(similarity[subject], maximize=True)
        back = subject[linear_sum_assignment(similarity.T[cells], maximize=True)[1]]
        kept = back if back.any() else ~back
        likeness, cells = similarity[subject][rows, cells][kept], cells[kept]
        return torch.from_numpy(cells[np.argsort(-likeness)][: len(cells) // 2 if len(cells) > 40 else None])


def match(reference: Tensor, subject: Tensor, shown: Sequence[View], encoded: Sequence[EncodedPhoto]) -> Cells:
    """Compare the reference's (m, C) unit rows with the cells of the encoded views, which fill their squares."""
    features, centres, numbers = [], [], []
    for number, (view, photo) in enumerate(zip(shown, encoded, strict=True)):
        left, top, right, bottom = view.box
        grid = photo.embedding.shape[-1]
        # A crop is a square but for a pixel, so its longer side is the square's.
        middles = (torch.arange(grid) + 0.5) / grid * max(right - left, bottom - top)
        xs, ys = (left + middles).long().clamp(max=right - 1), (top + middles).long().clamp(max=bottom - 1)
        centres.append(torch.stack([xs.repeat(grid), ys.repeat_interleave(grid)], dim=1))
        features.append(F.normalize(photo.embedding, dim=0).flatten(1).T)
        numbers += [number] * grid**2
    return Cells(reference @ torch.cat(features).T, subject, torch.cat(centres), torch.tensor(numbers))


def matched_share(cells: Cells, candidate: Candidate) -> float:
    """Return the share of a mask's cells that match the subject, and whose match there matches back into the mask."""
    own = cells.own(candidate)
    if not own.any():
        return 0.0
    nearest = cells.similarity[:, own].argmax(0)
    back = cells.inside(candidate.mask)[cells.similarity[nearest].argmax(1)]
    return float((cells.subject[nearest] & back).float().mean())


def purity_coverage(cells: Cells, candidate: Candidate) -> float:
    """Return Matcher's purity (matched cells per cell of the mask) times its coverage (the share of them inside)."""
    inside = cells.inside(candidate.mask)
    held = inside[cells.matched].sum()
    return float(held / inside.sum().clamp(min=1) * held / len(cells.matched))


def earth_mover(cells: Cells, candidate: Candidate) -> float:
    """Return Matcher's 1 - earth mover's distance between the subject's cells and the mask's, at (1 - cosine) / 2."""
    own = cells.own(candidate)
    if not own.any():
        return 0.0
    cost = (1 - cells.similarity[cells.subject][:, own].double().numpy()) / 2
    rows, columns = cost.shape
    sums = np.vstack([np.kron(np.eye(rows), np.ones(columns)), np.kron(np.ones(rows), np.eye(columns))])
    shares = np.repeat([1 / rows, 1 / columns], [rows, columns])
    return 1 - float(linprog(cost.ravel(), A_eq=sums, b_eq=shares).fun)


def merged(candidates: Sequence[Candidate], rough: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Unite the masks that lie at least half inside a rough mask; GF-SAM unites those of its matched points."""
    inside = [found.mask for found in candidates if (found.mask & rough).sum() >= 0.5 * found.mask.sum() > 0]
    return np.any([np.zeros_like(rough), *inside], axis=0)
