"""INSID3 with SAM: INSID3's coarse mask prompts a SAM, which draws the outline. This is not in INSID3's paper.

1. INSID3 finds the subject; of its mask, the best connected region is kept.
2. The region, its box, its best points and the most similar points outside prompt the SAM.
3. The SAM's mask is refined as in PerSAM (cascaded post-refinement).
4. If it disagrees with INSID3's (`Insid3Method.agreement`), INSID3's is the result.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from persam_dreambooth.images import mask_iou
from persam_dreambooth.segmentation.backbones import Backbone, Prompts
from persam_dreambooth.segmentation.encoding import PhotoEncoder, check_finite
from persam_dreambooth.segmentation.frame import bounding_box
from persam_dreambooth.segmentation.insid3 import INSID3
from persam_dreambooth.segmentation.one_shot import OneShotSegmenter
from persam_dreambooth.segmentation.refinement import CERTAINTY, as_logits, cascade, recorded
from persam_dreambooth.segmentation.subject import Subject
from persam_dreambooth.segmentation.types import DecoderPass, EncodedPhoto, Picture, Reference, Segmentation

POINTS: Final = 3
"""Maximum number of positive points, and of negative ones."""
SAMPLES: Final = 512
"""Number of positions along the photo's longer side among which the points are chosen."""


class Insid3Sam(OneShotSegmenter):
    """INSID3 with a SAM that draws the outline.

    Photos are encoded by both; `EncodedPhoto.other` is INSID3's.

    Args:
        insid3: finds the subject.
        backbone: the SAM.
        cache: folder that keeps SAM's encoded photos; INSID3 has its own.
    """

    label = "INSID3"

    backbone: Backbone

    def __init__(self, insid3: INSID3, backbone: Backbone, cache: Path | str | None = None) -> None:
        self.insid3, self.backbone = insid3, backbone
        self._encoder = PhotoEncoder(backbone, cache=cache)
        self.name, self.checksum = insid3.name, insid3.checksum

    @property
    def calibration(self) -> str:
        """INSID3's weights and the SAM's, whose predicted IoU is the score."""
        return f"{self.insid3.calibration}-{self.backbone.checksum}"

    def encode(self, images: Sequence[Picture | EncodedPhoto]) -> list[EncodedPhoto]:
        """Encode photos with both encoders; already encoded photos are returned unchanged."""
        missing = [image for image in images if not isinstance(image, EncodedPhoto)]
        pairs = zip(self._encoder(missing), self.insid3.encode(missing), strict=True) if missing else iter(())
        encoded = (replace(photo, other=other) for photo, other in pairs)
        return [image if isinstance(image, EncodedPhoto) else next(encoded) for image in images]

    def encode_to_learn(self, references: Sequence[Reference]) -> list[EncodedPhoto]:
        """Encode the references' photos with INSID3 alone: the SAM learns nothing."""
        return self.insid3.encode_references(references)

    def learn(self, references: Sequence[tuple[Reference, EncodedPhoto]], mask_weights: Tensor | None) -> Subject:
        """Learn a subject, as INSID3 does."""
        return self.insid3.learn([(reference, photo.compared) for reference, photo in references], mask_weights)

    @torch.no_grad()
    def segment_encoded(
        self, photo: EncodedPhoto, subject: Subject, exclude: NDArray[np.bool_] | None = None
    ) -> Segmentation:
        """Segment one encoded photo; arguments as in the base class. The score is SAM's predicted IoU.

        INSID3 marks every instance of the subject; this is the mask of the best one. `segment_instances` finds all.
        """
        found = self.insid3.segment_encoded(photo.compared, subject, exclude)
        if found.box is None:
            return self._own(found, photo)
        found = _best_region(found)
        prompts = self._prompts(found, photo)
        decoded = self.backbone.decode(photo.embedding, prompts, multimask=True, extra=photo.extra)
        first = recorded(*decoded, torch.from_numpy(found.box))
        passes = cascade(self.backbone, photo, prompts, first, (True, True))
        last = passes[-1]
        kept = torch.as_tensor(last.kept, device=photo.embedding.device)
        check_finite(kept, self.backbone.name)
        mask = photo.frame.to_original(kept[None])[0] > 0
        box = bounding_box(mask)
        outline = mask.cpu().numpy()
        if box is None or mask_iou(outline, found.mask) < self.insid3.method.agreement:
            why = "it is empty" if box is None else "it disagrees with INSID3's"
            words = f"SAM's mask was dropped, since {why}; the mask is INSID3's, which is coarser"
            return self._own(replace(found, warnings=(*found.warnings, words)), photo)
        return replace(
            found,
            mask=outline,
            score=float(last.predicted_iou[last.index]),
            box=box.cpu().numpy(),
            passes=tuple(passes),
        )

    def _prompts(self, found: Segmentation, photo: EncodedPhoto) -> Prompts:
        """Return SAM's prompts for a mask: its box, its best points, the most similar points outside, and itself."""
        frame, confidence = photo.frame, torch.from_numpy(found.confidence_map)
        inside = torch.from_numpy(found.mask)
        points = [_peaks(confidence, inside), _peaks(confidence, ~inside)]
        labels = torch.tensor([1] * len(points[0]) + [0] * len(points[1]))
        assert found.box is not None
        box = frame.box_to_model(torch.from_numpy(found.box))
        mask = as_logits(found.mask, photo, CERTAINTY, "bilinear")
        device = photo.embedding.device
        return Prompts(frame.to_model(torch.cat(points)).to(device), labels.to(device), box.to(device), mask)

    def _own(self, found: Segmentation, photo: EncodedPhoto) -> Segmentation:
        """Return INSID3's mask as the result, with logits in SAM's frame."""
        logits = as_logits(found.mask, photo, max(found.score, 1e-3), "bilinear").cpu().numpy()
        own = DecoderPass(logits[None], np.array([found.score], np.float32), 0, logits, None)
        return replace(found, passes=(own,))


def _best_region(found: Segmentation) -> Segmentation:
    """Keep the mask's connected region with the largest sum of confidence; a box around several is a bad prompt."""
    regions, count = ndimage.label(found.mask, structure=np.ones((3, 3)))
    sums = ndimage.sum(found.confidence_map.clip(0), regions, range(1, count + 1))
    mask: NDArray[np.bool_] = regions == 1 + int(np.argmax(sums))
    box = bounding_box(torch.from_numpy(mask))
    assert box is not None, "the region comes from a mask that is not empty"
    return replace(found, mask=mask, box=box.numpy())


def _peaks(confidence: Tensor, where: Tensor) -> Tensor:
    """Return up to `POINTS` points (x, y), (n, 2) int64, of the highest confidence in an (H, W) bool region.

    Each is at least a tenth of the photo's longer side from the ones before, so that they are not neighbours.
    """
    step = max(1, max(confidence.shape) // SAMPLES)
    left = confidence.masked_fill(~where, -torch.inf)[::step, ::step]
    height, width = left.shape
    rows, columns = torch.arange(height)[:, None], torch.arange(width)[None]
    points = []
    for _ in range(POINTS):
        y, x = divmod(int(left.argmax()), width)
        if left[y, x] == -torch.inf:
            break
        points.append([x * step, y * step])
        near = (rows - y) ** 2 + (columns - x) ** 2 < (max(height, width) / 10) ** 2
        left = left.masked_fill(near, -torch.inf)
    return torch.tensor(points, dtype=torch.int64).view(-1, 2)
