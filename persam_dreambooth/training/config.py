"""Every flag of the trainer, in small dataclasses; the names are those of diffusers' DreamBooth scripts.

Three of theirs are refused: `--validation_images` (for pipelines that start from a picture),
`--local_rank` (launchers say it through the environment) and `--validation_epochs` (`--validation_steps`
does it with LoRA too).
"""

import math
import re
from dataclasses import asdict, dataclass, field, fields
from inspect import Parameter, Signature
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import yaml

from persam_dreambooth import lora_files
from persam_dreambooth.atomic_io import replacing
from persam_dreambooth.errors import UserError
from persam_dreambooth.flag_values import did_you_mean, read_value, typed_fields
from persam_dreambooth.model_folder import CONFIG_NAME
from persam_dreambooth.photos.names import is_text
from persam_dreambooth.photos.repeated import repeated_folders
from persam_dreambooth.training.local_paths import without_folders
from persam_dreambooth.yaml_files import read_yaml

PATHS = (
    "instance_data_dir",
    "class_data_dir",
    "instance_mask_dir",
    "reference_image",
    "reference_mask",
    "concepts_list",
    "background_images",
    "training_cache",
    "cache_dir",
    "network_weights",
    "output_dir",
)
NAMES_OR_PATHS = ("pretrained_model_name_or_path", "tokenizer_name", "sam", "dataset_name")
"""Flags that name a file or a folder; and those where it may be a name on the hub as well."""
ANY_BYTES = {*PATHS, *NAMES_OR_PATHS} - {"output_dir", "training_cache"}
"""Flags that may be no UTF-8, as file names may; not where safetensors, which refuses them, is to write."""


def _refuse_outside(config: object, **bounds: tuple[float, float]) -> None:
    """Raise a UserError for the first value outside its [low, high]; NaN and infinity are outside of everything."""
    for name, (low, high) in bounds.items():
        value = getattr(config, name)
        if value is not None and not (low <= value <= high and value != math.inf):
            unbounded = "be finite" if value == math.inf else f"be at least {low:g}"
            allowed = unbounded if high == math.inf else f"lie in [{low:g}, {high:g}]"
            raise UserError(f"--{name} {value} must {allowed}")


def _flag(default: Any, text: str) -> Any:
    """A dataclass field with its help."""
    return field(default=default, metadata={"help": text})


