"""A reference from less than a mask: a box, a few points or a rough scribble, from which SAM makes the mask."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from persam_dreambooth.errors import UserError
from persam_dreambooth.images import to_mask
from persam_dreambooth.segmentation.backbones import Prompts
from persam_dreambooth.segmentation.persam import PerSAM
from persam_dreambooth.segmentation.types import Picture, Reference, rgb_array

SCRIBBLE_POINTS = 5
"""Points that a scribble is thinned out to: SAM was trained with about as many clicks."""


@torch.no_grad()
def reference_from(
    persam: PerSAM,
    image: Picture,
    box: ArrayLike | None = None,
    points: ArrayLike | None = None,
    point_labels: Sequence[int] | None = None,
    scribble: NDArray[np.generic] | None = None,
) -> Reference:
    """Let SAM draw the reference mask, in two decoder passes of which the second refines the first.

    Args:
        persam: whose backbone draws.
        image: the reference image.
        box: (4,) XYXY around the subject, pixels of the upright photo.
        points: (N, 2), (x, y) in the same frame.
        point_labels: N of 1 (on the subject) or 0 (beside it); all 1 when not given.
        scribble: a mask-like drawing of the photo's size whose strokes lie on the subject.

    Returns:
        A reference whose `foreground` is the mask that was made.

    Raises:
        UserError: nothing to go by, something outside of the photo, or SAM finds nothing there.
    """
    array = rgb_array(image)
    height, width = array.shape[:2]
    chosen = _points(points, scribble, width, height)
    given = [1] * len(chosen) if point_labels is None or points is None else list(point_labels)
    labels = torch.tensor(given, dtype=torch.int64)
    if len(labels) != len(chosen):
        raise UserError(f"{len(chosen)} reference points were given with {len(labels)} labels; give one label a point")
    if not len(chosen) and box is None:
        raise UserError("a reference needs a mask, a box, points or a scribble; none was given")
    encoded = persam.encode([array])[0]
    corners = None
    if box is not None:
        corners = encoded.frame.box_to_model(_box(box, width, height))
    asked = Prompts(encoded.frame.to_model(chosen), labels, corners)
    # One click may mean the part or the whole, so that three masks are asked for; anything more says which.
    ambiguous = corners is None and len(chosen) == 1
    logits, predicted_iou = persam.backbone.decode(encoded.embedding, asked, ambiguous, extra=encoded.extra)
    best = logits[predicted_iou.argmax()]
    again = Prompts(asked.points, asked.labels, corners, best)
    logits, predicted_iou = persam.backbone.decode(encoded.embedding, again, ambiguous, extra=encoded.extra)
    mask = (encoded.frame.to_original(logits[predicted_iou.argmax()][None])[0] > 0).cpu().numpy()
    if not mask.any() or mask.all():
        found = "nothing" if not mask.any() else "the whole photo"
        raise UserError(f"SAM takes {found} for the subject there; draw the reference's box closer, or its mask")
    return Reference(array, mask)


def pick_reference(persam: PerSAM, references: Sequence[Reference]) -> list[float]:
    """How well each reference, alone, finds the subject in the photos of the others.

    Args:
        persam: who looks.
        references: at least two, of the same subject.

    Returns:
        One mean IoU with the others' masks for each, in [0, 1]; the best reference has the highest.

    Raises:
        UserError: fewer than two.
    """
    if len(references) < 2:
        raise UserError(f"the best of {len(references)} references cannot be told; give at least two")
    encoded = [persam.encode([reference.pixels])[0] for reference in references]
    scores = []
    for number, reference in enumerate(references):
        subject = persam.personalize(reference)
        overlaps = []
        for other, photo in enumerate(encoded):
            if other != number:
                found, true = persam.segment(photo, subject).mask, references[other].foreground
                overlaps.append((found & true).sum() / (found | true).sum())
        scores.append(float(np.mean(overlaps)))
    return scores


def scribble_points(scribble: NDArray[np.bool_], count: int = SCRIBBLE_POINTS) -> NDArray[np.int64]:
    """Pixels of a scribble that lie as far from each other as they can, the first at its middle; (N, 2) of (x, y)."""
    rows, columns = np.nonzero(scribble)
    pixels = np.stack([columns, rows], axis=1)
    chosen = [pixels[np.linalg.norm(pixels - pixels.mean(0), axis=1).argmin()]]
    while len(chosen) < min(count, len(pixels)):
        distance = np.min([np.linalg.norm(pixels - one, axis=1) for one in chosen], axis=0)
        if not distance.any():
            break
        chosen.append(pixels[distance.argmax()])
    return np.stack(chosen)


def _points(points: ArrayLike | None, scribble: NDArray[np.generic] | None, width: int, height: int) -> torch.Tensor:
    """(N, 2) float64 points of what was given, inside of the photo."""
    if points is not None and scribble is not None:
        raise UserError("a reference takes points or a scribble, not both; leave one out")
    if scribble is not None:
        drawn = to_mask(scribble)
        if drawn.shape != (height, width) or not drawn.any():
            raise UserError(
                f"a scribble is drawn on the reference's {width} x {height} pixels and is not empty; "
                f"this one has {drawn.shape[1]} x {drawn.shape[0]} and {drawn.sum()} marked"
            )
        points = scribble_points(drawn)
    array = np.asarray([] if points is None else points, dtype=np.float64).reshape(-1, 2)
    outside = [(x, y) for x, y in array.tolist() if not (0 <= x < width and 0 <= y < height)]
    if outside:
        raise UserError(f"the reference point {outside[0]} lies outside of its photo of {width} x {height} pixels")
    return torch.from_numpy(array)


def _box(box: ArrayLike, width: int, height: int) -> torch.Tensor:
    """(4,) float64 XYXY inside of the photo."""
    edges = np.asarray(box, dtype=np.float64).ravel()
    x0, y0, x1, y1 = edges if len(edges) == 4 else (0, 0, 0, 0)
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise UserError(
            f"the reference box {edges.tolist()} is no box in a photo of {width} x {height} pixels; "
            "give left, top, right, bottom"
        )
    return torch.from_numpy(edges)
