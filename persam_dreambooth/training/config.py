"""All settings of a training run: read from keywords or YAML, checked against each other, saved as YAML."""

from dataclasses import asdict, dataclass, fields
from inspect import Parameter, Signature
from pathlib import Path
from typing import Any, Self

import yaml

from persam_dreambooth.atomic_io import replacing
from persam_dreambooth.errors import UserError
from persam_dreambooth.flag_values import build_groups, read_settings, with_new_names
from persam_dreambooth.flags import flags_of
from persam_dreambooth.model_folder import CONFIG_NAME
from persam_dreambooth.photos.class_suggestion import suggested_prompt
from persam_dreambooth.text_files import is_text
from persam_dreambooth.training.flag_groups import (
    GROUPS,
    REFUSED,
    DataConfig,
    MaskConfig,
    ModelConfig,
    OptimizationConfig,
    OutputConfig,
    ValidationConfig,
)

__all__ = [
    "GROUPS",
    "PATHS",
    "DataConfig",
    "MaskConfig",
    "ModelConfig",
    "OptimizationConfig",
    "OutputConfig",
    "TrainingConfig",
    "ValidationConfig",
]
PATHS = (
    "instance_data_dir",
    "class_data_dir",
    "instance_mask_dir",
    "region_mask_dir",
    "exclude_mask_dir",
    "reference_image",
    "reference_mask",
    "concepts_list",
    "background_images",
    "training_cache",
    "cache_dir",
    "network_weights",
    "bnb_quantization_config_path",
    "validation_prompts_file",
    "output_dir",
)
"""Flags that name a file or a folder."""
AUTO = "auto"
"""Value of `--class_prompt` for the class noun that `segment --suggest_class` stored beside the masks."""
NAMES_OR_PATHS = (
    *("pretrained_model_name_or_path", "single_file_config", "pretrained_vae_model_name_or_path", "tokenizer_name"),
    *("sam", "dino_model", "clip_model", "segmentation_features", "segmentation_seggpt", "dataset_name"),
)
"""Flags that name a file or a folder, or something on the hub."""
ANY_BYTES = {*PATHS, *NAMES_OR_PATHS} - {"output_dir", "training_cache"}
"""Flags whose values may be file names that are not UTF-8. The two other folders get safetensors files, whose paths
must be UTF-8."""
SHOWN = [flag for flag in flags_of(*GROUPS) if not flag.hidden]