@dataclass
class ModelConfig:
    """What is fine-tuned, and which part of it."""

    _argument_group_name: ClassVar[str] = "model"

    pretrained_model_name_or_path: str | None = _flag(None, "the base model: hub name or folder of a pipeline")
    revision: str | None = _flag(None, "branch, tag or commit of the base model on the hub")
    variant: str | None = _flag(None, "variant of the base model's weight files, such as fp16")
    tokenizer_name: str | None = _flag(None, "another tokenizer than the base model's: hub name or folder")
    tokenizer_max_length: int | None = _flag(None, "tokens a prompt is padded or cut to; the tokenizer's own if unset")
    max_sequence_length: int | None = _flag(
        None, "tokens of the long text encoder (T5, Gemma): 77 with SD 3, 512 with Flux and 256 with Lumina 2 if unset"
    )
    guidance_scale: float = _flag(3.5, "guidance that Flux.1-dev is told of while it trains, as in diffusers' script")
    train_text_encoder: bool = _flag(False, "train the text encoder too")
    use_lora: bool = _flag(False, "train LoRA adapters instead of all weights")
    rank: int | None = _flag(None, "rank of the LoRA adapters; 4 if unset")
    lora_alpha: int | None = _flag(None, "the adapters count alpha / rank times; the rank if unset")
    use_dora: bool = _flag(False, "DoRA: LoRA that learns the length of each weight vector apart from its direction")
    lora_dropout: float | None = _flag(None, "dropout inside the LoRA adapters; 0 if unset")
    network_weights: str | None = _flag(
        None, "with LoRA: begin from these weights, a .safetensors file in diffusers' format or an output folder"
    )
    gradient_checkpointing: bool = _flag(False, "less memory for about a third more time")
    enable_xformers_memory_efficient_attention: bool = _flag(False, "attention by xformers")
    pre_compute_text_embeddings: bool = _flag(False, "encode the prompts once and drop the text encoder")
    text_encoder_use_attention_mask: bool = _flag(False, "hide padding tokens from the text encoder")
    class_labels_conditioning: Literal["timesteps"] | None = field(
        default=None,
        metadata={"help": "what is given to a UNet with class embeddings: timesteps", "choices": ["timesteps"]},
    )

    def __post_init__(self) -> None:
        if not self.pretrained_model_name_or_path:
            raise UserError("--pretrained_model_name_or_path is missing; give a hub name or the folder of a pipeline")
        if self.network_weights:
            self._begin_from_weights(self.network_weights)
        if self.use_lora:
            self.rank = 4 if self.rank is None else self.rank
            self.lora_dropout = 0.0 if self.lora_dropout is None else self.lora_dropout
        elif self.rank is not None or self.lora_dropout is not None:
            raise UserError("--rank and --lora_dropout are LoRA's; add --use_lora, or drop them to train all weights")
        elif self.lora_alpha is not None or self.use_dora:
            raise UserError(
                "--lora_alpha and --use_dora are LoRA's; add --use_lora, or drop them to train all weights"
            )
        _refuse_outside(
            self,
            rank=(1, math.inf),
            lora_alpha=(1, math.inf),
            lora_dropout=(0, 1),
            tokenizer_max_length=(2, math.inf),
            max_sequence_length=(2, math.inf),
            guidance_scale=(0, math.inf),
        )
        if self.use_dora and self.train_text_encoder:
            # transformers drops DoRA's lengths when it loads them into a text encoder, and only warns.
            raise UserError("--use_dora and --train_text_encoder exclude each other; drop one")
        if self.train_text_encoder and self.pre_compute_text_embeddings:
            raise UserError("--train_text_encoder and --pre_compute_text_embeddings exclude each other; drop one")

    def _begin_from_weights(self, name: str) -> None:
        """Take rank and alpha from an existing LoRA, and refuse others."""
        if not self.use_lora:
            raise UserError("--network_weights are LoRA's; add --use_lora, or drop them to train all weights")
        rank, alpha = lora_files.rank_and_alpha(name, self.use_dora)
        for flag, given, its in (("rank", self.rank, rank), ("lora_alpha", self.lora_alpha, alpha)):
            if given is not None and given != its:
                raise UserError(
                    f"--{flag} {given}: the LoRA {name} has {flag.removeprefix('lora_')} {its}; drop --{flag}, which "
                    "is then read from it"
                )
        self.rank, self.lora_alpha = rank, alpha


