"""Inputs of an evaluation: models, prompts and settings, the subject's photos with their masks, the output folder."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from persam_dreambooth.errors import UserError
from persam_dreambooth.evaluation.generation.models import Model
from persam_dreambooth.evaluation.generation.pictures import Drawing
from persam_dreambooth.masks import Looks
from persam_dreambooth.photos import files, pairs
from persam_dreambooth.photos.manifest import MANIFEST_NAME, newest_entries
from persam_dreambooth.preprocessing import SegmentationJob
from persam_dreambooth.preprocessing.references import ReferenceFiles
from persam_dreambooth.torch_utils import TensorCache

logger = logging.getLogger(__name__)


def photos_with_masks(photos: Path, masks: Path) -> tuple[list[ReferenceFiles], list[str]]:
    """List the photos that training would use, with their masks; each file is read once as a check.

    Args:
        photos: folder.
        masks: folder of masks with the photos' names, or an output folder of `persam-dreambooth segment`, with
            masks/ in it.

    Returns:
        Photos and masks; and, if segmentation's manifest is next to the masks, the reason for each photo that is
        left out: it could not be read, a person excluded it, or segmentation is uncertain of the subject in it.

    Raises:
        UserError: no photo; an unreadable photo or mask; a mask that is missing, of another size, empty or full;
            or all photos are left out.
    """
    found, folder = files.find_photos(photos), pairs.mask_folder(masks, "--instance_mask_dir")
    entries = newest_entries(folder.parent / MANIFEST_NAME)
    left_out = pairs.photos_to_leave_out(found, pairs.find_masks(folder, found), entries)
    kept = [photo for photo in found if photo not in left_out]
    if not kept:
        raise UserError(
            f"no photo to compare with: {'; '.join(left_out.values())}; approve those whose masks are right with "
            "`persam-dreambooth review`"
        )
    drawn = pairs.pair(kept, folder)
    looks = Looks()
    for photo in kept:
        mask = files.read_mask(drawn[photo])
        pairs.check_mask(drawn[photo], mask, photo, files.read_photo(photo).size, looks)
    unread = files.unread_words(files.unread_files(photos, (masks,)))
    for words in (unread, pairs.unpaired_words(found, folder), *looks.warnings()):
        if words:
            logger.warning(words)
    return [ReferenceFiles(photo, mask=mask) for photo, mask in drawn.items()], list(left_out.values())


MODELS, PICTURES, FOUND, CLASS = "models", "pictures", "found", "class"
"""Subfolders: `models` holds a folder per model, with its pictures, their masks (`found`), and both for the class."""


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
        masc: hub name or folder of the SigLIP 2 for MaSC; None leaves it out.
        training_scenes: the photos' scene, worded as in prompts ("on a sofa"); several wordings are one scene.
        scene_template: CLIP's prompt for a scene, with {} for its words.
        diversity: distance of features (DINO's, else CLIP's), or LPIPS.
        presence: file of a presence rule; None uses the one next to the SAM, if there is one.
        class_prompt: the class without the identifier ("a dog"), to measure class leakage; None leaves it out.
        class_images: number of pictures of the class.
        checkpoint_steps: title -> step of the models that are checkpoints of one run; the model "base" is theirs.
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
    masc: str | None = None
    diversity: Literal["features", "lpips"] = "features"
    presence: Path | None = None
    class_prompt: str | None = None
    class_images: int = 0
    checkpoint_steps: Mapping[str, int] = field(default_factory=dict)
    left_out: Sequence[str] = ()

    @property
    def cache(self) -> TensorCache:
        """Cache of features and distances."""
        return TensorCache(self.output / "features")

    def folder(self, model: Model) -> Path:
        """Return the folder of a model's pictures and masks."""
        return self.output / MODELS / model.title

    def job(self, model: Model) -> SegmentationJob:
        """Build the segmentation of one model's pictures."""
        return self.job_in(self.folder(model))

    def job_in(self, folder: Path) -> SegmentationJob:
        """Build the segmentation of the pictures in a folder, one at a time so that no mask depends on its batch."""
        return SegmentationJob(
            images=folder / PICTURES,
            references=tuple(self.photos),
            output=folder / FOUND,
            sam=self.sam,
            device=self.drawing.device,
            dtype=self.drawing.dtype,
            batch_size=1,
            presence=self.presence,
        )
