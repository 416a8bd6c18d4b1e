"""The DreamBooth loop: `setup` checks and can fail, `main` builds, `fit` trains and does nothing else."""

import json
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import ProjectConfiguration, set_seed
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from persam_dreambooth.errors import UserError
from persam_dreambooth.model_folder import CONFIG_NAME
from persam_dreambooth.photos import files
from persam_dreambooth.photos.manifest import MANIFEST_NAME, ManifestEntry, write_manifest
from persam_dreambooth.training import checkpoints, instances, optimization, result
from persam_dreambooth.training.class_images import PRECISIONS, ensure_class_images
from persam_dreambooth.training.config import TrainingConfig
from persam_dreambooth.training.data import Conditioning, DreamBoothDataset, InstancePhoto, collate
from persam_dreambooth.training.families import Family, check_base_model, load_family
from persam_dreambooth.training.objective import training_loss
from persam_dreambooth.training.validation import validate


@dataclass
class Setup:
    """What `setup` found out: everything that can be known before a model is loaded."""

    config: TrainingConfig
    accelerator: Accelerator
    instances: list[InstancePhoto]
    manifest: list[ManifestEntry]
    coverage: dict[Path, float]
    class_images: list[Path]
    repository: str | None
    resume_from: Path | None


def train(config: TrainingConfig) -> None:
    """Run the whole of it; returns when the model is saved.

    Raises:
        UserError: what the user can mend, before the first step wherever it can be known then.
    """
    main(setup(config))


