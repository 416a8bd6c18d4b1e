"""References without a mask: SAM makes the mask from a box, a few points or a rough scribble."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from persam_dreambooth.errors import UserError
from persam_dreambooth.images import mask_iou, to_mask
from persam_dreambooth.segmentation.backbones import Prompts
from persam_dreambooth.segmentation.one_shot import OneShotSegmenter
from persam_dreambooth.segmentation.types import Picture, Reference, rgb_array

SCRIBBLE_POINTS = 5
"""Number of points sampled from a scribble: SAM was trained with about as many clicks."""


@torch.no_grad()
def reference_from(
    segmenter: OneShotSegmenter,
    image: Picture,
    box: ArrayLike | None = None,
    points: ArrayLike | None = None,
    point_labels: Sequence[int] | None = None,
    scribble: NDArray[np.generic] | None = None,
) -> Reference:
    """Create a reference mask with SAM in two decoder passes; the second refines the first.

    For SegGPT, which has no SAM, the filled box is the mask.

    Args:
        segmenter: provides the SAM.
        image: the reference image.
        box: (4,) XYXY around the subject, in pixels of the upright photo.
        points: (N, 2), (x, y) in the same frame.
        point_labels: N labels, 1 (on the subject) or 0 (on the background); all 1 by default.
        scribble: a mask-like drawing of the photo's size whose strokes lie on the subject.

    Returns:
        A reference whose `foreground` is SAM's mask, or the filled box.

    Raises:
        UserError: no prompt, a prompt outside the photo, a method without a SAM, or SAM's mask is empty or covers
            the whole photo.
    """
    array = rgb_array(image)
    height, width = array.shape[:2]
    clicks = _points(points, scribble, width, height)
    given = [1] * len(clicks) if point_labels is None or points is None else list(point_labels)
    labels = torch.tensor(given, dtype=torch.int64)
    if len(labels) != len(clicks):
        raise UserError(f"{len(clicks)} reference points were given with {len(labels)} labels; give one label each")
    if not len(clicks) and box is None:
        raise UserError("a reference needs a mask, a box, points or a scribble; none was given")
    backbone = segmenter.backbone
    if backbone is None:
        if box is not None and segmenter.box_is_mask and not len(clicks):
            return Reference(array, _filled(_box(box, width, height), width, height))
        takes = "points" if segmenter.box_is_mask else "a box, points"
        raise UserError(
            f"{segmenter.label} has no SAM to make a mask from {takes} or a scribble; give the reference's mask, or "
            "use a --method with a SAM, such as insid3-sam"
        )
    encoded = segmenter.encode([array])[0]
    model_box = None
    if box is not None:
        model_box = encoded.frame.box_to_model(_box(box, width, height))
    prompts = Prompts(encoded.frame.to_model(clicks), labels, model_box)
    # A single click is ambiguous (part or whole), so the decoder returns three masks; further prompts resolve that.
    ambiguous = model_box is None and len(clicks) == 1
    logits, predicted_iou = backbone.decode(encoded.embedding, prompts, ambiguous, extra=encoded.extra)
    best = logits[predicted_iou.argmax()]
    refined = Prompts(prompts.points, prompts.labels, model_box, best)
    logits, predicted_iou = backbone.decode(encoded.embedding, refined, ambiguous, extra=encoded.extra)
    mask = (encoded.frame.to_original(logits[predicted_iou.argmax()][None])[0] > 0).cpu().numpy()
    if not mask.any() or mask.all():
        found = "an empty mask" if not mask.any() else "a mask of the whole photo"
        raise UserError(
            f"SAM returned {found} for the reference; draw a tighter box around the subject, or give its mask"
        )
    return Reference(array, mask)


def rate_references(segmenter: OneShotSegmenter, references: Sequence[Reference]) -> list[float]:
    """Rate each reference by how well it alone finds the subject in the photos of the other references.

    Args:
        segmenter: the method that segments.
        references: at least two, of the same subject.

    Returns:
        The mean IoU with the others' masks for each reference, in [0, 1]; the best reference has the highest.

    Raises:
        UserError: fewer than two.
    """
    if len(references) < 2:
        raise UserError(f"the best of {len(references)} references cannot be chosen; give at least two")
    encoded = [segmenter.encode([reference.pixels])[0] for reference in references]
    scores = []
    for number, reference in enumerate(references):
        subject = segmenter.personalize(reference)
        ious = []
        for other, photo in enumerate(encoded):
            if other != number:
                found, true = segmenter.segment(photo, subject).mask, references[other].foreground
                ious.append(mask_iou(found, true))
        scores.append(float(np.mean(ious)))
    return scores


def scribble_points(scribble: NDArray[np.bool_], count: int = SCRIBBLE_POINTS) -> NDArray[np.int64]:
    """Sample pixels of a scribble by farthest-point sampling, the first nearest to its mean; (N, 2) of (x, y)."""
    rows, columns = np.nonzero(scribble)
    pixels = np.stack([columns, rows], axis=1)
    chosen = [pixels[np.linalg.norm(pixels - pixels.mean(0), axis=1).argmin()]]
    while len(chosen) < min(count, len(pixels)):
        distance = np.min([np.linalg.norm(pixels - point, axis=1) for point in chosen], axis=0)
        if not distance.any():
            break
        chosen.append(pixels[distance.argmax()])
    return np.stack(chosen)


def _points(points: ArrayLike | None, scribble: NDArray[np.generic] | None, width: int, height: int) -> torch.Tensor:
    """Return the given points, or those of the scribble, as (N, 2) float64, after checking that they are inside."""
    if points is not None and scribble is not None:
        raise UserError("a reference takes points or a scribble, not both; leave one out")
    if scribble is not None:
        drawn = to_mask(scribble)
        if drawn.shape != (height, width) or not drawn.any():
            raise UserError(
                f"the scribble has {drawn.shape[1]} x {drawn.shape[0]} pixels, {drawn.sum()} of them marked; it must "
                f"have the reference's {width} x {height} pixels and mark some of them"
            )
        points = scribble_points(drawn)
    array = np.asarray([] if points is None else points, dtype=np.float64).reshape(-1, 2)
    outside = [(x, y) for x, y in array.tolist() if not (0 <= x < width and 0 <= y < height)]
    if outside:
        raise UserError(f"the reference point {outside[0]} lies outside its photo of {width} x {height} pixels")
    return torch.from_numpy(array)


def _box(box: ArrayLike, width: int, height: int) -> torch.Tensor:
    """Return the box as (4,) float64 XYXY, after checking that it is inside the photo."""
    edges = np.asarray(box, dtype=np.float64).ravel()
    x0, y0, x1, y1 = edges if len(edges) == 4 else (0, 0, 0, 0)
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise UserError(
            f"the reference box {edges.tolist()} is not a box inside a photo of {width} x {height} pixels; "
            "give left, top, right, bottom"
        )
    return torch.from_numpy(edges)


def _filled(box: torch.Tensor, width: int, height: int) -> NDArray[np.bool_]:
    """Return a mask, (height, width) bool, of the pixels that a (4,) XYXY box touches."""
    x0, y0, x1, y1 = box.tolist()
    rows, columns = np.arange(height)[:, None], np.arange(width)[None]
    mask: NDArray[np.bool_] = (columns + 1 > x0) & (columns < x1) & (rows + 1 > y0) & (rows < y1)
    return mask