@dataclass
class DataConfig:
    """Photos and prompts."""

    _argument_group_name: ClassVar[str] = "photos and prompts"

    instance_data_dir: str | None = _flag(
        None, "folder with the 3 to 5 photos of the subject, or with kohya's folders such as 10_dog"
    )
    instance_prompt: str | None = _flag(None, 'prompt with the identifier, such as "a sks dog"')
    caption_extension: str | None = _flag(
        None, "photos beside which lies a text file of this ending, such as .txt, are trained on its words instead"
    )
    concepts_list: str | None = _flag(
        None,
        "of several subjects: a JSON or YAML file, a list of entries with instance_data_dir, instance_prompt, "
        "instance_mask_dir and so on; what an entry leaves out comes from the flags",
    )
    dataset_name: str | None = _flag(
        None, "instead of a folder of photos: a data set, hub name or folder; its train split is copied to the output"
    )
    dataset_config_name: str | None = _flag(None, "which of the data set's configurations")
    image_column: str = _flag("image", "the data set's column of photos")
    mask_column: str | None = _flag(None, "its column of masks")
    caption_column: str | None = _flag(None, "its column of prompts; --instance_prompt for all if unset")
    cache_dir: str | None = _flag(None, "where downloaded data sets are kept")
    with_prior_preservation: bool = _flag(False, "also train on class images, so that other dogs stay dogs")
    prior_loss_weight: float = _flag(1.0, "weight of the class images' loss")
    class_data_dir: str | None = _flag(None, "folder of class images; missing ones are generated into it")
    class_prompt: str | None = _flag(None, 'prompt without the identifier, such as "a dog"')
    num_class_images: int = _flag(100, "how many class images there should be")
    sample_batch_size: int = _flag(4, "class images generated at once")
    prior_generation_precision: Literal["no", "fp32", "fp16", "bf16"] | None = field(
        default=None,
        metadata={
            "help": "precision while generating class images: no, fp32, fp16 or bf16; fp16 on a GPU if unset",
            "choices": ["no", "fp32", "fp16", "bf16"],
        },
    )
    resolution: int = _flag(512, "photos are resized to this shorter side and cropped to this square, in pixels")
    image_interpolation_mode: Literal["bilinear", "bicubic", "lanczos"] | None = field(
        default=None,
        metadata={
            "help": "how photos are resized: bilinear, bicubic or lanczos; as diffusers' scripts, lanczos with LoRA "
            "and bilinear without, if unset",
            "choices": ["bilinear", "bicubic", "lanczos"],
        },
    )
    center_crop: bool = _flag(
        False, "crop the centre instead of a random place; either is moved where it would lose a part of the subject"
    )
    aspect_ratio_buckets: str | None = _flag(
        None,
        'crop photos to the nearest of several shapes instead of a square: auto, or "height,width;height,width"',
    )
    random_flip: bool = _flag(False, "mirror half of the photos, together with their masks")
    background_images: str | None = _flag(
        None, "folder of pictures without the subject, one of which, drawn anew each time, is put behind it"
    )
    cache_latents: bool = _flag(
        False, "send each photo through the autoencoder once, before the training, and take it off the device then"
    )
    cached_crops: int = _flag(
        4, "with --cache_latents: how many random crops and flips of each photo there are; one where nothing is random"
    )
    training_cache: str | None = _flag(
        None, "folder that keeps what --cache_latents and --pre_compute_text_embeddings made, for the next run"
    )
    train_batch_size: int = _flag(4, "photos a step and process")
    dataloader_num_workers: int = _flag(0, "processes that read photos; 0 reads them in the training process")

    def __post_init__(self) -> None:
        if self.dataset_name and (self.instance_data_dir or self.concepts_list):
            raise UserError("--dataset_name brings the photos; drop it, or --instance_data_dir and --concepts_list")
        of_datasets = ("dataset_config_name", "mask_column", "caption_column", "cache_dir")
        given = [f"--{name}" for name in of_datasets if getattr(self, name)]
        if given and not self.dataset_name:
            raise UserError(f"{given[0]} is about a data set; give --dataset_name, or drop it")
        if self.caption_extension is not None and not re.fullmatch(r"\.[^/\\]+", self.caption_extension):
            raise UserError(f"--caption_extension {self.caption_extension} must be a dot and letters, such as .txt")
        counts = ("resolution", "train_batch_size", "sample_batch_size", "num_class_images", "cached_crops")
        _refuse_outside(self, **dict.fromkeys(counts, (1, math.inf)))
        _refuse_outside(self, dataloader_num_workers=(0, math.inf), prior_loss_weight=(0, math.inf))

    def check_photos(self) -> None:
        """Raise a UserError where photos or a prompt are missing; of several subjects for each on its own."""
        if not self.instance_data_dir and not self.dataset_name:
            raise UserError("--instance_data_dir is missing; give the folder with the photos of the subject")
        prompted = self.instance_prompt or self.caption_column or self.caption_extension
        if not prompted and not (self.instance_data_dir and repeated_folders(Path(self.instance_data_dir))):
            raise UserError('--instance_prompt is missing; give a prompt such as "a sks dog"')
        if self.with_prior_preservation:
            if not self.class_data_dir:
                raise UserError("--with_prior_preservation needs --class_data_dir, a folder for class images")
            if not self.class_prompt:
                raise UserError('--with_prior_preservation needs --class_prompt, a prompt such as "a dog"')


