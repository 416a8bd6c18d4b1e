"""A diffusers pipeline as named parts: loaded, reassembled, saved."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from torch import nn
from transformers import AutoTokenizer

from persam_dreambooth import adapter_files
from persam_dreambooth.torch_utils import weights_checksum
from persam_dreambooth.training.config import ModelConfig
from persam_dreambooth.training.families import lora, quantized
from persam_dreambooth.training.families.loading import (
    load_config,
    load_part,
    load_tokenizer,
    naming,
    refuse_other_latents,
    single_file,
    source,
    unwrapped,
)
from persam_dreambooth.training.families.textual_inversion import NewTokens


class PipelineParts(ABC):
    """The parts of one class of pipelines, some of which are trained.

    Attributes:
        base_model: hub name or folder, as given by the user.
        pipeline_class: diffusers' class.
        denoiser: name and class of the denoiser.
        vae_class: of the autoencoder.
        tokenizer_class: of the tokenizers.
        encoders: names and classes of the text encoders, in the order of diffusers' scripts; tokenizers
            have the same suffixes.
        scheduler_class: of the noise schedule.
        optional: the encoders that a base model may lack.
        unchecked: keywords of the pipeline's constructor that disable its safety checker.
        whole_encoders: the text encoders that `--train_text_encoder` trains whole, without LoRA.
        vae_dtype: of the autoencoder; None is the same as other frozen parts.
        drawing: keywords of the pipeline's call that enable its guidance, for validation pictures.
    """

    pipeline_class: ClassVar[Any]
    denoiser: ClassVar[tuple[str, Any]]
    vae_class: ClassVar[Any] = AutoencoderKL
    tokenizer_class: ClassVar[Any] = AutoTokenizer
    encoders: ClassVar[dict[str, Any]]
    scheduler_class: ClassVar[Any]
    optional: ClassVar[tuple[str, ...]] = ()
    unchecked: ClassVar[dict[str, Any]] = {}
    drawing: ClassVar[dict[str, Any]] = {}
    whole_encoders: ClassVar[tuple[str, ...]] = ()
    vae_dtype: ClassVar[torch.dtype | None] = None

    vae: Any
    dtype: torch.dtype
    new_tokens: NewTokens | None = None

    def __init__(self, config: ModelConfig, **parts: Any) -> None:
        self.config, self.base_model = config, str(config.pretrained_model_name_or_path)
        # Any, since diffusers' classes hide their methods from type checkers behind lazy imports.
        for name, part in parts.items():
            setattr(self, name, part)

    @classmethod
    def load(cls, config: ModelConfig, dtype: torch.dtype = torch.float32) -> Self:
        """Load the parts of a pipeline folder or hub model; those that are trained whole in float32.

        Args:
            config: where they are, and whether the denoiser is quantized.
            dtype: of the frozen parts, the same as is given to `Family.place`.

        Raises:
            UserError: a part is missing or cannot be read.
        """
        name, parts = str(config.pretrained_model_name_or_path), dict[str, Any]()
        refuse_other_latents(cls.vae_class, config)
        present = cls.encoders_of(config)
        for encoder in cls.encoders:
            tokenizer = encoder.replace("text_encoder", "tokenizer")
            parts[tokenizer] = load_tokenizer(tokenizer, config, cls.tokenizer_class) if encoder in present else None
        with naming(f"the scheduler of {name}"):
            parts["scheduler"] = cls.scheduler_class.from_pretrained(
                source(config), subfolder="scheduler", revision=config.revision
            )
        # In the order of diffusers' scripts, since each load may draw random numbers.
        for encoder, kind in cls.encoders.items():
            own = cls.dtype_of(encoder, config, dtype)
            parts[encoder] = load_part(kind, encoder, config, dtype=own) if encoder in present else None
        parts["vae"] = load_part(cls.vae_class, "vae", config, dtype=cls.dtype_of("vae", config, dtype))
        name, kind = cls.denoiser
        own = cls.dtype_of(name, config, dtype)
        parts[name] = load_part(kind, name, config, quantized.settings(config, dtype), own)
        if config.do_fp8_training:
            quantized.multiply_8_bits(parts[name])
        return cls(config, **parts)

    @classmethod
    def dtype_of(cls, part: str, config: ModelConfig, dtype: torch.dtype) -> torch.dtype:
        """Return the precision of a part's weights: float32 if it is trained whole, or if the autoencoder needs it."""
        if part == "vae":
            return cls.vae_dtype or dtype
        trained = part == cls.denoiser[0] or (config.train_text_encoder and part in cls.whole_encoders)
        return torch.float32 if trained and not config.frozen_base else dtype

    @classmethod
    def encoders_of(cls, config: ModelConfig) -> list[str]:
        """Return the names of the text encoders that a base model has, from its index alone."""
        index = DiffusionPipeline.load_config(source(config), revision=config.revision)
        return [
            encoder
            for encoder in cls.encoders
            if encoder not in cls.optional or index.get(encoder, [None])[0] is not None
        ]

    @classmethod
    def cell_of(cls, config: ModelConfig) -> int:
        """Side of a latent cell in pixels, from the base model's configs alone."""
        return int(2 ** (len(load_config(cls.vae_class, "vae", config)["block_out_channels"]) - 1))

    @classmethod
    def side_unit_of(cls, config: ModelConfig) -> int:
        """Unit, in pixels, of which a picture's sides must be multiples, from the base model's configs alone."""
        return cls.cell_of(config)

    @classmethod
    def even_unit_of(cls, config: ModelConfig) -> int:
        """Unit whose multiples are halved without a remainder in every layer, in pixels, from the configs alone."""
        return cls.side_unit_of(config)

    @abstractmethod
    def trained(self) -> dict[str, nn.Module]:
        """Return the modules with trainable weights, by part name; the denoiser is the first, trained or not."""

    def adapted(self) -> dict[str, nn.Module]:
        """Return those of `trained()` whose layers are trained, whole or through adapters, by part name."""
        inverted = self.inverted()
        if inverted and not self.config.use_lora:
            return {}
        return {name: part for name, part in self.trained().items() if name not in inverted}

    def inverted(self) -> dict[str, nn.Module]:
        """Return those of `trained()` whose new tokens alone are learned, by part name."""
        return {} if self.new_tokens is None else {name: getattr(self, name) for name in self.new_tokens.deviations}

    def pipeline(self) -> Any:
        """Build a pipeline around the modules in training, without a safety checker, for validation pictures."""
        parts = {name: unwrapped(part) for name, part in self.trained().items()}
        for name, kind in self.encoders.items():
            tokenizer = name.replace("text_encoder", "tokenizer")
            parts[tokenizer] = getattr(self, tokenizer)
            if name not in parts:
                dropped = getattr(self, name) is None and parts[tokenizer] is not None
                own = self.dtype_of(name, self.config, self.dtype)
                parts[name] = load_part(kind, name, self.config, dtype=own) if dropped else getattr(self, name)
        return self._assembled(vae=self.vae, **parts, **self.unchecked)

    def _assembled(self, **parts: Any) -> Any:
        """Build the base model's pipeline with some parts replaced; parts it lacks must be passed as None."""
        for name in self.optional:
            tokenizer = name.replace("text_encoder", "tokenizer")
            if getattr(self, tokenizer) is None:
                parts |= {name: None, tokenizer: None}
        file = single_file(self.config)
        if file:
            return file.load_pipeline(**self.unchecked | parts)
        return self.pipeline_class.from_pretrained(
            self.base_model,
            revision=self.config.revision,
            variant=self.config.variant,
            trust_remote_code=False,
            **parts,
        )

    def save(self, folder: Path, skip_text_encoder: bool = False, dtype: torch.dtype = torch.float32) -> None:
        """Save the trained model in the ecosystem's format: a pipeline folder or a LoRA file, all in one precision."""
        if self.config.frozen_base:
            self._save_adapters(folder, dtype)
            return
        parts = {name: unwrapped(part) for name, part in self.trained().items()}
        if skip_text_encoder:
            parts |= dict.fromkeys(self.encoders)
        if self.config.pretrained_vae_model_name_or_path:
            parts["vae"] = self.vae
        # All in one precision: a base stored in fp16 would mix them.
        self._assembled(**parts).to(dtype).save_pretrained(folder)

    def _save_adapters(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        if self.new_tokens is not None:
            self.new_tokens.save(folder, self.inverted(), dtype)
        if not self.config.use_lora:
            return
        if self.config.adapter_type == "lora":
            lora.save_adapters(self.pipeline_class, self.adapted(), folder, dtype)
            return
        for name, part in self.adapted().items():
            adapter_files.save(unwrapped(part), folder / name, dtype)

    def save_weights(self, folder: Path) -> None:
        """Save the trainable weights for a checkpoint, in full precision."""
        if self.config.frozen_base:
            self._save_adapters(folder)
            return
        for name, part in self.trained().items():
            unwrapped(part).save_pretrained(folder / name)

    def load_weights(self, folder: Path) -> None:
        """Load what `save_weights` wrote."""
        if self.new_tokens is not None:
            self.new_tokens.load(folder, self.inverted())
        if self.config.use_lora and self.config.adapter_type == "lora":
            lora.load_adapters(self.adapted(), folder)
            return
        if self.config.frozen_base:
            for name, part in self.adapted().items():
                adapter_files.load(unwrapped(part), folder / name)
            return
        classes = dict([self.denoiser]) | self.encoders
        for name, part in self.trained().items():
            unwrapped(part).load_state_dict(classes[name].from_pretrained(folder / name).state_dict())

    def checksum(self, part: str) -> str:
        """Return a checksum of weights and precision of the autoencoder ("vae") or the text encoders ("text")."""
        parts = [getattr(self, name) for name in (["vae"] if part == "vae" else self.encoders)]
        return "-".join(f"{weights_checksum(module)}-{module.dtype}" for module in parts if module is not None)

    def drop_text_encoder(self) -> None:
        """Free the text encoders; from now on `encode_prompt` takes only prompts that are already encoded."""
        for name in self.encoders:
            setattr(self, name, None)
