"""Run an evaluation: generate, segment, measure; an interrupted run resumes without repeating any step."""

from itertools import groupby
from pathlib import Path

from persam_dreambooth.atomic_io import clear_unfinished, is_unfinished
from persam_dreambooth.errors import UserError
from persam_dreambooth.evaluation.generation.encoders import Clip
from persam_dreambooth.evaluation.generation.features import CachedFeatures, Masked
from persam_dreambooth.evaluation.generation.finding import Drawn, find_subject
from persam_dreambooth.evaluation.generation.lpips import Lpips
from persam_dreambooth.evaluation.generation.meter import PictureMeter
from persam_dreambooth.evaluation.generation.models import Model, check_model
from persam_dreambooth.evaluation.generation.outcome import Outcome, notes
from persam_dreambooth.evaluation.generation.pictures import SETTINGS_NAME, draw_pictures
from persam_dreambooth.evaluation.generation.plan import MODELS, PICTURES, Plan
from persam_dreambooth.evaluation.generation.scenes import Scenes
from persam_dreambooth.photos.files import check_output_folder
from persam_dreambooth.preprocessing.finder import Finder
from persam_dreambooth.segmentation import ImageEncoder


def evaluate(plan: Plan) -> Outcome:
    """Evaluate all models.

    Raises:
        UserError: an unusable input; raised before anything is written if it can be checked in advance.
    """
    begun = _begun(plan.output)
    for model in plan.models:
        check_model(model, plan.drawing.base_model)
    device = plan.drawing.device
    clip = Clip.from_pretrained(plan.clip, device)
    dino = ImageEncoder.from_pretrained(plan.dino, device) if plan.dino else None
    lpips = Lpips(device, plan.cache) if plan.diversity == "lpips" else None
    if not begun:
        Finder(plan.job(plan.models[0]))  # fails now rather than after hours of generation
    drawn = {model.title: _draw_and_find(plan, model) for model in plan.models}
    encoders = {"clip": CachedFeatures(clip, plan.cache)} | (
        {"dino": CachedFeatures(dino, plan.cache)} if dino else {}
    )
    photos = [Masked(photo.image, photo.mask) for photo in plan.photos if photo.mask]
    scenes = Scenes(clip, plan.drawing.prompts, plan.training_scenes, plan.scene_template)
    meter = PictureMeter(clip, encoders, photos, scenes)
    measured = {title: meter.measure(pictures, title) for title, pictures in drawn.items()}
    spread = lpips or meter.spread
    spreads = {
        title: [spread(list(same)) for _, same in groupby(pictures, key=lambda picture: picture.prompt)]
        for title, pictures in drawn.items()
    }
    return Outcome(plan, measured, spreads, meter.of_photos(), notes(plan, measured))


def _draw_and_find(plan: Plan, model: Model) -> list[Drawn]:
    paths = draw_pictures(model, plan.drawing, plan.folder(model) / PICTURES)
    return find_subject(plan.job(model), plan.drawing.prompts, paths)


def _begun(output: Path) -> bool:
    """Check for pictures of an evaluation to resume; a folder without files is allowed too.

    Unfinished files of a killed evaluation are deleted.

    Raises:
        UserError: the folder holds something else, or cannot be created.
    """
    check_output_folder(output)
    begun = any(output.glob(f"{MODELS}/*/{SETTINGS_NAME}"))
    if not begun and any(not path.is_dir() and not is_unfinished(path) for path in output.rglob("*")):
        raise UserError(f"{output} exists and is not an evaluation's; choose another or an empty output folder")
    for folder in (output, *output.rglob("*/")):
        clear_unfinished(folder)
    return begun
