"""Draw, find the subject, measure, report: each thing once, however often this is interrupted and called again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Literal

from persam_dreambooth.errors import UserError
from persam_dreambooth.evaluation.generation.contestants import Model, check_model
from persam_dreambooth.evaluation.generation.encoders import Clip
from persam_dreambooth.evaluation.generation.finding import Drawn, find_subject
from persam_dreambooth.evaluation.generation.judging import Judge, Verdict
from persam_dreambooth.evaluation.generation.lpips import Lpips
from persam_dreambooth.evaluation.generation.pictures import SETTINGS_NAME, Drawing, draw_pictures
from persam_dreambooth.evaluation.generation.scenes import Scenes
from persam_dreambooth.evaluation.generation.seen import Look, Masked
from persam_dreambooth.evaluation.generation.table import MEASURES
from persam_dreambooth.photos.files import check_output_folder
from persam_dreambooth.preprocessing import SegmentationJob
from persam_dreambooth.preprocessing.finding import Finder
from persam_dreambooth.references import ReferenceFiles
from persam_dreambooth.segmentation import ImageEncoder
from persam_dreambooth.tensors import TensorCache

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


@dataclass(frozen=True)
class Outcome:
    """All that the report is made of.

    Attributes:
        plan: what was asked.
        verdicts: model's title -> a verdict a picture, prompt by prompt.
        spreads: model's title -> each prompt's diversity, in [0, 2]; None with one picture a prompt.
        photos: measure -> its mean for the photos themselves, each against the others.
        notes: what the reader should know, one sentence each.
    """

    plan: Plan
    verdicts: Mapping[str, Sequence[Verdict]]
    spreads: Mapping[str, Sequence[float | None]]
    photos: Mapping[str, float]
    notes: Sequence[str] = field(default_factory=tuple)

    def values(self, title: str) -> dict[str, list[list[float]]]:
        """One model's values, measure -> prompt by prompt."""
        same = by_prompt(self.verdicts[title])
        made = {name: [[one.values[name] for one in row if name in one.values] for row in same] for name in MEASURES}
        made["diversity"] = [[] if spread is None else [spread] for spread in self.spreads[title]]
        return {name: rows for name, rows in made.items() if any(rows)}


def by_prompt(verdicts: Sequence[Verdict]) -> list[list[Verdict]]:
    """The verdicts of each prompt, in the order of the prompts."""
    return [list(same) for _, same in groupby(verdicts, key=lambda one: one.drawn.prompt)]


def evaluate(plan: Plan) -> Outcome:
    """Evaluate all models.

    Raises:
        UserError: whatever cannot be used; what can be known beforehand, before anything is written.
    """
    begun = _begun(plan.output)
    for model in plan.models:
        check_model(model, plan.drawing.base_model)
    device = plan.drawing.device
    clip = Clip.from_pretrained(plan.clip, device)
    dino = ImageEncoder.from_pretrained(plan.dino, device) if plan.dino else None
    lpips = Lpips(device, plan.cache) if plan.diversity == "lpips" else None
    if not begun:
        Finder(plan.job(plan.models[0]))  # what it refuses is said before hours of drawing
    drawn = {model.title: _draw_and_find(plan, model) for model in plan.models}
    looks = {"clip": Look(clip, plan.cache)} | ({"dino": Look(dino, plan.cache)} if dino else {})
    photos = [Masked(one.image, one.mask) for one in plan.photos if one.mask]
    scenes = Scenes(clip, plan.drawing.prompts, plan.training_scenes, plan.scene_template)
    judge = Judge(clip, looks, photos, scenes)
    verdicts = {title: judge.judge(pictures, title) for title, pictures in drawn.items()}
    spread = lpips or judge.spread
    spreads = {
        title: [spread(list(same)) for _, same in groupby(pictures, key=lambda one: one.prompt)]
        for title, pictures in drawn.items()
    }
    return Outcome(plan, verdicts, spreads, judge.of_photos(), notes(plan, verdicts))


def _draw_and_find(plan: Plan, model: Model) -> list[Drawn]:
    paths = draw_pictures(model, plan.drawing, plan.folder(model) / PICTURES)
    return find_subject(plan.job(model), plan.drawing.prompts, paths)


def _begun(output: Path) -> bool:
    """Whether there are pictures of an evaluation to go on with; an empty or absent folder is welcome too.

    Raises:
        UserError: the folder holds something else, or cannot be made.
    """
    check_output_folder(output)
    begun = any(output.glob(f"{MODELS}/*/{SETTINGS_NAME}"))
    if not begun and output.exists() and any(output.iterdir()):
        raise UserError(f"{output} exists and is no evaluation's; choose another or an empty output folder")
    return begun


def notes(plan: Plan, verdicts: Mapping[str, Sequence[Verdict]]) -> list[str]:
    """What the reader of the numbers should know."""
    said = []
    if not plan.dino:
        said.append("DINO's measures are left out: --dino_model none.")
    if plan.diversity == "lpips":
        said.append("Diversity is LPIPS (AlexNet), as the DreamBooth paper measures it.")
    else:
        encoder = "DINO" if plan.dino else "CLIP"
        said.append(f"Diversity is 1 - cosine of {encoder} features; for the paper's LPIPS: --diversity lpips.")
    if not plan.training_scenes:
        said.append("Whether the photos' scene is recognised was not asked: --training_scenes says what it is.")
    if plan.job(plan.models[0]).rule is None:
        said.append("There is no presence rule for this SAM: every mask was taken for the subject's.")
    for title, of_model in verdicts.items():
        states = [one.drawn.presence for one in of_model]
        empty = sum("clip_i_inside" not in one.values for one in of_model)
        doubts = [f"{state} in {states.count(state)}" for state in ("unsure", "not found") if state in states]
        if doubts:
            said.append(f"{title}: the subject is {', '.join(doubts)} of {len(of_model)} pictures.")
        if empty:
            said.append(f"{title}: {empty} pictures have an empty mask and no measure of the subject alone.")
    return said
