"""Other masks for a photo whose mask is wrong, to choose from: those most like the subject first."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from persam_dreambooth.errors import UserError
from persam_dreambooth.images import mask_iou
from persam_dreambooth.photos import files, rendering
from persam_dreambooth.preprocessing.references import ReferenceFiles
from persam_dreambooth.review.clicks import KEPT, Clicker
from persam_dreambooth.segmentation import Backbone, FeatureEncoder
from persam_dreambooth.segmentation.encoding import PhotoEncoder
from persam_dreambooth.segmentation.proposals import Proposal, ProposalSource, prototype, similarities

MOST = 8
"""Number of masks that are offered."""
SAME = 0.9
"""IoU with the photo's mask from which a mask is not offered, since it is the one that is wrong."""
THUMBNAIL = 176
"""Longer side of a mask's picture, in pixels."""


@dataclass(frozen=True, eq=False)
class Alternative:
    """A mask that is offered for a photo.

    Attributes:
        proposal: the mask.
        similarity: cosine with the subject, in [-1, 1]; None if no photo shows the subject yet.
        picture: the photo, small, with everything else dimmed.
    """

    proposal: Proposal
    similarity: float | None
    picture: Image.Image

    @property
    def key(self) -> str:
        """A name made of the mask itself, so that an old page cannot choose another one."""
        return hashlib.sha256(self.proposal.small.cpu().numpy().tobytes()).hexdigest()[:16]


class Alternatives:
    """Finds other masks for a photo with the SAM that follows the clicks.

    Args:
        clicker: has the SAM.
        source: makes the source of proposals for that SAM.
        features: loads the encoder whose features masks are compared in; it returns None for the SAM's own.
    """

    def __init__(
        self,
        clicker: Clicker,
        source: Callable[[Backbone], ProposalSource],
        features: Callable[[], FeatureEncoder | None] = lambda: None,
    ) -> None:
        self._clicker, self._source, self._features = clicker, source, features
        self._encoder: PhotoEncoder | None = None
        self._proposing: ProposalSource | None = None
        self._prototypes: dict[tuple[str, str], Tensor] = {}
        self._found: OrderedDict[str, list[Alternative]] = OrderedDict()

    def find(
        self, photo: Path, current: NDArray[np.bool_] | None, references: Sequence[ReferenceFiles]
    ) -> list[Alternative]:
        """Find at most `MOST` masks; without references the best predicted IoU comes first.

        Args:
            photo: the file.
            current: (H, W) bool, its mask, which is not offered again; None without one.
            references: photos with masks that show the subject; this photo does not count.

        Raises:
            UserError: a photo or mask cannot be read.
        """
        image = files.read_photo(photo)
        with self._clicker.using(photo) as (persam, encoded):
            if self._proposing is None:
                self._proposing, features = self._source(persam.backbone), self._features()
                self._encoder = PhotoEncoder(features) if features else None
            proposals = self._proposing(np.asarray(image), encoded)
            shown = [self._prototype(reference) for reference in references if reference.image != photo]
            liked: list[float | None] = [None] * len(proposals)
            if shown:
                target = F.normalize(torch.stack(shown).mean(0), dim=0)
                compared = encoded if self._encoder is None else self._encoder([image])[0]
                liked = [*similarities(proposals, compared, target)]
        # Stable, so that masks without a similarity stay in the order of their predicted IoU.
        ranked = sorted(zip(proposals, liked, strict=True), key=lambda pair: -(pair[1] or 0.0))
        found = list[Alternative]()
        for proposal, similarity in ranked:
            mask = proposal.mask()
            if mask.any() and (current is None or mask_iou(mask, current) < SAME):
                found.append(Alternative(proposal, similarity, _picture(image, mask)))
            if len(found) == MOST:
                break
        self._found[files.digest(photo)] = found
        while len(self._found) > KEPT:
            self._found.popitem(last=False)
        return found

    def take(self, photo: Path, key: str) -> Proposal:
        """Return a mask that `find` offered for this photo, by its key.

        Raises:
            UserError: it was offered long ago, or for another photo.
        """
        for alternative in self._found.get(files.digest(photo), []):
            if alternative.key == key:
                return alternative.proposal
        raise UserError("that mask is no longer kept; press “Other masks” again")

    def _prototype(self, reference: ReferenceFiles) -> Tensor:
        """Return the subject's prototype in a reference, (C,), computed once."""
        assert reference.mask is not None, "the page knows references by their masks"
        key = files.digest(reference.image), files.digest(reference.mask)
        if key not in self._prototypes:
            mask = torch.from_numpy(files.read_mask(reference.mask))
            if self._encoder is not None:
                photo = self._encoder([files.read_photo(reference.image)])[0]
            else:
                with self._clicker.using(reference.image) as (_, photo):
                    pass
            self._prototypes[key] = prototype(photo, mask)
        return self._prototypes[key]


def _picture(image: Image.Image, mask: NDArray[np.bool_]) -> Image.Image:
    """Draw a mask over its photo, small."""
    small = image.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    return rendering.overlay(small, np.asarray(Image.fromarray(mask).resize(small.size)))