@dataclass
class MaskConfig:
    """Where the masks come from and how they weigh the loss."""

    _argument_group_name: ClassVar[str] = "masks"

    masked_loss: bool = _flag(True, "take the loss over the subject only; --no_masked_loss is plain DreamBooth")
    instance_mask_dir: str | None = _flag(
        None, "folder of masks with the photos' names (or what `persam-dreambooth segment` wrote)"
    )
    reference_image: str | None = _flag(None, "instead of masks: the one photo whose mask you have")
    reference_mask: str | None = _flag(None, "its mask: the subject painted on black, the photo's size")
    sam: str = _flag("facebook/sam-vit-huge", "the SAM that finds the subject: hub name, folder or .pth checkpoint")
    doubtful_photo_weight: float = _flag(
        0.0,
        "how much photos count in which segmentation was unsure of the subject or did not find it: 0 leaves them out, "
        "1 trains on them as on the others",
    )
    mask_downsample: Literal["area", "nearest", "max", "min"] = field(
        default="area",
        metadata={"help": "mask to latent cells: the share covered, the centre pixel, any pixel, or all pixels"},
    )
    mask_dilation: int = _flag(0, "widen the mask by so many pixels of the crop before it is downsampled")
    mask_normalization: Literal["sample", "batch", "none"] = field(
        default="sample",
        metadata={"help": "divide the loss by the mask's size in each photo, in the whole batch, or not at all"},
    )
    background_weight: float = _flag(0.0, "weight of the loss outside the mask, in [0, 1]; the paper's is 0")
    background_prior_weight: float = _flag(
        0.0,
        "weight of a term that keeps what the model says outside the mask near what the base model says there for "
        "--class_prompt; the paper's is 0",
    )
    attention_loss_weight: float = _flag(
        0.0,
        "Stable Diffusion 1.x, 2.x and XL: weight of a term that makes the identifier's attention the shape of the "
        "mask; 0.01 is that of its paper, Break-A-Scene",
    )
    identifier: str | None = _flag(
        None, "with --attention_loss_weight: the word in the prompts that names the subject, such as sks"
    )

    def __post_init__(self) -> None:
        if not self.masked_loss and (self.instance_mask_dir or self.reference_image):
            raise UserError("--no_masked_loss uses no masks; drop --instance_mask_dir and --reference_image")
        amounts = {"mask_dilation": (0, math.inf), "background_prior_weight": (0, math.inf)}
        _refuse_outside(self, background_weight=(0, 1), doubtful_photo_weight=(0, 1), **amounts)
        _refuse_outside(self, attention_loss_weight=(0, math.inf))
        if not self.masked_loss and self.attention_loss_weight > 0:
            raise UserError(
                f"--attention_loss_weight {self.attention_loss_weight:g} needs masks, which are what attention is "
                "compared with; drop it, or drop --no_masked_loss and give masks"
            )
        if not self.masked_loss and self.background_prior_weight > 0:
            raise UserError(
                f"--background_prior_weight {self.background_prior_weight:g} needs masks, without which nothing is "
                "background; drop it, or drop --no_masked_loss and give masks"
            )

    def check_source(self, has_column: bool) -> None:
        """Raise a UserError unless masks come from one place; `has_column`: a data set brings them."""
        if bool(self.reference_image) != bool(self.reference_mask):
            raise UserError("--reference_image and --reference_mask belong together; give both or neither")
        if not self.masked_loss and has_column:
            raise UserError("--no_masked_loss uses no masks; drop --mask_column")
        sources = {
            "--instance_mask_dir": self.instance_mask_dir,
            "--reference_image": self.reference_image,
            "--mask_column": has_column,
        }
        given = [flag for flag, value in sources.items() if value]
        if self.masked_loss and len(given) > 1:
            raise UserError(f"masks come from one place, and {' and '.join(given)} were given; keep one of them")
        if self.masked_loss and not given:
            raise UserError(
                "masks are needed: give --instance_mask_dir, or --reference_image with --reference_mask, or "
                "--no_masked_loss for plain DreamBooth"
            )


OPTIMIZERS = ("adamw", "adamw8bit", "prodigy")


