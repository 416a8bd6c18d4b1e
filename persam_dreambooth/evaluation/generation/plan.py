"""What an evaluation is asked: which models, what they draw, what it is compared with, and where all goes."""

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
"""Each model has a folder in `models`, with what it drew and where the subject was found in that."""


@dataclass(frozen=True)
class Plan:
    """What is compared with what, and by whom.

    Attributes:
        models: at least one; the others are compared with the first.
        photos: the subject's, with their masks.
        drawing: prompts, seeds and settings.
        output: folder.
        sam: finds the subject in what was drawn.
        clip: hub name or folder.
        dino: hub name or folder; None leaves its measures out.
        training_scenes: the photos' scene in words, as prompts name theirs ("on a sofa"); several are one scene.
        scene_template: what CLIP is asked of a scene, {} for its words.
        diversity: by features (DINO's, else CLIP's), or LPIPS.
        presence: file of a presence rule; None takes the one beside the SAM, if there is one.
        left_out: why further photos are not among `photos`, one sentence each.
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
        """Where measured things are kept."""
        return TensorCache(self.output / "features")

    def folder(self, model: Model) -> Path:
        """Where a model's pictures and masks go."""
        return self.output / MODELS / model.title

    def job(self, model: Model) -> SegmentationJob:
        """Find the subject in one model's pictures; one by one, so that no mask depends on what else was left."""
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