@dataclass(init=False)
class TrainingConfig:
    """All of a run's settings.

        config = TrainingConfig(
            pretrained_model_name_or_path="stable-diffusion-v1-5/stable-diffusion-v1-5",
            instance_data_dir="dog", instance_mask_dir="dog-masks", instance_prompt="a sks dog",
            use_lora=True, learning_rate=1e-4, max_train_steps=500, output_dir="dog-lora",
        )

    Keywords are the flags of `persam-dreambooth train` without their dashes; its `--help` explains each of them.
    A setting that is left out, or None, has the flag's default. Paths may be strings or `Path`s. `optimizer_args` is a
    dictionary. The settings are checked like those of the command line, and kept in one dataclass per group.

    Raises:
        UserError: an unknown keyword, a value of the wrong kind or out of its range, settings that exclude each
            other, or one that is missing; the message names the setting by its flag, with `--`.
    """

    model: ModelConfig
    data: DataConfig
    mask: MaskConfig
    optimization: OptimizationConfig
    validation: ValidationConfig
    output: OutputConfig

    def __init__(self, *groups: Any, **settings: Any) -> None:
        """Take the settings one by one, or all groups, as `dataclasses.replace` passes them."""
        names = [group.name for group in fields(self)]
        if settings.keys() == set(names):
            groups, settings = tuple(settings[name] for name in names), {}
        groups = groups or tuple(build_groups(GROUPS, with_new_names(settings, GROUPS), refused=REFUSED))
        for name, group in zip(names, groups, strict=True):
            setattr(self, name, group)
        self.__post_init__()

    @classmethod
    def load(cls, path: Path | str, **settings: Any) -> Self:
        """Read a YAML file of settings as `--config` does: a recipe, or what `save` wrote.

        Args:
            path: the file, or a folder that holds a `training_config.yaml`, such as a run's `output_dir`.
            settings: take precedence over the file's; None resets one to its default.

        Raises:
            UserError: the file cannot be read, or the constructor refuses its settings.
        """
        path = _config_file(Path(path))
        values = with_new_names(read_settings(path), GROUPS, f" in {path}")
        settings = with_new_names(settings, GROUPS)
        read = {key: value for key, value in values.items() if key not in settings}
        return cls(*build_groups(GROUPS, read, f" in {path}", settings, REFUSED))

    def __post_init__(self) -> None:
        self._check_text()
        self._resolve_defaults()
        if not self.data.concepts_list:
            self.resolve_class_prompt()
            self.check_subject()
        self._check_data()
        self._check_text_encoder()
        self._check_output()
        self._check_measures()

    def _check_text(self) -> None:
        """Refuse values that no UTF-8 file can hold."""
        for key, value in self.flat().items():
            if key not in ANY_BYTES and isinstance(value, str) and not is_text(value):
                raise UserError(f"--{key} {value!a} is not UTF-8; write it in UTF-8, or choose another")

    def _resolve_defaults(self) -> None:
        """Set the defaults that depend on other flags."""
        if self.data.image_interpolation_mode is None:
            self.data.image_interpolation_mode = "lanczos" if self.model.frozen_base else "bilinear"
        if self.optimization.learning_rate is None:
            adam = 5e-4 if self.model.frozen_base else 5e-6
            self.optimization.learning_rate = 1.0 if self.optimization.optimizer == "prodigy" else adam

    def _check_data(self) -> None:
        """Refuse flags of photos and masks that contradict those of other groups."""
        if not self.mask.reference_image and not self.data.concepts_list:  # whose subjects bring their own references
            self.mask.refuse_segmentation()
        if self.data.with_prior_preservation and self.model.new_words and not self.model.use_lora:
            raise UserError(
                "--with_prior_preservation cannot influence the new words, because class prompts do not contain them, "
                "and nothing else is trained; drop it, or add --use_lora"
            )
        if self.data.background_images and not self.mask.masked_loss:
            raise UserError(
                "--background_images needs masks, to cut the subject out; drop --no_masked_loss (with "
                "--background_weight 1 the loss is taken over the whole picture all the same)"
            )
        if self.data.caption_dropout > 0 and self.mask.attention_loss_weight > 0:
            raise UserError(
                "--caption_dropout and --attention_loss_weight exclude each other, since an empty prompt has no "
                "identifier; drop one"
            )
        if self.data.training_cache and not (self.data.cache_latents or self.model.pre_compute_text_embeddings):
            raise UserError(
                "--training_cache stores the results of --cache_latents and --pre_compute_text_embeddings; add one of "
                "them, or drop --training_cache"
            )
        banked = self.mask.cache_background_prior is not None
        if banked and not (self.mask.background_prior_weight > 0 and self.data.cache_latents):
            raise UserError(
                "--cache_background_prior keeps the background prior's predictions for photos that are encoded once; "
                "add --background_prior_weight and --cache_latents, or drop --cache_background_prior"
            )
        if self.data.aspect_ratio_buckets and self.optimization.seed_each_batch:
            raise UserError("--aspect_ratio_buckets and --seed_each_batch exclude each other; drop one")
        if self.mask.attention_loss_weight > 0 and self.model.max_token_length:
            raise UserError(
                "--attention_loss_weight and --max_token_length exclude each other, since the attention loss does not "
                "support prompts in chunks; drop one"
            )
        if self.mask.attention_loss_weight > 0 and self.optimization.torch_compile:
            raise UserError(
                "--attention_loss_weight and --torch_compile exclude each other, since attention cannot be seen in "
                "compiled layers; drop one"
            )

        if self.model.layerwise_upcasting_storage_dtype and self.optimization.torch_compile:
            raise UserError("--layerwise_upcasting_storage_dtype and --torch_compile exclude each other; drop one")

    def _check_text_encoder(self) -> None:
        """Refuse optimizer settings for text encoders that are not trained."""
        for name in ("text_encoder_lr", "adam_weight_decay_text_encoder"):
            in_training = self.model.train_text_encoder or self.model.train_text_encoder_ti
            if getattr(self.optimization, name) is not None and not in_training:
                raise UserError(
                    f"--{name} is for trained text encoders; add --train_text_encoder or "
                    "--train_text_encoder_ti, or drop it"
                )

    def _check_output(self) -> None:
        """Refuse flags of the output that contradict those of other groups."""
        if self.model.frozen_base and self.output.skip_save_text_encoder:
            raise UserError(
                "--skip_save_text_encoder is for whole pipelines, and this run saves only what it learns; drop it"
            )
        if self.output.push_masks_to_hub and not self.mask.masked_loss:
            raise UserError("--push_masks_to_hub and --no_masked_loss exclude each other; drop one")
        if self.output.output_kohya_format and not self.model.use_lora:
            raise UserError("--output_kohya_format is for LoRA; add --use_lora, or drop it to train all weights")
        if self.output.output_kohya_format and self.model.adapter_type == "oft":
            raise UserError(
                "--output_kohya_format and --adapter_type oft exclude each other: the OFT of that format rotates a "
                "layer's outputs, peft's its inputs; drop one"
            )
        if self.output.output_kohya_format and self.model.use_dora:
            raise UserError(
                "--output_kohya_format and --use_dora exclude each other, since no reader of kohya's format applies "
                "DoRA as it is trained; drop one"
            )

    def _check_measures(self) -> None:
        """Refuse measures of validation images and checkpoints that cannot be taken."""
        validation = self.validation
        names = [name for name in ("dino_model", "clip_model", "choose_checkpoint") if getattr(validation, name)]
        if not names:
            self.mask.refuse_idle_sam()
        several = {
            "--concepts_list": bool(self.data.concepts_list),
            "--region_mask_dir": bool(self.mask.region_mask_dir),
            "--region_columns": bool(self.data.region_columns),
        }
        other = next((flag for flag, given in several.items() if given), "--no_masked_loss")
        if names and (other in several or not self.mask.masked_loss):
            reason = "one subject at a time" if other in several else "subject and background by the masks"
            raise UserError(f"--{names[0]} compares {reason}; drop it or {other}")
        if names and not validation.prompts and not validation.choose_checkpoint:
            raise UserError(
                f"--{names[0]} measures validation images during the training; add --validation_prompt, or drop it"
            )

    def resolve_class_prompt(self) -> None:
        """Replace the class prompt "auto"; errors as in `suggested_prompt`."""
        if self.data.class_prompt == AUTO:
            self.data.class_prompt = suggested_prompt(self.mask.instance_mask_dir)

    def check_subject(self) -> None:
        """Raise a UserError if a subject's photos, prompts or masks are missing."""
        self.data.check_photos()
        self.mask.check_source([f"--{name}" for name in ("mask_column", "region_columns") if getattr(self.data, name)])
        if self.mask.background_prior_weight > 0 and not self.data.class_prompt:
            raise UserError(
                f"--background_prior_weight {self.mask.background_prior_weight:g} needs --class_prompt, a prompt such "
                'as "a dog"; give it, or leave the weight at 0'
            )
        regions = self.mask.region_mask_dir or self.data.region_columns
        if regions and self.mask.identifier:
            raise UserError(
                "--identifier names the only subject of a photo, and those of --region_mask_dir are named by its "
                "folders, those of --region_columns by their words; drop one"
            )
        named = regions or (self.mask.identifier or "").strip()
        if self.mask.attention_loss_weight > 0 and not named:
            raise UserError(
                f"--attention_loss_weight {self.mask.attention_loss_weight:g} needs --identifier, the word in the "
                "prompts that names the subject, such as sks; give it, or leave the weight at 0"
            )

    def flat(self) -> dict[str, Any]:
        """Return every flag and its value, without hidden flags and the token."""
        values = {key: value for group in asdict(self).values() for key, value in group.items()}
        return {flag.name: values[flag.name] for flag in SHOWN if flag.name != "hub_token"}

    def to_save(self, public: bool = False) -> dict[str, Any]:
        """Return `flat` with absolute paths or, with `public`, only the last part of each path."""
        values = self.flat()
        for key in (*PATHS, *NAMES_OR_PATHS):
            if values[key] and (key in PATHS or Path(values[key]).exists()):
                values[key] = str(Path(values[key]).absolute())
        return {key: without_folders(value) for key, value in values.items()} if public else values

    def save(self, path: Path | str, public: bool = False) -> None:
        """Write a YAML file that `load` and `--config` take from any folder.

        The token for the hub is left out. With `public` local paths are reduced to their last part.

        Args:
            path: the file, ending in .yaml; or a folder, which gets a `training_config.yaml`.
        """
        with replacing(_config_file(Path(path))) as temporary:
            text = yaml.safe_dump(self.to_save(public), sort_keys=False, allow_unicode=True)
            temporary.write_text(text, encoding="utf-8")


def _config_file(path: Path) -> Path:
    """Return the path itself if it is a file's, else the config in that folder, whatever the folder is called."""
    return path if path.suffix in (".yaml", ".yml", ".json") and not path.is_dir() else path / CONFIG_NAME


# Editors, notebooks and `help` show this instead of **settings.
TrainingConfig.__signature__ = Signature(  # type: ignore[attr-defined]
    [
        Parameter(
            flag.name,
            Parameter.KEYWORD_ONLY,
            default=flag.default,
            annotation=flag.kind | None if flag.default is None else flag.kind,
        )
        for flag in SHOWN
    ]
)


def without_folders(value: Any) -> Any:
    """Return the last part of a path; any other setting (a number, a prompt, a hub name) as it is."""
    if not isinstance(value, str):
        return value
    path = Path(value)
    try:
        return path.name if path.is_absolute() or path.exists() else value
    except OSError:  # too long for a file name, such as a long prompt
        return value
