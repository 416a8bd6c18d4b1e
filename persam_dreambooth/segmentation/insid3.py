"""INSID3: one frozen DINOv3 finds and segments the subject, without SAM."""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from persam_dreambooth.errors import UserError
from persam_dreambooth.segmentation import insid3_steps as steps
from persam_dreambooth.segmentation import location
from persam_dreambooth.segmentation.encoding import PhotoEncoder
from persam_dreambooth.segmentation.features import FeatureEncoder
from persam_dreambooth.segmentation.frame import Frame, bounding_box
from persam_dreambooth.segmentation.method import Insid3Method
from persam_dreambooth.segmentation.one_shot import OneShotSegmenter
from persam_dreambooth.segmentation.subject import Memory, Subject
from persam_dreambooth.segmentation.types import DecoderPass, EncodedPhoto, Picture, Reference, Segmentation


class INSID3(OneShotSegmenter):
    """Learn a subject from references and segment it in other photos, with one frozen vision transformer.

    Photos are encoded as `EncodedPhoto(embedding=debiased features, frame, extra=(plain features,))`. The mask is as
    coarse as the patches; `Insid3Sam` refines it.

    Args:
        encoder: the DINOv3; INSID3's square is the encoder's.
        method: its settings.
        cache: folder that keeps encoded photos for later runs and other subjects; see `PhotoEncoder`.
    """

    label = "INSID3"

    def __init__(
        self, encoder: FeatureEncoder, method: Insid3Method | None = None, cache: Path | str | None = None
    ) -> None:
        self.method = method or Insid3Method()
        # The authors squeeze every photo into the square; otherwise its aspect is kept, with padding.
        self._encoder = PhotoEncoder(
            encoder.squeezing() if self.method.fidelity == "official" else encoder, cache=cache
        )
        self.name = encoder.name
        black = np.zeros((encoder.image_size, encoder.image_size, 3), np.uint8)
        features = encoder.encode(encoder.frame(*black.shape[:2]).pixels(black)[None])[0]
        width = len(features)
        components = self.method.svd_components or round(width * steps.POSITIONAL_SHARE)
        if components >= width:
            raise UserError(
                f"svd_components {components} must be less than the {width} channels of {self.name}; leave it out for "
                f"the paper's share, {round(width * steps.POSITIONAL_SHARE)}"
            )
        # The features also depend on size, placement and projection: a subject made with other ones is refused.
        placed = "squeezed" if self.method.fidelity == "official" else "padded"
        self.checksum = f"{encoder.checksum}-insid3-{encoder.image_size}-{placed}-{components}"
        self.projection = steps.positional_projection(_rows(F.normalize(features, dim=0)), components)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        method: Insid3Method | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
        image_size: int | None = None,
        cache: Path | str | None = None,
    ) -> Self:
        """Load INSID3 on a DINOv3 given by name or path; arguments and errors as in `FeatureEncoder.from_pretrained`.

        Args:
            source: "facebook/dinov3-vitl16-pretrain-lvd1689m" for the paper's.
            method: its settings.
            device: None uses an accelerator if there is one.
            dtype: of the weights and activations.
            image_size: side of the square, in pixels; None for 64 patches, the paper's 1024 pixels.
            cache: see the class.
        """
        return cls(FeatureEncoder.from_pretrained(source, image_size, device, dtype), method, cache)

    @property
    def calibration(self) -> str:
        """The features' checksum, and the settings that the masks depend on."""
        return f"{self.checksum}-{self.method.tau:g}-{self.method.merge_threshold:g}"

    @torch.no_grad()
    def encode(self, images: Sequence[Picture | EncodedPhoto]) -> list[EncodedPhoto]:
        """Encode photos in one forward pass; already encoded photos are returned unchanged."""
        return [photo if photo.extra else self._debias(photo) for photo in self._encoder(images)]

    def _debias(self, photo: EncodedPhoto) -> EncodedPhoto:
        """Replace the encoder's plain features by debiased ones; the plain ones move to `extra`."""
        plain = F.normalize(photo.embedding, dim=0)
        grid = plain.shape[-1]
        features = steps.debiased(_rows(plain), self.projection)
        return EncodedPhoto(features.T.reshape(-1, grid, grid), photo.frame, (plain,))

    def learn(self, references: Sequence[tuple[Reference, EncodedPhoto]], mask_weights: Tensor | None) -> Subject:
        """Compute the prototype, and remember the references' cells."""
        inside, features, labels = [], [], []
        for number, (reference, photo) in enumerate(references, start=1):
            features.append(_rows(_of_photo(photo.embedding, photo.frame)))
            inside.append(self._covered(reference, photo))
            labels.append(torch.where(inside[-1], number, -number).short())
        feature = steps.prototype(list(zip(features, inside, strict=True)))
        memory = Memory(torch.cat(features), torch.cat(labels))
        return Subject(feature, feature.clone(), self.name, self.checksum, memory=memory)

    def _covered(self, reference: Reference, photo: EncodedPhoto) -> Tensor:
        """Return which of the photo's n cells lie under a reference mask, (n,) bool, at least one."""
        frame, grid, device = photo.frame, photo.embedding.shape[-1], photo.embedding.device
        mask = torch.from_numpy(reference.foreground).float()
        coverage = frame.to_grid(mask, grid, 0.0, "area")
        rows, columns = _shown(frame, grid)
        for cells, last in ((coverage, rows), (coverage.T, columns)):  # the photo's edge counts with the cell before
            cells[last - 1] += cells[last:].sum(0)
        coverage = coverage[:rows, :columns].flatten().to(device)
        covered = coverage > 0.5
        if self.method.fidelity == "official":
            square = F.interpolate(mask[None, None], (frame.side, frame.side), mode="nearest")
            for mode in ("bilinear", "nearest"):
                align = False if mode == "bilinear" else None
                cells = F.interpolate(square, (grid, grid), mode=mode, align_corners=align)[0, 0] > 0.5
                if cells.any():
                    return cells.flatten().to(device)
            if square.any():
                y, x = (square[0, 0].nonzero().float().mean(0) / (frame.side // grid)).int()
                cells[y, x] = True
                return cells.flatten().to(device)
        return covered if covered.any() else coverage == coverage.max()

    @torch.no_grad()
    def segment_encoded(
        self, photo: EncodedPhoto, subject: Subject, exclude: NDArray[np.bool_] | None = None
    ) -> Segmentation:
        """Segment one encoded photo; arguments as in the base class.

        The score is the mean cosine of the mask's cells with the prototype, in [-1, 1]; 0 for an empty mask.
        """
        frame, grid, memory = photo.frame, photo.embedding.shape[-1], subject.memory
        assert memory is not None, "check() has seen that INSID3 made the subject"
        features, plain = (_rows(_of_photo(values, frame)) for values in (photo.embedding, photo.extra[0]))
        candidate = steps.candidates(features, subject.target_feature, memory)
        confidence = location.on_photo(subject.target_feature, photo)
        searched = torch.ones_like(candidate)
        if exclude is not None:
            outside = torch.from_numpy(exclude).to(confidence.device)
            hidden = frame.to_grid(outside.float(), grid, 0.0, "area")
            searched = _of_photo(hidden, frame).flatten() < 0.5
            confidence = confidence.masked_fill(outside, confidence.min())
        candidate &= searched
        chosen = candidate
        if candidate.any():
            cluster = steps.clusters(plain, self.method.tau)
            chosen = steps.select(
                features, plain, subject.target_feature, candidate, cluster, self.method.merge_threshold
            )
            chosen &= searched  # two instances are often one cluster
        score = float((features @ subject.target_feature)[chosen].mean()) if chosen.any() else 0.0
        rows, columns = _shown(frame, grid)
        cells = chosen.view(1, 1, rows, columns).float()
        # The mask goes on to the photo's edge, which may lie in a cell that is mostly padding.
        cells = F.pad(cells, (0, grid - columns, 0, grid - rows), mode="replicate")
        return self._result(cells[0, 0] > 0, score, confidence, frame)

    def _result(self, cells: Tensor, score: float, confidence: Tensor, frame: Frame) -> Segmentation:
        """Return the segmentation of a photo from its mask of cells, (h, w) bool."""
        mask = self._on_photo(cells, frame)
        box = bounding_box(mask)
        points, labels = location.location_prior(confidence, negative=False)
        # These are not a decoder's logits. They are symmetric, so that they cross zero at the mask's edge, and larger
        # for a better match, which decides where the masks of several subjects overlap.
        magnitude = max(score, 1e-3)
        kept = torch.where(cells, magnitude, -magnitude).float().cpu().numpy()
        return Segmentation(
            mask=mask.cpu().numpy(),
            score=score,
            points=points.cpu().numpy(),
            point_labels=labels.cpu().numpy(),
            box=None if box is None else box.cpu().numpy(),
            confidence_map=confidence.cpu().numpy(),
            attention_bias=None,
            passes=(DecoderPass(kept[None], np.array([score], np.float32), 0, kept, None),),
            warnings=() if box is not None else ("the mask is empty: the subject was not found in this photo",),
        )

    def _on_photo(self, cells: Tensor, frame: Frame) -> Tensor:
        """Return the mask over the photo, (H, W) bool, of a mask of cells, (h, w) bool."""
        if self.method.fidelity != "official":
            return frame.to_original(cells[None].float())[0] > 0.5
        mask = cells[None, None].float()
        for size in ((frame.side, frame.side), (frame.height, frame.width)):
            mask = (F.interpolate(mask, size, mode="bilinear", align_corners=False) > 0.5).float()
        return mask[0, 0] > 0


def _rows(grid: Tensor) -> Tensor:
    """Turn (C, h, w) features into (h w, C) rows."""
    return grid.flatten(1).T


def _shown(frame: Frame, grid: int) -> tuple[int, int]:
    """Return how many rows and columns of the grid show the photo: those that it fills by at least half, or one."""
    height, width = (int(side * grid / frame.side + 0.5) for side in frame.resized)
    return max(1, height), max(1, width)


def _of_photo(values: Tensor, frame: Frame) -> Tensor:
    """Return the cells that show the photo, (..., rows, columns), of (..., h, w) values, without the padding."""
    rows, columns = _shown(frame, values.shape[-1])
    return values[..., :rows, :columns]