def setup(config: TrainingConfig) -> Setup:
    """Check the flags against the world, find or make masks and class images."""
    output = Path(config.output.output_dir)
    resume_from = _check_output(config)
    kind = check_base_model(config.model)
    kind.check(config)
    cell, unit = kind.cell_of(config.model), kind.side_unit_of(config.model)
    if config.data.resolution % unit:
        nearest = max(unit, config.data.resolution // unit * unit)
        raise UserError(
            f"--resolution {config.data.resolution} is no multiple of {unit}, the pixels of one latent cell or patch; "
            f"take {nearest}"
        )
    optimization.check(config.optimization)
    accelerator = Accelerator(
        gradient_accumulation_steps=config.optimization.gradient_accumulation_steps,
        mixed_precision=config.optimization.mixed_precision,
        log_with=_trackers(config.output.report_to),
        project_config=ProjectConfiguration(
            project_dir=str(output), logging_dir=str(output / config.output.logging_dir)
        ),
    )
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise UserError("--mixed_precision fp16 needs a GPU; on a CPU take bf16 or no")
    with accelerator.main_process_first():
        if accelerator.is_main_process:
            instances.segment_first(config, accelerator.device)
    found, left_out = instances.find_instances(config)
    coverage = instances.check_latent_masks(found, config, cell)
    manifest = instances.describe(found, left_out, config)
    repository = result.claim_repository(config) if accelerator.is_main_process else None
    class_images = ensure_class_images(config, accelerator)
    return Setup(config, accelerator, found, manifest, coverage, class_images, repository, resume_from)


def _check_output(config: TrainingConfig) -> Path | None:
    """Refuse an output folder that holds another run; returns the checkpoint to go on from."""
    output = Path(config.output.output_dir)
    files.check_output_folder(output)
    if config.output.resume_from_checkpoint:
        chosen = checkpoints.choose_checkpoint(output, config.output.resume_from_checkpoint)
        _check_same_weights(config, output / CONFIG_NAME)
        return chosen
    # Masks made by an interrupted run are no loss to go on from; anything else might be.
    held = [path.name for path in output.iterdir()] if output.exists() else []
    if any(name != instances.SEGMENTATION_FOLDER for name in held):
        go_on = "go on with it by --resume_from_checkpoint latest" if checkpoints.checkpoints(output) else "delete it"
        raise UserError(
            f"--output_dir {output} holds another run ({', '.join(sorted(held)[:3])}); "
            f"choose another folder, or {go_on}"
        )
    return None


def _check_same_weights(config: TrainingConfig, saved: Path) -> None:
    """Refuse to go on from a checkpoint whose run trained other weights than these flags say."""
    if not saved.exists():
        return
    try:
        before = dict(yaml.safe_load(saved.read_text(encoding="utf-8")))
    except (TypeError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{saved} is damaged; delete it to go on with these flags") from error
    now = config.flat()
    for name in ("use_lora", "rank", "lora_alpha", "use_dora", "train_text_encoder"):
        if before.get(name) != now[name]:
            raise UserError(
                f"--resume_from_checkpoint: the run had {name} {before.get(name)}, not {now[name]}; use its flags "
                f"(--config {saved})"
            )


def _trackers(report_to: str) -> list[str] | str | None:
    """Accelerate's `log_with`: what was asked for, or nothing, said aloud, when it is not installed."""
    if report_to in ("none", "all"):
        return None if report_to == "none" else "all"
    if report_to not in LOGGER_TYPE_TO_CLASS:
        known = ", ".join(sorted(LOGGER_TYPE_TO_CLASS))
        raise UserError(f"--report_to {report_to} is unknown; choose all, none or one of {known}")
    if report_to not in [tracker.value for tracker in get_available_trackers()]:
        warnings.warn(f"no curves are logged: {report_to} is not installed (pip install {report_to})", stacklevel=2)
        return None
    return [report_to]


def main(run: Setup) -> None:
    """Build everything, train, save."""
    config, accelerator = run.config, run.accelerator
    settings, output = config.optimization, Path(config.output.output_dir)
    if settings.seed is not None:
        # Processes differ, so that each draws its own noise; the first one is what a single one would be.
        set_seed(settings.seed, device_specific=True)
    torch.backends.cuda.matmul.allow_tf32 |= settings.allow_tf32
    family = load_family(config.model)
    if config.mask.background_prior_weight > 0:
        family.keep_base()
    if accelerator.is_main_process:
        output.mkdir(parents=True, exist_ok=True)
        config.save(output)
        write_manifest(output / MANIFEST_NAME, run.manifest)
    if run.coverage:
        low, high = min(run.coverage.values()), max(run.coverage.values())
        accelerator.print(f"masks are on: the subject covers {low:.0%} to {high:.0%} of {len(run.coverage)} photos")
    family.place(accelerator.device, PRECISIONS.get(accelerator.mixed_precision, torch.float32))
    loader = _loader(run, family)
    parameters = [one for part in family.trained().values() for one in part.parameters() if one.requires_grad]
    batch = config.data.train_batch_size * accelerator.num_processes
    optimizer = optimization.build_optimizer(parameters, settings, batch)
    steps = optimization.count_steps(settings, len(loader), accelerator.num_processes)
    scheduler = optimization.build_scheduler(optimizer, settings, steps, accelerator.num_processes)
    names = list(family.trained())
    *modules, optimizer, loader, scheduler = accelerator.prepare(
        *family.trained().values(), optimizer, loader, scheduler
    )
    family.replace(dict(zip(names, modules, strict=True)))
    accelerator.init_trackers("dreambooth", config=_loggable(config))
    checkpoints.register(accelerator, family)
    progress = checkpoints.Progress()
    if run.resume_from is not None:
        progress = checkpoints.load_checkpoint(accelerator, run.resume_from)
    fit(Training(config, accelerator, family, loader, optimizer, scheduler, parameters, steps), progress)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        pictures = validate(family, config, accelerator, progress.step)
        result.save_model(family, config)
        result.save_card(config, pictures)
        if run.repository is not None:
            result.upload(config, run.repository)
    accelerator.end_training()


@dataclass
class Training:
    """What the loop runs on, everything prepared by Accelerate."""

    config: TrainingConfig
    accelerator: Accelerator
    family: Family
    loader: Any
    optimizer: Any
    scheduler: Any
    parameters: list[nn.Parameter]
    steps: int


def fit(run: Training, progress: checkpoints.Progress) -> None:
    """Train until `run.steps` optimizer steps are taken, moving `progress` along."""
    config, accelerator, family = run.config, run.accelerator, run.family
    trained = list(family.trained().values())
    bar = tqdm(
        total=run.steps,
        initial=progress.step,
        desc="Training",
        unit="step",
        disable=not accelerator.is_local_main_process,
    )
    for part in trained:
        part.train()
    collected: dict[str, list[Tensor]] = {}
    while progress.step < run.steps:
        for batch in _epoch(run, progress):
            progress.batches += 1
            with accelerator.accumulate(*trained):
                loss, terms = training_loss(family, batch, config)
                _stop_on_nan(terms, progress)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(run.parameters, config.optimization.max_grad_norm)
                run.optimizer.step()
                run.scheduler.step()
                run.optimizer.zero_grad(set_to_none=config.optimization.set_grads_to_none)
            for name, value in terms.items():
                collected.setdefault(name, []).append(value)
            if not accelerator.sync_gradients:
                continue
            progress.step += 1
            bar.update()
            values = _means(collected, accelerator)
            collected = {}
            bar.set_postfix(loss=f"{values['loss']:.4f}")
            accelerator.log(values | {"lr": run.scheduler.get_last_lr()[0]}, step=progress.step)
            if progress.step % config.output.checkpointing_steps == 0:
                keep = config.output.checkpoints_total_limit
                checkpoints.save_checkpoint(accelerator, Path(config.output.output_dir), progress, keep)
            due = progress.step % config.validation.validation_steps == 0 and progress.step < run.steps
            if due and accelerator.is_main_process:
                validate(family, config, accelerator, progress.step)
            if progress.step >= run.steps:
                break
        else:
            progress.epoch, progress.batches = progress.epoch + 1, 0
    bar.close()


def _epoch(run: Training, progress: checkpoints.Progress) -> Iterable[dict[str, Any]]:
    """The batches of the current epoch that have not been taken yet.

    The order of photos follows from a generator's state when an epoch begins: torch's own, or with
    several processes the one that Accelerate keeps in step. A resumed epoch is read again from there,
    so that workers draw what they drew; Accelerate reads one batch ahead of the training, so the
    batch that waits is read with the state that torch had then, and training goes on with its own.
    """
    order = getattr(run.loader, "synchronized_generator", None) or torch.default_generator
    batches = iter(run.loader)
    if progress.batches == 0:
        progress.epoch_rng, progress.torch_rng = order.get_state(), torch.get_rng_state()
    else:
        left = torch.get_rng_state()
        torch.set_rng_state(progress.torch_rng)
        order.set_state(progress.epoch_rng)
        for taken in range(1, progress.batches + 1):
            if taken == progress.batches:
                torch.set_rng_state(progress.fetch_rng)
            next(batches)
        torch.set_rng_state(left)
    while True:
        progress.fetch_rng = torch.get_rng_state()
        batch = next(batches, None)
        if batch is None:
            return
        yield batch


def _loader(run: Setup, family: Family) -> DataLoader[dict[str, Any]]:
    """The data loader, its prompts tokenized or encoded."""
    config = run.config
    prompt = family.tokenize(str(config.data.instance_prompt))
    uses_class_prompt = run.class_images or config.mask.background_prior_weight > 0
    class_prompt = family.tokenize(str(config.data.class_prompt)) if uses_class_prompt else None
    if config.model.pre_compute_text_embeddings:
        prompt = _embedded(family, prompt)
        class_prompt = class_prompt and _embedded(family, class_prompt)
        family.drop_text_encoder()
    dataset = DreamBoothDataset(run.instances, config.data, prompt, run.class_images, class_prompt)
    return DataLoader(
        dataset,
        batch_size=config.data.train_batch_size,
        shuffle=True,
        collate_fn=collate,
        num_workers=config.data.dataloader_num_workers,
    )


def _embedded(family: Family, tokens: Conditioning) -> Conditioning:
    with torch.no_grad():
        return {name: value.cpu() for name, value in family.encode_prompt(tokens).items()}


def _means(collected: dict[str, list[Tensor]], accelerator: Accelerator) -> dict[str, float]:
    """Each term's mean over the micro-batches of a step and over all processes."""
    means = torch.stack([torch.stack(values).mean() for values in collected.values()])
    means = accelerator.reduce(means, "mean")
    return dict(zip(collected, means.tolist(), strict=True))


def _stop_on_nan(terms: dict[str, Tensor], progress: checkpoints.Progress) -> None:
    if not torch.isfinite(terms["loss"]):
        raise UserError(
            f"the loss became {terms['loss'].item()} after step {progress.step}; lower --learning_rate or use "
            "--mixed_precision bf16 instead of fp16. Checkpoints up to here are kept"
        )


def _loggable(config: TrainingConfig) -> dict[str, Any]:
    """The flags as trackers take them: numbers and strings only."""
    return {
        key: value if isinstance(value, bool | int | float | str) else json.dumps(value)
        for key, value in config.flat().items()
    }
