"""Every flag of the trainer, in small dataclasses; the names are those of diffusers' DreamBooth scripts.

Those of their flags that are not here are in `refused_flags`, each with the reason.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from persam_dreambooth import model_folder
from persam_dreambooth.errors import UserError
from persam_dreambooth.flags import Flags, flag
from persam_dreambooth.method_names import PERSAM, SEGGPT, MethodName, refuse_sam, refuse_seggpt, refuse_size_alone
from persam_dreambooth.photos.listing import repeated_folders
from persam_dreambooth.text_files import check_caption_extension, read_lines
from persam_dreambooth.training import optimizer_args

TOKEN_LIMITS = (150, 225)
"""Values of `--max_token_length`, those of sd-scripts' flag."""


@dataclass
class ModelConfig(Flags):
    """The base model and how it is fine-tuned."""

    _argument_group_name: ClassVar[str] = "model"

    pretrained_model_name_or_path: str | None = flag(
        None, "the base model: hub name or folder of a pipeline, or a single .safetensors file as Civitai has them"
    )
    single_file_config: str | None = flag(
        None,
        "with a single file: hub name or folder of a diffusers pipeline of the same kind, for the configs and "
        "tokenizers, and for parts that the file lacks; if unset, the model's original release on the hub",
    )
    revision: str | None = flag(None, "branch, tag or commit of the base model on the hub")
    variant: str | None = flag(None, "variant of the base model's weight files, such as fp16")
    pretrained_vae_model_name_or_path: str | None = flag(
        None,
        "an autoencoder to use instead of the base model's, such as madebyollin/sdxl-vae-fp16-fix: name or folder",
    )
    tokenizer_name: str | None = flag(None, "a tokenizer to use instead of the base model's: hub name or folder")
    tokenizer_max_length: int | None = flag(
        None, "number of tokens that a prompt is padded or truncated to; the tokenizer's own if unset", min=2
    )
    max_token_length: int | None = flag(
        None,
        "Stable Diffusion 1.x, 2.x and XL: read prompts of up to 150 or 225 tokens, in chunks of 75, as sd-scripts "
        "does; 75 if unset",
    )
    max_sequence_length: int | None = flag(
        None,
        "number of tokens for the long text encoder (T5 or a language model): 77 with SD 3, 256 with Lumina 2 and 512 "
        "with the others if unset",
        min=2,
    )
    guidance_scale: float = flag(
        3.5, "guidance that Flux.1-dev and Flux.2 are conditioned on during training, as in diffusers' scripts", min=0
    )
    train_text_encoder: bool = flag(False, "train the text encoder too")
    use_lora: bool = flag(False, "train LoRA adapters instead of all weights")
    adapter_type: Literal["lora", "loha", "lokr", "oft"] = flag(
        "lora", "with --use_lora: the kind of adapters; those other than LoRA are saved in peft's own format"
    )
    rank: int | None = flag(None, "rank of the adapters, with oft the number of its blocks; 4 if unset", min=1)
    lora_alpha: int | None = flag(None, "the adapters are scaled by alpha / rank; the rank if unset", min=1)
    use_dora: bool = flag(
        False, "DoRA: LoRA that learns the magnitude of each weight vector separately from its direction"
    )
    lora_dropout: float | None = flag(None, "dropout inside the LoRA adapters; 0 if unset", min=0, max=1)
    lora_layers: str | None = flag(
        None,
        "with LoRA: ends of the names of the UNet's or transformer's layers to adapt, separated by commas, such as "
        "to_q,to_k; if unset, those of diffusers' script",
    )
    lora_blocks: str | None = flag(
        None, "with LoRA and SD 3: numbers of the transformer's blocks to adapt, such as 12,30; all if unset"
    )
    network_weights: str | None = flag(
        None, "with LoRA: start from these weights, a .safetensors file in diffusers' format or an output folder"
    )
    quantize: Literal["int8", "fp8"] | None = flag(
        None,
        "with LoRA: store the base model's frozen linear layers in 8 bits, whole numbers or floats (needs torchao): "
        "half the memory of bf16",
    )
    bnb_quantization_config_path: str | None = flag(
        None,
        "with LoRA: JSON file of bitsandbytes settings, such as load_in_4bit, with which the base model is stored "
        "(needs bitsandbytes and a GPU)",
    )
    gradient_checkpointing: bool = flag(False, "save memory, at the cost of about a third more time")
    enable_xformers_memory_efficient_attention: bool = flag(False, "compute attention with xformers")
    pre_compute_text_embeddings: bool = flag(False, "encode the prompts once and drop the text encoder")
    text_encoder_use_attention_mask: bool = flag(False, "mask out padding tokens in the text encoder")
    class_labels_conditioning: Literal["timesteps"] | None = flag(
        None, "what a UNet with class embeddings gets as its class labels: timesteps"
    )

    def __post_init__(self) -> None:
        if not self.pretrained_model_name_or_path:
            raise UserError("--pretrained_model_name_or_path is missing; give a hub name or the folder of a pipeline")
        self._check_token_length()
        self._check_single_file(self.pretrained_model_name_or_path)
        if self.network_weights:
            self._start_from_weights(self.network_weights)
        if self.use_lora:
            self.rank = 4 if self.rank is None else self.rank
            self.lora_dropout = 0.0 if self.lora_dropout is None else self.lora_dropout
        elif self.rank is not None or self.lora_dropout is not None:
            raise UserError("--rank and --lora_dropout are LoRA's; add --use_lora, or drop them to train all weights")
        elif self.lora_alpha is not None or self.use_dora:
            raise UserError(
                "--lora_alpha and --use_dora are LoRA's; add --use_lora, or drop them to train all weights"
            )
        elif self.lora_layers is not None or self.lora_blocks is not None:
            raise UserError(
                "--lora_layers and --lora_blocks are LoRA's; add --use_lora, or drop them to train all weights"
            )
        super().__post_init__()
        if self.adapter_type != "lora":
            self._check_other_adapters()
        self._check_quantization()
        if self.use_dora and self.train_text_encoder:
            # When transformers loads DoRA into a text encoder it drops the norms, and only warns.
            raise UserError("--use_dora and --train_text_encoder exclude each other; drop one")
        if self.train_text_encoder and self.pre_compute_text_embeddings:
            raise UserError("--train_text_encoder and --pre_compute_text_embeddings exclude each other; drop one")

    def _check_token_length(self) -> None:
        if self.max_token_length is None:
            return
        if self.max_token_length not in TOKEN_LIMITS:
            raise UserError(f"--max_token_length {self.max_token_length} must be 150 or 225; without it, 75 are read")
        for name in ("tokenizer_max_length", "text_encoder_use_attention_mask"):
            if getattr(self, name):
                raise UserError(f"--max_token_length and --{name} exclude each other; drop one")

    def _check_single_file(self, name: str) -> None:
        """Refuse flags about a base model on the hub with a single file, and the other way round."""
        path = Path(name)
        is_file = path.is_file() or path.suffix == ".safetensors"
        if self.single_file_config and not is_file:
            raise UserError(
                f"--single_file_config is about a base model in a single file, which {name} is not; drop it"
            )
        given = [flag_name for flag_name in ("revision", "variant") if getattr(self, flag_name)]
        if given and path.is_file():
            raise UserError(f"--{given[0]} is about a base model on the hub, and {name} is a file; drop it")

    def _check_other_adapters(self) -> None:
        """Refuse flags that adapters other than LoRA do not have."""
        if not self.use_lora:
            raise UserError(f"--adapter_type {self.adapter_type} needs --use_lora; add it, or train all weights")
        others = {
            "use_dora": self.use_dora,
            "lora_dropout": self.lora_dropout,
            "network_weights": self.network_weights,
            "lora_alpha": self.adapter_type == "oft" and self.lora_alpha is not None,
        }
        for name, given in others.items():
            if given:
                raise UserError(f"--{name} has no use with --adapter_type {self.adapter_type}; drop one")

    def _check_quantization(self) -> None:
        """Refuse to quantize weights that are trained, a single file, or to do it twice."""
        if self.quantize and self.bnb_quantization_config_path:
            raise UserError("--quantize and --bnb_quantization_config_path exclude each other; drop one")
        if not (self.quantize or self.bnb_quantization_config_path):
            return
        name = "quantize" if self.quantize else "bnb_quantization_config_path"
        if not self.use_lora:
            raise UserError(f"--{name} is for a frozen base model; add --use_lora, or drop it to train all weights")
        if self.adapter_type != "lora":
            raise UserError(f"--{name} and --adapter_type {self.adapter_type} exclude each other; drop one")
        if Path(str(self.pretrained_model_name_or_path)).is_file():
            raise UserError(f"--{name} needs the folder or hub name of a pipeline, not a single file; drop it")

    def _start_from_weights(self, name: str) -> None:
        """Take rank and alpha from an existing LoRA, and refuse others."""
        if not self.use_lora:
            raise UserError("--network_weights are LoRA's; add --use_lora, or drop them to train all weights")
        rank, alpha = model_folder.rank_and_alpha(name, self.use_dora)
        for flag_name, given, its in (("rank", self.rank, rank), ("lora_alpha", self.lora_alpha, alpha)):
            if given is not None and given != its:
                raise UserError(
                    f"--{flag_name} {given}: the LoRA {name} has {flag_name.removeprefix('lora_')} {its}; drop "
                    f"--{flag_name}, which is then read from it"
                )
        self.rank, self.lora_alpha = rank, alpha


