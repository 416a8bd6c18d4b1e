"""Inputs of an evaluation: models, prompts and settings, the photos to compare with, and the output folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from persam_dreambooth.evaluation.generation.models import Model
from persam_dreambooth.evaluation.generation.pictures import Drawing
from persam_dreambooth.preprocessing import SegmentationJob
from persam_dreambooth.preprocessing.references import ReferenceFiles
from persam_dreambooth.torch_utils import TensorCache

MODELS, PICTURES, FOUND = "models", "pictures", "found"
"""Each model has a folder in `models`, with its pictures and the subject's masks in them."""


@dataclass(frozen=True)
class Plan:
    """Configuration of an evaluation.

    Attributes:
        models: at least one; the others are compared with the first.
        photos: the subject's photos with their masks.
        drawing: prompts, seeds and settings.
        output: output folder.
        sam: the SAM that finds the subject in the pictures.
        clip: hub name or folder.
        dino: hub name or folder; None leaves its measures out.
        training_scenes: the photos' scene, worded as in prompts ("on a sofa"); several wordings are one scene.
        scene_template: CLIP's prompt for a scene, with {} for its words.
        diversity: distance of features (DINO's, else CLIP's), or LPIPS.
        presence: file of a presence rule; None uses the one next to the SAM, if there is one.
        left_out: reasons why further photos are not among `photos`, one sentence each.
    """

    models: Sequence[Model]
    photos: Sequence[ReferenceFiles]
    drawing: Drawing
    output: Path
    sam: str
    clip: str
    dino: str | None
    training_scenes: Sequence[str] = ()
    scene_template: str = "a photo {}"
    diversity: Literal["features", "lpips"] = "features"
    presence: Path | None = None
    left_out: Sequence[str] = ()

    @property
    def cache(self) -> TensorCache:
        """Cache of features and distances."""
        return TensorCache(self.output / "features")

    def folder(self, model: Model) -> Path:
        """Return the folder of a model's pictures and masks."""
        return self.output / MODELS / model.title

    def job(self, model: Model) -> SegmentationJob:
        """Build the segmentation of one model's pictures, one at a time so that no mask depends on its batch."""
        return SegmentationJob(
            images=self.folder(model) / PICTURES,
            references=tuple(self.photos),
            output=self.folder(model) / FOUND,
            sam=self.sam,
            device=self.drawing.device,
            dtype=self.drawing.dtype,
            batch_size=1,
            presence=self.presence,
        )