@dataclass
class OptimizationConfig:
    """How long, how fast, with what."""

    _argument_group_name: ClassVar[str] = "optimization"

    num_train_epochs: int = _flag(1, "times through the photos")
    max_train_steps: int | None = _flag(None, "optimizer steps; wins over --num_train_epochs")
    gradient_accumulation_steps: int = _flag(1, "batches whose gradients make one step")
    learning_rate: float | None = _flag(
        None, "after warm-up; as in diffusers' scripts 5e-4 with LoRA and 5e-6 without, 1 with Prodigy, if unset"
    )
    scale_lr: bool = _flag(False, "multiply the learning rate by processes, accumulation and batch size")
    lr_scheduler: str = _flag(
        "constant", "linear, cosine, cosine_with_restarts, polynomial, constant or constant_with_warmup"
    )
    lr_warmup_steps: int = _flag(500, "steps until the full learning rate")
    lr_num_cycles: int = _flag(1, "restarts of cosine_with_restarts")
    lr_power: float = _flag(1.0, "exponent of polynomial")
    optimizer: str = _flag("adamw", "adamw, adamw8bit (of bitsandbytes) or prodigy (of prodigyopt)")
    use_8bit_adam: bool = _flag(False, "the same as --optimizer adamw8bit")
    adam_beta1: float = _flag(0.9, "AdamW's first decay")
    adam_beta2: float = _flag(0.999, "AdamW's second decay")
    adam_weight_decay: float = _flag(1e-2, "AdamW's weight decay")
    adam_epsilon: float = _flag(1e-8, "AdamW's epsilon")
    prodigy_beta3: float | None = _flag(None, "Prodigy's third decay; the square root of the second if unset")
    prodigy_decouple: bool = _flag(True, "Prodigy's weight decay as AdamW's")
    prodigy_use_bias_correction: bool = _flag(True, "Prodigy with Adam's bias correction")
    prodigy_safeguard_warmup: bool = _flag(True, "leave the rate out of Prodigy's estimate while it warms up")
    max_grad_norm: float = _flag(1.0, "gradients are clipped to this norm")
    use_ema: bool = _flag(False, "keep a moving average of the weights, draw validation pictures with it and save it")
    ema_decay: float = _flag(0.9999, "the average's highest decay; at step t it is at most t / (9 + t)")
    snr_gamma: float | None = _flag(None, "min-SNR weighting of the timesteps; 5.0 is its paper's value")
    offset_noise: bool = _flag(False, "noise with a random offset a channel, for very dark or bright pictures")
    weighting_scheme: Literal["sigma_sqrt", "logit_normal", "mode", "cosmap", "none"] | None = field(
        default=None,
        metadata={
            "help": "flow matching: which noise levels are drawn more often or count more; as in diffusers' scripts, "
            "logit_normal with SD 3 and none with the others, if unset",
            "choices": ["sigma_sqrt", "logit_normal", "mode", "cosmap", "none"],
        },
    )
    logit_mean: float = _flag(0.0, "mean of logit_normal; below 0 draws less noise")
    logit_std: float = _flag(1.0, "standard deviation of logit_normal")
    mode_scale: float = _flag(1.29, "how far mode leaves the uniform distribution")
    precondition_outputs: int | None = _flag(
        None, "SD 3: compare latents (1) instead of velocities (0), so that noisy pictures count more; 1 if unset"
    )
    set_grads_to_none: bool = _flag(True, "free gradients instead of zeroing them: faster, and the same weights")
    mixed_precision: Literal["no", "fp16", "bf16"] | None = field(
        default=None,
        metadata={"help": "no, fp16 or bf16; accelerate's own setting if unset", "choices": ["no", "fp16", "bf16"]},
    )
    torch_compile: bool = _flag(False, "compile what is trained: slow to begin with, then faster")
    allow_tf32: bool = _flag(False, "TF32 matrix products on Ampere GPUs and later")
    seed: int | None = _flag(None, "makes a run repeatable")
    seed_each_batch: bool = _flag(
        False,
        "draw the order of photos, crops, noise and timesteps from --seed and the batch's number: the same "
        "training on any number of processes, as long as processes x accumulation and the batch size stay",
    )

    def __post_init__(self) -> None:
        counts = ("num_train_epochs", "max_train_steps", "gradient_accumulation_steps", "lr_num_cycles")
        _refuse_outside(self, **dict.fromkeys(counts, (1, math.inf)))
        amounts = (
            "learning_rate",
            "lr_warmup_steps",
            "adam_weight_decay",
            "adam_epsilon",
            "max_grad_norm",
            "lr_power",
        )
        _refuse_outside(self, **dict.fromkeys(amounts, (0, math.inf)))
        almost_one = 1 - 1e-9
        _refuse_outside(self, logit_mean=(-1e6, 1e6), logit_std=(1e-6, math.inf), mode_scale=(-1e6, 1e6))
        _refuse_outside(self, precondition_outputs=(0, 1))
        decays = ("adam_beta1", "adam_beta2", "prodigy_beta3", "ema_decay")
        _refuse_outside(self, **dict.fromkeys(decays, (0, almost_one)))
        self._resolve_optimizer()
        _refuse_outside(self, snr_gamma=(1e-6, math.inf), seed=(0, 2**32 - 1))
        if self.seed_each_batch and self.seed is None:
            raise UserError("--seed_each_batch needs --seed, any number")

    def _resolve_optimizer(self) -> None:
        """One name for it, in lower case: diffusers' scripts write AdamW."""
        self.optimizer = self.optimizer.lower()
        if self.optimizer not in OPTIMIZERS:
            raise UserError(f"--optimizer {self.optimizer} is unknown; choose one of {', '.join(OPTIMIZERS)}")
        if self.use_8bit_adam and self.optimizer == "prodigy":
            raise UserError("--use_8bit_adam and --optimizer prodigy exclude each other; drop one")
        if self.use_8bit_adam:
            self.optimizer = "adamw8bit"
        if self.optimizer == "prodigy" and (self.learning_rate == 0 or self.adam_epsilon == 0):
            raise UserError("--optimizer prodigy needs --learning_rate (1 if unset) and --adam_epsilon above 0")