@dataclass
class DataConfig(Flags):
    """Photos and prompts."""

    _argument_group_name: ClassVar[str] = "photos and prompts"

    instance_data_dir: str | None = flag(
        None, "folder with the 3 to 5 photos of the subject, or with kohya's folders such as 10_dog"
    )
    instance_prompt: str | None = flag(None, 'prompt with the identifier, such as "a sks dog"')
    caption_extension: str | None = flag(
        None,
        "extension of caption files, such as .txt: a photo with one beside it uses it instead of --instance_prompt",
    )
    concepts_list: str | None = flag(
        None,
        "several subjects: a JSON or YAML file with a list of entries, each with instance_data_dir, instance_prompt, "
        "instance_mask_dir and so on; the flags are the defaults for each entry",
    )
    dataset_name: str | None = flag(
        None,
        "instead of a folder of photos: a data set (hub name or folder), whose train split is copied to the output",
    )
    dataset_config_name: str | None = flag(None, "the data set's configuration")
    image_column: str = flag("image", "the data set's column of photos")
    mask_column: str | None = flag(None, "the data set's column of masks")
    caption_column: str | None = flag(None, "the data set's column of prompts; --instance_prompt for all if unset")
    cache_dir: str | None = flag(None, "folder for downloaded data sets")
    repeats: int = flag(1, "how often an epoch takes each photo; multiplies the numbers of kohya's folders", min=1)
    caption_dropout: float = flag(
        0.0,
        "share of the photos whose prompt is left empty each time, which guidance at generation builds on; class "
        "images keep theirs; 0.1 is usual",
        min=0,
        max=1,
    )
    with_prior_preservation: bool = flag(
        False, "prior preservation: also train on class images, so that other dogs stay dogs"
    )
    prior_loss_weight: float = flag(1.0, "weight of the class images' loss", min=0)
    class_data_dir: str | None = flag(None, "folder of class images; missing ones are generated into it")
    class_prompt: str | None = flag(
        None,
        'prompt without the identifier, such as "a dog"; auto: "a" and the noun that `persam-dreambooth segment '
        "--suggest_class` stored in --instance_mask_dir",
    )
    num_class_images: int = flag(100, "number of class images", min=1)
    sample_batch_size: int = flag(4, "number of class images generated at once", min=1)
    prior_generation_precision: Literal["no", "fp32", "fp16", "bf16"] | None = flag(
        None, "precision while class images are generated; fp16 on a GPU if unset"
    )
    resolution: int = flag(
        512, "photos are resized to cover a square of this many pixels a side, then cropped to it", min=1
    )
    image_interpolation_mode: Literal["bilinear", "bicubic", "lanczos"] | None = flag(
        None,
        "how photos are resized; if unset, as in diffusers' scripts: lanczos with LoRA, otherwise bilinear",
    )
    center_crop: bool = flag(
        False,
        "crop the centre instead of a random position; either crop is moved if it would cut off part of the subject",
    )
    aspect_ratio_buckets: str | None = flag(
        None, 'crop photos to the nearest of several shapes instead of a square: auto, or "height,width;height,width"'
    )
    # diffusers' switch for the flag above
    use_aspect_ratio_buckets: bool = flag(False, "--aspect_ratio_buckets auto", hidden=True)
    random_flip: bool = flag(False, "mirror half of the photos, together with their masks")
    background_images: str | None = flag(
        None, "folder of pictures without the subject; each time a photo is used, a random one replaces its background"
    )
    cache_latents: bool = flag(
        False, "encode photos and class images before training, then remove the autoencoder from the device"
    )
    cached_crops: int = flag(
        4,
        "with --cache_latents: cached versions (random crops and flips) of each photo; 1 if nothing is random",
        min=1,
    )
    training_cache: str | None = flag(
        None, "folder that keeps the results of --cache_latents and --pre_compute_text_embeddings for the next run"
    )
    train_batch_size: int = flag(4, "photos per step and process", min=1)
    dataloader_num_workers: int = flag(0, "processes that read photos; 0 reads them in the training process", min=0)

    def __post_init__(self) -> None:
        if self.dataset_name and (self.instance_data_dir or self.concepts_list):
            raise UserError("--dataset_name brings the photos; drop it, or --instance_data_dir and --concepts_list")
        of_datasets = ("dataset_config_name", "mask_column", "caption_column", "cache_dir")
        given = [f"--{name}" for name in of_datasets if getattr(self, name)]
        if given and not self.dataset_name:
            raise UserError(f"{given[0]} is about a data set; give --dataset_name, or drop it")
        if self.caption_extension is not None:
            check_caption_extension(self.caption_extension)
        if self.use_aspect_ratio_buckets:
            self.aspect_ratio_buckets = self.aspect_ratio_buckets or "auto"
        super().__post_init__()

    def check_photos(self) -> None:
        """Raise a UserError if photos or a prompt are missing; with several subjects, called for each."""
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
class MaskConfig(Flags):
    """Source of the masks and their weight in the loss."""

    _argument_group_name: ClassVar[str] = "masks"

    masked_loss: bool = flag(True, "take the loss over the subject only; --no_masked_loss is plain DreamBooth")
    instance_mask_dir: str | None = flag(
        None, "folder of masks named like the photos, or the --output of `persam-dreambooth segment`"
    )
    reference_image: str | None = flag(None, "instead of masks: the one photo whose mask you have")
    reference_mask: str | None = flag(None, "its mask: the subject painted on black, the photo's size")
    sam: str = flag("facebook/sam-vit-huge", "the SAM that finds the subject: hub name, folder or .pth checkpoint")
    segmentation_method: MethodName = flag(
        PERSAM, "how the subject is found with --reference_image; see `persam-dreambooth segment --help`"
    )
    segmentation_features: str | None = flag(
        None, "with --reference_image: a DINOv3 or DINOv2 that locates the subject; --features of `segment`"
    )
    segmentation_features_size: int | None = flag(
        None, "side in pixels of the square that --segmentation_features sees; 64 of its patches if unset", min=1
    )
    segmentation_seggpt: str | None = flag(
        None, "with --segmentation_method seggpt: the SegGPT; --seggpt of `segment`; BAAI/seggpt-vit-large if unset"
    )
    exclude_mask_dir: str | None = flag(
        None,
        "folder of masks, named like the photos, of what is never trained on, in any term of the loss (a hand, a "
        "watermark); if unset, a file <photo>-exclude.png beside a photo's mask",
    )
    unmasked_probability: float = flag(
        0.0,
        "share of the steps that are trained without masks, on whole photos; which ones depends on --seed and the "
        "step's number",
        min=0,
        max=1,
    )
    uncertain_photo_weight: float = flag(
        0.0,
        "loss weight of photos in which segmentation is unsure of the subject or did not find it: 0 leaves them "
        "out, 1 trains on them as on the others",
        min=0,
        max=1,
        old_names=["doubtful_photo_weight"],
    )
    mask_downsample: Literal["area", "nearest", "max", "min"] = flag(
        "area",
        "mask value of a latent cell: the share covered (area), the centre pixel (nearest), any pixel, all pixels",
    )
    mask_dilation: int = flag(0, "dilate the mask by this many pixels of the crop before it is downsampled", min=0)
    mask_normalization: Literal["sample", "batch", "none"] = flag(
        "sample", "divide the loss by the mask's size in each photo (sample), in the whole batch, or not at all (none)"
    )
    background_weight: float = flag(0.0, "weight of the loss outside the mask; the paper's is 0", min=0, max=1)
    background_prior_weight: float = flag(
        0.0,
        "weight of a loss that keeps the prediction outside the mask close to the base model's for --class_prompt; "
        "the paper's is 0",
        min=0,
    )
    cache_background_prior: int | None = flag(
        None,
        "keep the base model's predictions for this many fixed draws of noise and timestep for each cached version of "
        "a photo, and train on these draws only: a background prior that costs almost nothing once they are all known",
        min=1,
    )
    attention_loss_weight: float = flag(
        0.0,
        "Stable Diffusion 1.x, 2.x and XL: weight of a loss that fits the identifier's cross-attention to the mask; "
        "0.01 is that of its paper, Break-A-Scene",
        min=0,
    )
    identifier: str | None = flag(
        None, "with --attention_loss_weight: the word in the prompts that names the subject, such as sks"
    )

    def __post_init__(self) -> None:
        if not self.masked_loss and (self.instance_mask_dir or self.reference_image):
            raise UserError("--no_masked_loss uses no masks; drop --instance_mask_dir and --reference_image")
        super().__post_init__()
        if not self.masked_loss and self.attention_loss_weight > 0:
            raise UserError(
                f"--attention_loss_weight {self.attention_loss_weight:g} needs masks, which are what attention is "
                "compared with; drop it, or drop --no_masked_loss and give masks"
            )
        if not self.masked_loss and (self.exclude_mask_dir or self.unmasked_probability):
            name = "--exclude_mask_dir" if self.exclude_mask_dir else "--unmasked_probability"
            raise UserError(f"{name} is about masks, which --no_masked_loss does not use; drop one of the two")
        if not self.masked_loss and self.background_prior_weight > 0:
            raise UserError(
                f"--background_prior_weight {self.background_prior_weight:g} needs masks, without which nothing is "
                "background; drop it, or drop --no_masked_loss and give masks"
            )

        refuse_size_alone(
            self.segmentation_method, self.segmentation_features, self.segmentation_features_size, "segmentation_"
        )
        if self.segmentation_method == SEGGPT and self.segmentation_features:
            raise UserError("--segmentation_features is not read by SegGPT, whose model is --segmentation_seggpt")
        refuse_seggpt(self.segmentation_method, segmentation_seggpt=self.segmentation_seggpt)
        if self.sam != _default(self, "sam"):
            refuse_sam(self.segmentation_method, "--sam", "--segmentation_method")

    def refuse_segmentation(self) -> None:
        """Refuse the flags about how masks are made, since no subject has a reference to make them from.

        Raises:
            UserError: one of them was given.
        """
        for name in (
            "segmentation_method",
            "segmentation_features",
            "segmentation_features_size",
            "segmentation_seggpt",
        ):
            if getattr(self, name) != _default(self, name):
                raise UserError(
                    f"--{name} is about masks that are made from --reference_image; give that with --reference_mask, "
                    f"or drop --{name}"
                )

    def check_source(self, has_column: bool) -> None:
        """Raise a UserError unless masks come from one place; `has_column`: from a data set's column."""
        if bool(self.reference_image) != bool(self.reference_mask):
            raise UserError("--reference_image and --reference_mask belong together; give both or neither")
        if not self.masked_loss and has_column:
            raise UserError("--no_masked_loss uses no masks; drop --mask_column")
        sources = {
            "--instance_mask_dir": self.instance_mask_dir,
            "--reference_image": self.reference_image,
            "--mask_column": has_column,
        }
        given = [name for name, value in sources.items() if value]
        if self.masked_loss and len(given) > 1:
            raise UserError(f"masks come from one place, and {' and '.join(given)} were given; keep one of them")
        if self.masked_loss and not given:
            raise UserError(
                "masks are needed: give --instance_mask_dir, or --reference_image with --reference_mask, or "
                "--no_masked_loss for plain DreamBooth"
            )


