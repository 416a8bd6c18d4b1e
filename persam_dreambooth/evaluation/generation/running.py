"""Evaluate generation: generate, segment, measure, report; an interrupted run resumes without repeating any step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import torch

from persam_dreambooth.atomic_io import clear_unfinished, is_unfinished
from persam_dreambooth.errors import UserError
from persam_dreambooth.evaluation.generation.choice import choose
from persam_dreambooth.evaluation.generation.class_leakage import base_of, draw_class, measure_class
from persam_dreambooth.evaluation.generation.features import CachedFeatures, Clip, Masked
from persam_dreambooth.evaluation.generation.masc import Masc
from persam_dreambooth.evaluation.generation.measures import Lpips, PictureMeter, Scenes
from persam_dreambooth.evaluation.generation.models import Model, name_models
from persam_dreambooth.evaluation.generation.outcome import METRICS_NAME, Outcome, metrics, notes
from persam_dreambooth.evaluation.generation.pictures import SETTINGS_NAME, Drawing, Drawn, draw_pictures, find_subject
from persam_dreambooth.evaluation.generation.plan import MODELS, PICTURES, Plan, photos_with_masks
from persam_dreambooth.evaluation.generation.prompts import read_prompts
from persam_dreambooth.evaluation.generation.report import REPORT_NAME, text_table, write_report
from persam_dreambooth.flag_values import check_drawing
from persam_dreambooth.photos import files
from persam_dreambooth.photos.files import check_output_folder
from persam_dreambooth.preprocessing.finder import Finder
from persam_dreambooth.quiet import quiet
from persam_dreambooth.segmentation import ImageEncoder
from persam_dreambooth.text_files import with_article


@dataclass(frozen=True)
class GenerationReport:
    """Numbers and files of an evaluation.

    Attributes:
        metrics: content of `metrics.json`: each model's metrics with intervals, differences to the first model, and
            the values of every picture.
        notes: remarks on the numbers, one sentence each.
        table: the metrics as text.
        metrics_file: path of `metrics.json`.
        page: path of `report.html`, one file with all pictures.
    """

    metrics: dict[str, Any]
    notes: Sequence[str]
    table: str
    metrics_file: Path
    page: Path


def evaluate_generation(
    models: Sequence[Path | str | Model] | Path | str,
    instance_data_dir: Path | str,
    instance_mask_dir: Path | str,
    output: Path | str,
    *,
    prompts: Path | str = "objects",
    unique_token: str | None = None,
    class_token: str | None = None,
    training_scenes: Sequence[str] | str = (),
    scene_template: str = "a photo {}",
    num_images: int = 4,
    class_images: int = 8,
    seed: int = 0,
    num_inference_steps: int = 50,
    guidance_scale: float = 7.5,
    negative_prompt: str | None = None,
    height: int | None = None,
    width: int | None = None,
    base_model: str | None = None,
    single_file_config: str | None = None,
    dino_model: str | None = "facebook/dino-vits16",
    clip_model: str = "openai/clip-vit-base-patch32",
    masc_model: str | None = None,
    diversity: Literal["features", "lpips"] = "features",
    sam: str = "facebook/sam-vit-huge",
    presence: Path | str | None = None,
    checkpoint_steps: Mapping[str, int] | None = None,
    device: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> GenerationReport:
    """Generate pictures with one or several models; compare them with the subject's photos and with the prompts.

    An interrupted call can be repeated with the same folder; what it finished is kept.

    Args:
        models: one or several output folders of training, or hub names; TITLE=FOLDER or a `Model` gives a title. The
            others are compared with the first.
        instance_data_dir: the subject's photos.
        instance_mask_dir: their masks, as `segment_folder` writes them.
        output: folder for `report.html`, `metrics.json` and all pictures.
        prompts: DreamBench's for "objects" or "live" subjects, or a text file with one prompt per line.
        unique_token: the identifier, such as "sks".
        class_token: the class noun, such as "dog".
        training_scenes: one or several scenes of the photos, in the words of a prompt ("on a sofa").
        scene_template: text for CLIP with {} for a scene's words.
        num_images: pictures per prompt.
        class_images: pictures of "a <class_token>", for class leakage; 0 leaves it out.
        seed: seed of each prompt's first picture, the same for each model.
        num_inference_steps: denoising steps.
        guidance_scale: scale of classifier-free guidance.
        negative_prompt: text that the pictures should not match.
        height: pixels, a multiple of 8, together with `width`; None is the model's own size.
        width: likewise.
        base_model: base of LoRA weights that come without a training config.
        single_file_config: pipeline with the configs of models in a single file; see `load_pipeline`.
        dino_model: hub name or folder; None leaves its metrics out.
        clip_model: hub name or folder.
        masc_model: SigLIP 2 for MaSC, hub name or folder; None leaves it out.
        diversity: 1 - cosine of DINO's (else CLIP's) features, or LPIPS, which downloads AlexNet.
        sam: SAM that finds the subject in generated pictures.
        presence: file of a presence rule; None takes `presence.json` beside the SAM.
        checkpoint_steps: title -> step of the models that are checkpoints of one run, of which the best is chosen; a
            model with the title "base" is the one that was trained.
        device: None takes an accelerator if there is one.
        dtype: of generation and SAM; CLIP and DINO use float32.

    Raises:
        UserError: an unusable model, file or setting, found before anything is written where possible.
    """
    check_drawing(num_images, num_inference_steps, height, width)
    if not models:
        raise UserError("no model was given; give at least one")
    drawing = Drawing(
        prompts=read_prompts(str(prompts), unique_token, class_token),
        num_images=num_images,
        seed=seed,
        settings={
            "negative_prompt": negative_prompt,
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
            "height": height,
            "width": width,
        },
        device=device,
        dtype=dtype,
    )
    named = name_models([models] if isinstance(models, Path | str) else models, base_model, single_file_config)
    photos, left_out = photos_with_masks(Path(instance_data_dir), Path(instance_mask_dir))
    plan = Plan(
        models=named,
        photos=photos,
        drawing=drawing,
        output=Path(output),
        sam=sam,
        clip=clip_model,
        dino=dino_model,
        masc=masc_model,
        training_scenes=[training_scenes] if isinstance(training_scenes, str) else training_scenes,
        scene_template=scene_template,
        diversity=diversity,
        class_prompt=with_article(class_token) if class_token and class_images else None,
        class_images=class_images,
        checkpoint_steps=checkpoint_steps or {},
        presence=None if presence is None else Path(presence),
        left_out=left_out,
    )
    with quiet():
        return _write(evaluate(plan), plan.output)


def _write(outcome: Outcome, output: Path) -> GenerationReport:
    values, steps = metrics(outcome), outcome.plan.checkpoint_steps
    choice = choose(values, steps) if steps else None
    if choice is not None:
        outcome = replace(outcome, notes=[f"{choice.reason}.", *outcome.notes])
        values |= {"checkpoints": choice.plain(), "notes": list(outcome.notes)}
    files.write_json(values, output / METRICS_NAME)
    write_report(outcome, output / REPORT_NAME)
    return GenerationReport(values, outcome.notes, text_table(outcome), output / METRICS_NAME, output / REPORT_NAME)


def evaluate(plan: Plan) -> Outcome:
    """Evaluate all models.

    Raises:
        UserError: an unusable input; raised before anything is written if it can be checked in advance.
    """
    begun = _begun(plan.output)
    for model in plan.models:
        model.source.check()
    device = plan.drawing.device
    clip = Clip.from_pretrained(plan.clip, device)
    dino = ImageEncoder.from_pretrained(plan.dino, device) if plan.dino else None
    masc = Masc.from_pretrained(plan.masc, device, plan.cache) if plan.masc else None
    lpips = Lpips(device, plan.cache) if plan.diversity == "lpips" else None
    if not begun:
        Finder(plan.job(plan.models[0])).load()  # fails now rather than after hours of generation
    drawn = {model.title: _draw_and_find(plan, model) for model in plan.models}
    in_class = _draw_classes(plan)
    encoders = {"clip": CachedFeatures(clip, plan.cache)} | (
        {"dino": CachedFeatures(dino, plan.cache)} if dino else {}
    )
    photos = [Masked(photo.image, photo.mask) for photo in plan.photos if photo.mask]
    scenes = Scenes(clip, plan.drawing.prompts, plan.training_scenes, plan.scene_template)
    meter = PictureMeter(clip, encoders, photos, scenes, masc)
    measured = {title: meter.measure(pictures, title) for title, pictures in drawn.items()}
    spread = lpips or meter.spread
    spreads = {
        title: [spread(list(same)) for _, same in groupby(pictures, key=lambda picture: picture.prompt)]
        for title, pictures in drawn.items()
    }
    classes = measure_class(plan, in_class, meter)
    return Outcome(plan, measured, spreads, classes, meter.of_photos(), notes(plan, measured))


def _draw_classes(plan: Plan) -> dict[str, list[Drawn]]:
    """Draw the class with all models and their bases; title -> pictures."""
    bases = [base_of(plan, model) for model in plan.models]
    everyone = {model.title: model for model in (*plan.models, *filter(None, bases))}
    return {title: draw_class(plan, model) for title, model in everyone.items()}


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