@dataclass
class ValidationConfig:
    """Pictures made while training, to watch it learn."""

    _argument_group_name: ClassVar[str] = "validation"

    validation_prompt: str | None = _flag(None, "prompt of the validation pictures; none are made if unset")
    num_validation_images: int = _flag(4, "how many")
    validation_steps: int = _flag(100, "made every so many steps, and at the end")
    validation_scheduler: Literal["DPMSolverMultistepScheduler", "DDPMScheduler"] = field(
        default="DPMSolverMultistepScheduler", metadata={"help": "sampler of the validation pictures"}
    )

    def __post_init__(self) -> None:
        _refuse_outside(self, num_validation_images=(1, math.inf), validation_steps=(1, math.inf))


@dataclass
class OutputConfig:
    """What is written, and where."""

    _argument_group_name: ClassVar[str] = "output"

    output_dir: str = _flag("dreambooth-model", "folder for the model, its config, masks and pictures")
    checkpointing_steps: int = _flag(500, "a checkpoint every so many steps")
    checkpoints_total_limit: int | None = _flag(None, "keep only so many checkpoints, the newest")
    resume_from_checkpoint: str | None = _flag(None, 'a checkpoint of the output folder, or "latest"')
    skip_save_text_encoder: bool = _flag(False, "leave the text encoder out of the saved pipeline")
    output_kohya_format: bool = _flag(False, "with LoRA: also write the weights as A1111 and ComfyUI read them")
    logging_dir: str = _flag("logs", "folder of the trackers' logs, inside the output folder")
    report_to: str | None = _flag(
        None, "tensorboard, wandb, comet_ml, all (that are installed) or none; tensorboard, if installed, if unset"
    )
    push_to_hub: bool = _flag(False, "upload the model and its card to the hub, and nothing that shows the photos")
    push_masks_to_hub: bool = _flag(False, "upload masks.png too, which shows your photos under their masks")
    hub_token: str | None = field(
        default=None, repr=False, metadata={"help": "token for the upload; `hf auth login` is safer"}
    )
    hub_model_id: str | None = _flag(None, "name of the repository on the hub; the output folder's if unset")

    def __post_init__(self) -> None:
        if self.report_to not in (None, "tensorboard", "none") and self.hub_token is not None:
            raise UserError(
                f"--hub_token could be kept by --report_to {self.report_to} with the command line; use "
                "`hf auth login` instead"
            )
        if self.push_masks_to_hub and not self.push_to_hub:
            raise UserError("--push_masks_to_hub needs --push_to_hub; add it, or drop both")
        _refuse_outside(self, checkpointing_steps=(1, math.inf), checkpoints_total_limit=(1, math.inf))