def _default(group: Flags, name: str) -> Any:
    return type(group).__dataclass_fields__[name].default  # type: ignore[attr-defined]  # its subclasses are dataclasses


@dataclass
class OptimizationConfig(Flags):
    """Length of the training, learning rate, optimizer, noise and precision."""

    _argument_group_name: ClassVar[str] = "optimization"

    num_train_epochs: int = flag(1, "passes over the photos", min=1)
    max_train_steps: int | None = flag(None, "optimizer steps; takes precedence over --num_train_epochs", min=1)
    gradient_accumulation_steps: int = flag(1, "batches per optimizer step; their gradients are averaged", min=1)
    learning_rate: float | None = flag(
        None,
        "rate after warm-up; if unset, 1 with Prodigy, else as in diffusers' scripts: 5e-4 with LoRA, 5e-6 without",
        min=0,
    )
    text_encoder_lr: float | None = flag(
        None,
        "with --train_text_encoder: the text encoders' learning rate, which --scale_lr does not multiply; "
        "--learning_rate if unset",
        min=0,
    )
    scale_lr: bool = flag(
        False, "multiply the learning rate by the number of processes, accumulation steps and batch size"
    )
    lr_scheduler: str = flag(
        "constant", "linear, cosine, cosine_with_restarts, polynomial, constant or constant_with_warmup"
    )
    lr_warmup_steps: int = flag(500, "steps until the full learning rate is reached", min=0)
    lr_num_cycles: int = flag(1, "number of cycles of cosine_with_restarts", min=1)
    lr_power: float = flag(1.0, "exponent of the polynomial schedule", min=0)
    optimizer: str = flag(
        "adamw",
        "adamw, adamw8bit or paged_adamw8bit (need bitsandbytes; paged moves its states to main memory when a GPU is "
        "full) or prodigy (needs prodigyopt)",
    )
    optimizer_args: dict[str, Any] = flag(
        {},
        "further settings of the optimizer, such as weight_decay=0.01 betas=0.9,0.99 or, with Prodigy, d_coef=2 "
        "decouple=False; they take precedence over --adam_*; an unknown one is refused with a list of all",
    )
    use_8bit_adam: bool = flag(False, "the same as --optimizer adamw8bit")
    adam_beta1: float = flag(0.9, "decay of the optimizer's first moment", min=0, below=1)
    adam_beta2: float = flag(0.999, "decay of the optimizer's second moment", min=0, below=1)
    adam_weight_decay: float = flag(1e-2, "the optimizer's weight decay", min=0)
    adam_weight_decay_text_encoder: float | None = flag(
        None, "with --train_text_encoder: the text encoders' weight decay; --adam_weight_decay if unset", min=0
    )
    adam_epsilon: float = flag(1e-8, "the optimizer's epsilon", min=0)
    # Names of diffusers' scripts for settings of --optimizer_args.
    prodigy_beta3: float | None = flag(None, "--optimizer_args beta3=VALUE", min=0, below=1, hidden=True)
    prodigy_decouple: bool | None = flag(None, "--optimizer_args decouple=VALUE", hidden=True)
    prodigy_use_bias_correction: bool | None = flag(None, "--optimizer_args use_bias_correction=VALUE", hidden=True)
    prodigy_safeguard_warmup: bool | None = flag(None, "--optimizer_args safeguard_warmup=VALUE", hidden=True)
    max_grad_norm: float = flag(1.0, "gradients are clipped to this norm", min=0)
    use_ema: bool = flag(
        False, "keep a moving average of the weights (EMA), which validation images and the saved model use"
    )
    ema_decay: float = flag(
        0.9999, "upper limit of the EMA's decay; at step t the decay is at most t / (9 + t)", min=0, below=1
    )
    snr_gamma: float | None = flag(None, "min-SNR weighting of the timesteps; 5.0 is its paper's value", min=1e-6)
    offset_noise: bool = flag(
        False, "add a random offset to each channel of the noise, to learn very dark or bright images"
    )
    weighting_scheme: Literal["sigma_sqrt", "logit_normal", "mode", "cosmap", "none"] | None = flag(
        None,
        "flow matching: which noise levels are drawn more often or weighted higher; if unset, as in diffusers' "
        "scripts, logit_normal with SD 3 and none with the others",
    )
    logit_mean: float = flag(
        0.0,
        "mean of logit_normal; below 0 favours high noise levels with SD 3 and Flux, low ones with Lumina 2",
        min=-1e6,
        max=1e6,
    )
    logit_std: float = flag(1.0, "standard deviation of logit_normal", min=1e-6)
    mode_scale: float = flag(1.29, "how far mode departs from the uniform distribution", min=-1e6, max=1e6)
    precondition_outputs: int | None = flag(
        None,
        "SD 3: take the loss on latents (1), which weights noisy images higher, or on velocities (0); 1 if unset",
        min=0,
        max=1,
    )
    do_edm_style_training: bool = flag(
        False,
        "SDXL: learn the clean image at noise levels of EDM (arXiv 2206.00364); always on with base models of its "
        "noise, such as Playground 2.5",
    )
    set_grads_to_none: bool = flag(True, "free gradients instead of zeroing them: faster, with the same weights")
    mixed_precision: Literal["no", "fp16", "bf16"] | None = flag(
        None, "precision of the forward pass; Accelerate's setting if unset"
    )
    torch_compile: bool = flag(False, "compile the trained model: slow at first, then faster")
    allow_tf32: bool = flag(False, "use TF32 for matrix products, on Ampere and later GPUs")
    seed: int | None = flag(None, "makes a run reproducible", min=0, below=2**32)
    seed_each_batch: bool = flag(
        False,
        "derive the order of photos, crops, noise and timesteps from --seed and the batch's number: the same "
        "training on any number of processes, if processes x accumulation and the batch size stay the same",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._resolve_optimizer()
        if self.seed_each_batch and self.seed is None:
            raise UserError("--seed_each_batch needs --seed, any number")

    def _resolve_optimizer(self) -> None:
        """Give the optimizer one name, in lower case (diffusers' scripts write AdamW), and check its settings."""
        self.optimizer = self.optimizer.lower()
        if self.optimizer not in optimizer_args.ALLOWED:
            known = ", ".join(optimizer_args.ALLOWED)
            raise UserError(f"--optimizer {self.optimizer} is unknown; choose one of {known}")
        if self.use_8bit_adam and self.optimizer == "prodigy":
            raise UserError("--use_8bit_adam and --optimizer prodigy exclude each other; drop one")
        if self.use_8bit_adam:
            self.optimizer = "adamw8bit"
        if self.optimizer == "prodigy" and self.text_encoder_lr is not None:
            raise UserError("--optimizer prodigy finds one rate for all weights; drop --text_encoder_lr")
        if self.adam_weight_decay_text_encoder is not None and "weight_decay" in self.optimizer_args:
            raise UserError(
                "--adam_weight_decay_text_encoder and weight_decay in --optimizer_args exclude each other; give "
                "--adam_weight_decay with the first"
            )
        if self.optimizer == "prodigy" and (self.learning_rate == 0 or self.adam_epsilon == 0):
            raise UserError("--optimizer prodigy needs --learning_rate (1 if unset) and --adam_epsilon above 0")
        self.optimizer_args = optimizer_args.checked(self.optimizer, optimizer_args.with_old_flags(vars(self)))
        for name in optimizer_args.PRODIGY_DEFAULTS:
            setattr(self, f"prodigy_{name}", None)


@dataclass
class ValidationConfig(Flags):
    """Pictures generated during training, to watch it learn."""

    _argument_group_name: ClassVar[str] = "validation"

    validation_prompt: str | None = flag(
        None,
        "prompt of the validation images; none are generated if neither it nor --validation_prompts_file is given",
    )
    validation_prompts_file: str | None = flag(
        None,
        "text file with more prompts of the validation images, one a line; empty lines and lines that begin with # "
        "are skipped",
    )
    num_validation_images: int = flag(
        4, "validation images per prompt; their seeds are --seed (0 if unset), the next number and so on", min=1
    )
    validation_steps: int = flag(100, "generate validation images every N steps, and at the end", min=1)
    validation_epochs: int | None = flag(
        None, "generate them every N epochs, instead of every --validation_steps steps", min=1
    )
    final_validation_prompt: str | None = flag(
        None, "instead of --validation_prompt: prompt of images that are generated at the end only"
    )
    skip_final_inference: bool = flag(False, "generate no validation images at the end")
    validation_scheduler: Literal["DPMSolverMultistepScheduler", "DDPMScheduler"] = flag(
        "DPMSolverMultistepScheduler", "sampler of the validation images"
    )

    def __post_init__(self) -> None:
        """Read the file now, so that a mistake in it ends the run before it begins."""
        super().__post_init__()
        path, own = self.validation_prompts_file, [self.validation_prompt] if self.validation_prompt else []
        lines = read_lines(Path(path), "validation prompts file") if path else []
        read = [line for line in lines if line and not line.startswith("#")]
        if path and not read:
            raise UserError(f"--validation_prompts_file {path} holds no prompt; write one a line, or drop the flag")
        self._prompts = list(dict.fromkeys([*own, *read]))
        for name in ("validation_prompt", "validation_prompts_file", "skip_final_inference"):
            if self.final_validation_prompt and getattr(self, name):
                raise UserError(f"--final_validation_prompt and --{name} exclude each other; drop one")

    @property
    def prompts(self) -> list[str]:
        """The prompts of the images that are generated during training, each once: the flag's, then the file's."""
        return self._prompts

    @property
    def last_prompts(self) -> list[str]:
        """The prompts of the images that are generated at the end."""
        if self.skip_final_inference:
            return []
        return [self.final_validation_prompt] if self.final_validation_prompt else self._prompts

    @property
    def all_prompts(self) -> list[str]:
        """All of them, each once."""
        return list(dict.fromkeys([*self.prompts, *self.last_prompts]))


@dataclass
class OutputConfig(Flags):
    """Output files, checkpoints, logs and the upload."""

    _argument_group_name: ClassVar[str] = "output"

    output_dir: str = flag(
        "dreambooth-model", "folder for the model, its config, masks.png, checkpoints and validation images"
    )
    dry_run: bool = flag(
        False,
        "train nothing: check everything, estimate the memory and draw the first batch as masks.png in the output "
        "folder",
    )
    checkpointing_steps: int = flag(500, "save a checkpoint every N steps", min=1)
    checkpoints_total_limit: int | None = flag(None, "keep only the newest N checkpoints; all if unset", min=1)
    resume_from_checkpoint: str | None = flag(None, 'a checkpoint of the output folder, or "latest"')
    upcast_before_saving: bool = flag(
        True,
        "save the model in float32; --no_upcast_before_saving saves it in the precision of --mixed_precision, half "
        "the size, as diffusers' scripts do unless asked",
    )
    skip_save_text_encoder: bool = flag(False, "leave the text encoder out of the saved pipeline")
    output_kohya_format: bool = flag(
        False, "with LoRA: also save the weights in kohya's format, for A1111 and ComfyUI"
    )
    logging_dir: str = flag("logs", "folder of the trackers' logs, inside the output folder")
    report_to: str | None = flag(
        None,
        "tensorboard, wandb, comet_ml, all (that are installed) or none; if unset, tensorboard where it is installed",
    )
    push_to_hub: bool = flag(
        False,
        "upload the model, card, config and validation images to the hub, but nothing that shows the photos",
    )
    push_masks_to_hub: bool = flag(False, "upload masks.png too, which shows your photos under their masks")
    hub_token: str | None = flag(None, "token for the upload; `hf auth login` is safer", secret=True)
    hub_model_id: str | None = flag(None, "name of the repository on the hub; the output folder's if unset")
    # Some launchers add it to the command line.
    local_rank: int = flag(-1, "number of this process on its machine", min=-1, below=2**31, hidden=True)

    def __post_init__(self) -> None:
        if self.report_to not in (None, "tensorboard", "none") and self.hub_token is not None:
            raise UserError(
                f"--hub_token could be kept by --report_to {self.report_to} with the command line; use "
                "`hf auth login` instead"
            )
        if self.push_masks_to_hub and not self.push_to_hub:
            raise UserError("--push_masks_to_hub needs --push_to_hub; add it, or drop both")
        super().__post_init__()
        launched = os.environ.get("LOCAL_RANK", "0")
        if self.local_rank >= 0 and str(self.local_rank) != launched:
            raise UserError(
                f"--local_rank {self.local_rank}: the launcher's LOCAL_RANK says {launched}; start the processes with "
                "`accelerate launch` or torchrun, and drop the flag"
            )


GROUPS = [ModelConfig, DataConfig, MaskConfig, OptimizationConfig, ValidationConfig, OutputConfig]