GROUPS = [ModelConfig, DataConfig, MaskConfig, OptimizationConfig, ValidationConfig, OutputConfig]


@dataclass(init=False)
class TrainingConfig:
    """All of a run's settings.

        config = TrainingConfig(
            pretrained_model_name_or_path="stable-diffusion-v1-5/stable-diffusion-v1-5",
            instance_data_dir="dog", instance_mask_dir="dog-masks", instance_prompt="a sks dog",
            use_lora=True, learning_rate=1e-4, max_train_steps=500, output_dir="dog-lora",
        )

    Keywords are the flags of `persam-dreambooth train` without their dashes; its `--help` explains each of them.
    What is left out, or None, has the flag's default. Paths may be strings or `Path`s. The settings are
    checked against each other here, as those of the command line are, and kept in one dataclass a group.

    Raises:
        UserError: an unknown keyword, a value of the wrong kind or out of its range, settings that exclude each
            other, or one that is missing; the message names it as the flag, with `--`.
    """

    model: ModelConfig
    data: DataConfig
    mask: MaskConfig
    optimization: OptimizationConfig
    validation: ValidationConfig
    output: OutputConfig

    def __init__(self, *groups: Any, **settings: Any) -> None:
        """Take the settings one by one, or, as `dataclasses.replace` does, all groups."""
        names = [group.name for group in fields(self)]
        if settings.keys() == set(names):
            groups, settings = tuple(settings[name] for name in names), {}
        for name, group in zip(names, groups or _read_groups(settings), strict=True):
            setattr(self, name, group)
        self.__post_init__()

    @classmethod
    def load(cls, path: Path | str, **settings: Any) -> Self:
        """Read a YAML file of settings as `--config` does: a recipe, or what `save` wrote.

        Args:
            path: the file, or a folder that holds a `training_config.yaml`, such as a run's `output_dir`.
            settings: win over the file's; None puts one back to its default.

        Raises:
            UserError: the file cannot be read, or as the constructor.
        """
        path = _config_file(Path(path))
        values = read_yaml(path, "config")
        if not isinstance(values, dict):
            raise UserError(f"the config {path} must be lines of `key: value`, one for each flag")
        read = {key: value for key, value in values.items() if key not in settings}
        return cls(*_read_groups(read, f" in {path}", settings))

    def __post_init__(self) -> None:
        for key, value in self.flat().items():
            if key not in ANY_BYTES and isinstance(value, str) and not is_text(value):
                raise UserError(f"--{key} {value!a} is no UTF-8; write it so, or choose another")
        if self.data.image_interpolation_mode is None:
            self.data.image_interpolation_mode = "lanczos" if self.model.use_lora else "bilinear"
        if self.optimization.learning_rate is None:
            adam = 5e-4 if self.model.use_lora else 5e-6
            self.optimization.learning_rate = 1.0 if self.optimization.optimizer == "prodigy" else adam
        if self.data.background_images and not self.mask.masked_loss:
            raise UserError(
                "--background_images needs masks, which cut the subject out; drop --no_masked_loss (with masks "
                "--background_weight 1 takes the loss over the whole picture)"
            )
        if self.data.training_cache and not (self.data.cache_latents or self.model.pre_compute_text_embeddings):
            raise UserError(
                "--training_cache keeps what --cache_latents and --pre_compute_text_embeddings make; add one of them"
            )
        if self.data.aspect_ratio_buckets and self.optimization.seed_each_batch:
            raise UserError("--aspect_ratio_buckets and --seed_each_batch exclude each other; drop one")
        if not self.data.concepts_list:
            self.check_subject()
        if self.mask.attention_loss_weight > 0 and self.optimization.torch_compile:
            raise UserError(
                "--attention_loss_weight and --torch_compile exclude each other, since attention cannot be seen in "
                "compiled layers; drop one"
            )
        if self.model.use_lora and self.output.skip_save_text_encoder:
            raise UserError("--skip_save_text_encoder is for whole pipelines; LoRA saves adapters only, drop it")
        if self.output.push_masks_to_hub and not self.mask.masked_loss:
            raise UserError("--push_masks_to_hub and --no_masked_loss exclude each other; drop one")
        if self.output.output_kohya_format and not self.model.use_lora:
            raise UserError("--output_kohya_format is LoRA's; add --use_lora, or drop it to train all weights")
        if self.output.output_kohya_format and self.model.use_dora:
            raise UserError(
                "--output_kohya_format and --use_dora exclude each other, since no reader of kohya's format applies "
                "DoRA as it is trained; drop one"
            )

    def check_subject(self) -> None:
        """Raise a UserError where a subject's photos, prompts or masks are missing."""
        self.data.check_photos()
        self.mask.check_source(self.data.mask_column is not None)
        if self.mask.background_prior_weight > 0 and not self.data.class_prompt:
            raise UserError(
                f"--background_prior_weight {self.mask.background_prior_weight:g} needs --class_prompt, a prompt such "
                'as "a dog"; give it, or leave the weight at 0'
            )
        if self.mask.attention_loss_weight > 0 and not (self.mask.identifier or "").strip():
            raise UserError(
                f"--attention_loss_weight {self.mask.attention_loss_weight:g} needs --identifier, the word in the "
                "prompts that names the subject, such as sks; give it, or leave the weight at 0"
            )

    def flat(self) -> dict[str, Any]:
        """Every flag and its value, without the token."""
        values = {key: value for group in asdict(self).values() for key, value in group.items()}
        del values["hub_token"]
        return values

    def to_save(self, public: bool = False) -> dict[str, Any]:
        """`flat`, with every path as seen from any other folder, or with `public` without any folder."""
        values = self.flat()
        for key in (*PATHS, *NAMES_OR_PATHS):
            if values[key] and (key in PATHS or Path(values[key]).exists()):
                values[key] = str(Path(values[key]).absolute())
        return {key: without_folders(value) for key, value in values.items()} if public else values

    def save(self, path: Path | str, public: bool = False) -> None:
        """Write a YAML file that `load` and `--config` take from any folder.

        The token for the hub is left out. With `public` no value says where things lie on this machine.

        Args:
            path: the file, ending in .yaml; or a folder, which gets a `training_config.yaml`.
        """
        with replacing(_config_file(Path(path))) as temporary:
            text = yaml.safe_dump(self.to_save(public), sort_keys=False, allow_unicode=True)
            temporary.write_text(text, encoding="utf-8")


def _config_file(path: Path) -> Path:
    """The file itself, or a folder's."""
    return path if path.suffix in (".yaml", ".yml", ".json") else path / CONFIG_NAME


def _read_groups(settings: dict[str, Any], where: str = "", more: dict[str, Any] | None = None) -> list[Any]:
    """Build the groups from single settings, those of a file first, then `more` of the caller's own."""
    flags = {flag.name: (flag, kind) for group in GROUPS for flag, kind in typed_fields(group)}
    values = dict[str, Any]()
    for given, place in ((settings, where), (more or {}, "")):
        for name, value in given.items():
            if name not in flags:
                raise UserError(f"unknown key {name!r}{place}{did_you_mean(str(name), list(flags))}")
            if value is not None:
                values[name] = read_value(*flags[name], value, place)
    return [group(**{one.name: values[one.name] for one in fields(group) if one.name in values}) for group in GROUPS]


# What editors, notebooks and `help` show in place of **settings.
TrainingConfig.__signature__ = Signature(  # type: ignore[attr-defined]
    [
        Parameter(flag.name, Parameter.KEYWORD_ONLY, default=flag.default, annotation=flag.type)
        for group in GROUPS
        for flag in fields(group)
    ]
)
