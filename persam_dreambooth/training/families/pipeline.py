"""What all families share: a diffusers pipeline taken apart, its denoiser trained, and put together again."""

import copy
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.training_utils import cast_training_params
from diffusers.utils.import_utils import is_xformers_available
from torch import Tensor, nn
from transformers import AutoTokenizer

from persam_dreambooth.errors import UserError
from persam_dreambooth.tensors import weights_checksum
from persam_dreambooth.training.config import (
    MaskConfig,
    ModelConfig,
    OptimizationConfig,
    TrainingConfig,
    ValidationConfig,
)
from persam_dreambooth.training.families import lora
from persam_dreambooth.training.families.base import Conditioning, Noised
from persam_dreambooth.training.families.loading import load_config, load_part, naming, unwrapped

PARTICULAR = (
    *("attention_loss_weight", "class_labels_conditioning", "enable_xformers_memory_efficient_attention"),
    *("guidance_scale", "logit_mean", "logit_std", "max_sequence_length", "mode_scale", "offset_noise"),
    *("precondition_outputs", "snr_gamma", "text_encoder_use_attention_mask", "tokenizer_max_length"),
    *("tokenizer_name", "validation_scheduler", "weighting_scheme"),
)
"""The flags that some families only have a use for."""
TEXT_ENCODER_TARGETS = ["q_proj", "k_proj", "v_proj", "out_proj"]


class PipelineFamily:
    """The family behind one class of pipelines; see `Family` for what each method promises.

    A subclass names its parts below and says how prompts are encoded and what the denoiser is asked;
    how noise is added stands in `Diffusion` and `FlowMatching`.

    Attributes:
        pipeline_class: diffusers' class.
        denoiser: name and class of the part that is trained.
        encoders: names and classes of the text encoders, in the order of diffusers' scripts; tokenizers
            have the same endings.
        optional: the encoders that a base model may lack.
        targets: the denoiser's layers that LoRA adapts.
        lora_encoders: the text encoders that get adapters with `--train_text_encoder`.
        whole_encoders: the text encoders that are trained whole with it.
        flags: those of `PARTICULAR` that it has a use for.
        vae_dtype: of the autoencoder; None is that of the other frozen parts.
        unchecked: how the pipeline is told to have no safety checker.
    """

    pipeline_class: ClassVar[Any]
    denoiser: ClassVar[tuple[str, Any]]
    encoders: ClassVar[dict[str, Any]]
    scheduler_class: ClassVar[Any]
    targets: ClassVar[list[str]]
    optional: ClassVar[tuple[str, ...]] = ()
    lora_encoders: ClassVar[tuple[str, ...]] = ()
    whole_encoders: ClassVar[tuple[str, ...]] = ()
    flags: ClassVar[frozenset[str]]
    vae_dtype: ClassVar[torch.dtype | None] = None
    unchecked: ClassVar[dict[str, Any]] = {}

    prediction_type: str
    dtype: torch.dtype
    vae: Any

    def __init__(self, config: ModelConfig, **parts: Any) -> None:
        self.config, self.base_model = config, str(config.pretrained_model_name_or_path)
        self.base: dict[str, nn.Module] = {}
        self.dtype = torch.float32
        # Any, since diffusers' classes hide their methods from type checkers behind lazy imports.
        for name, part in parts.items():
            setattr(self, name, part)
        self._freeze()

    @classmethod
    def check(cls, config: TrainingConfig) -> None:
        """See `Family.check`."""
        name, given = cls.pipeline_class.__name__, config.flat()
        defaults = {**vars(ModelConfig), **vars(MaskConfig), **vars(OptimizationConfig), **vars(ValidationConfig)}
        for flag in sorted(set(PARTICULAR) - cls.flags):
            if given[flag] != defaults[flag]:
                raise UserError(f"--{flag} has no use with a {name}; drop it")
        if config.model.train_text_encoder:
            if not cls.lora_encoders:
                raise UserError(f"--train_text_encoder: the text encoder of a {name} cannot be trained; drop it")
            if not config.model.use_lora and not cls.whole_encoders:
                raise UserError(
                    f"--train_text_encoder: the text encoders of a {name} are trained with --use_lora only; add it, "
                    "or drop --train_text_encoder"
                )

    @classmethod
    def load(cls, config: ModelConfig) -> Self:
        """Read the parts of a pipeline folder or hub model, all in float32.

        Raises:
            UserError: a part is missing or cannot be read.
        """
        name, parts = str(config.pretrained_model_name_or_path), dict[str, Any]()
        index = DiffusionPipeline.load_config(name, revision=config.revision)
        present = [one for one in cls.encoders if one not in cls.optional or index.get(one, [None])[0] is not None]
        for encoder in cls.encoders:
            tokenizer = encoder.replace("text_encoder", "tokenizer")
            parts[tokenizer] = load_tokenizer(tokenizer, config) if encoder in present else None
        with naming(f"the scheduler of {name}"):
            parts["scheduler"] = cls.scheduler_class.from_pretrained(
                name, subfolder="scheduler", revision=config.revision
            )
        # The order is that of diffusers' scripts, as each load may draw random numbers.
        for encoder, kind in cls.encoders.items():
            parts[encoder] = load_part(kind, encoder, config) if encoder in present else None
        parts["vae"] = load_part(AutoencoderKL, "vae", config)
        parts[cls.denoiser[0]] = load_part(cls.denoiser[1], cls.denoiser[0], config)
        return cls(config, **parts)

    @classmethod
    def cell_of(cls, config: ModelConfig) -> int:
        """See `Family.cell_of`."""
        return int(2 ** (len(load_config(AutoencoderKL, "vae", config)["block_out_channels"]) - 1))

    @classmethod
    def side_unit_of(cls, config: ModelConfig) -> int:
        """See `Family.side_unit_of`; here one latent cell."""
        return cls.cell_of(config)

    @classmethod
    def even_unit_of(cls, config: ModelConfig) -> int:
        """See `Family.even_unit_of`; transformers halve nothing."""
        return cls.side_unit_of(config)

    def asked(self, prompt: str) -> str:
        """See `Family.asked`."""
        return prompt

    def _trained_encoders(self) -> tuple[str, ...]:
        if not self.config.train_text_encoder:
            return ()
        return self.lora_encoders if self.config.use_lora else self.whole_encoders

    def _freeze(self) -> None:
        """Leave gradients only where something is to be learned; hang LoRA adapters on."""
        config, denoiser = self.config, getattr(self, self.denoiser[0])
        trained = self.trained()
        for name in ("vae", *self.encoders, self.denoiser[0]):
            if getattr(self, name) is not None:
                getattr(self, name).requires_grad_(name in trained and not config.use_lora)
        if config.enable_xformers_memory_efficient_attention:
            if not is_xformers_available():
                raise UserError("--enable_xformers_memory_efficient_attention needs `pip install xformers`")
            denoiser.enable_xformers_memory_efficient_attention()
        if config.gradient_checkpointing:
            denoiser.enable_gradient_checkpointing()
            for name in self._trained_encoders():
                getattr(self, name).gradient_checkpointing_enable()
        if config.use_lora:
            for name, part in trained.items():
                targets = self.targets if name == self.denoiser[0] else TEXT_ENCODER_TARGETS
                lora.add_adapters(part, targets, config)
            if config.network_weights:
                lora.begin_from(config.network_weights, trained)

    def trained(self) -> dict[str, nn.Module]:
        """See `Family.trained`."""
        return {name: getattr(self, name) for name in (self.denoiser[0], *self._trained_encoders())}

    def replace(self, parts: dict[str, nn.Module]) -> None:
        """See `Family.replace`."""
        for name, part in parts.items():
            setattr(self, name, part)

    def keep_base(self) -> None:
        """See `Family.keep_base`; LoRA keeps nothing, since its adapters can be switched off."""
        if not self.config.use_lora:
            self.base = {
                name: copy.deepcopy(part).requires_grad_(False).eval() for name, part in self.trained().items()
            }

    def place(self, device: torch.device, dtype: torch.dtype, denoiser_device: torch.device | None = None) -> None:
        """See `Family.place`."""
        self.dtype, trained = dtype, self.trained()
        for name in ("vae", *self.encoders, self.denoiser[0]):
            part = getattr(self, name)
            if part is None:
                continue
            whole = (name in trained and not self.config.use_lora) or (name == "vae" and self.vae_dtype is not None)
            where = denoiser_device if denoiser_device and name == self.denoiser[0] else device
            # At once, so that no part is on the device in float32 that does not stay so.
            part.to(where) if dtype == torch.float32 or whole else part.to(where, dtype)
        if self.vae_dtype is not None and dtype != torch.float32:
            self.vae.decode = _outside_autocast(self.vae.decode)
        if dtype != torch.float32:
            cast_training_params(list(trained.values()), dtype=torch.float32)
        for part in self.base.values():
            part.to(device, dtype)
            if dtype != torch.float32:  # so that it computes as the trained one does, which Accelerate wraps
                part.forward = torch.autocast(device.type, dtype)(part.forward)  # type: ignore[method-assign]

    def tokenize(self, prompt: str) -> Conditioning:
        """See `Family.tokenize`."""
        raise NotImplementedError

    def encode_prompt(self, tokens: Conditioning) -> Conditioning:
        """See `Family.encode_prompt`."""
        return tokens if "embeds" in tokens else self._encode(tokens)

    def _encode(self, tokens: Conditioning) -> Conditioning:
        """`encode_prompt` of token tensors."""
        raise NotImplementedError

    def stow_autoencoder(self) -> None:
        """See `Family.stow_autoencoder`."""
        self.vae.to("cpu")

    def checksum(self, part: str) -> str:
        """See `Family.checksum`."""
        parts = [getattr(self, name) for name in (["vae"] if part == "vae" else self.encoders)]
        return "-".join(f"{weights_checksum(one)}-{one.dtype}" for one in parts if one is not None)

    def drop_text_encoder(self) -> None:
        """See `Family.drop_text_encoder`."""
        for name in self.encoders:
            setattr(self, name, None)

    @torch.no_grad()
    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """See `Family.encode_pixels`."""
        moments: Tensor = self.vae.encode(pixels.to(self.vae.device, self.vae.dtype)).latent_dist.parameters
        return moments

    def sample_latents(self, moments: Tensor) -> Tensor:
        """See `Family.sample_latents`; shifted and scaled as the autoencoder's config says."""
        latents = DiagonalGaussianDistribution(moments).sample()
        shift = self.vae.config.shift_factor
        return (latents if shift is None else latents - shift) * self.vae.config.scaling_factor

    def add_noise(self, latents: Tensor, settings: OptimizationConfig) -> Noised:
        """See `Family.add_noise`."""
        raise NotImplementedError

    def snr(self, timesteps: Tensor) -> Tensor:
        """See `Family.snr`."""
        raise NotImplementedError

    def predict(self, noised: Noised, conditioning: Conditioning) -> Tensor:
        """See `Family.predict`."""
        raise NotImplementedError

    @torch.no_grad()
    def predict_base(self, noised: Noised, tokens: Conditioning) -> Tensor:
        """See `Family.predict_base`."""
        trained = self.trained()
        with ExitStack() as stack:
            if self.config.use_lora:
                for part in trained.values():
                    stack.enter_context(lora.without_adapters(part))
            else:
                stack.callback(self.replace, trained)
                self.replace({name: self.base[name] for name in trained})
            return self.predict(noised, self.encode_prompt(tokens))

    def sampler(self, name: str, config: Any) -> Any:
        """See `Family.sampler`."""
        raise NotImplementedError

    def pipeline(self) -> Any:
        """See `Family.pipeline`."""
        parts = {name: unwrapped(part) for name, part in self.trained().items()}
        for name, kind in self.encoders.items():
            tokenizer = name.replace("text_encoder", "tokenizer")
            parts[tokenizer] = getattr(self, tokenizer)
            if name not in parts:
                dropped = getattr(self, name) is None and parts[tokenizer] is not None
                parts[name] = load_part(kind, name, self.config) if dropped else getattr(self, name)
        return self._assembled(vae=self.vae, **parts, **self.unchecked)

    def _assembled(self, **parts: Any) -> Any:
        """The base model's pipeline with some parts replaced; what it lacks has to be told to diffusers."""
        for name in self.optional:
            tokenizer = name.replace("text_encoder", "tokenizer")
            if getattr(self, tokenizer) is None:
                parts |= {name: None, tokenizer: None}
        return self.pipeline_class.from_pretrained(
            self.base_model,
            revision=self.config.revision,
            variant=self.config.variant,
            trust_remote_code=False,
            **parts,
        )

    def save(self, folder: Path, skip_text_encoder: bool = False) -> None:
        """See `Family.save`."""
        if self.config.use_lora:
            lora.save_adapters(self.pipeline_class, self.trained(), folder)
            return
        parts = {name: unwrapped(part) for name, part in self.trained().items()}
        if skip_text_encoder:
            parts |= dict.fromkeys(self.encoders)
        # All in float32: a base stored in fp16 would mix precisions.
        self._assembled(**parts).to(torch.float32).save_pretrained(folder)

    def save_weights(self, folder: Path) -> None:
        """See `Family.save_weights`."""
        if self.config.use_lora:
            lora.save_adapters(self.pipeline_class, self.trained(), folder)
            return
        for name, part in self.trained().items():
            unwrapped(part).save_pretrained(folder / name)

    def load_weights(self, folder: Path) -> None:
        """See `Family.load_weights`."""
        if self.config.use_lora:
            lora.load_adapters(self.trained(), folder)
            return
        classes = dict([self.denoiser]) | self.encoders
        for name, part in self.trained().items():
            unwrapped(part).load_state_dict(classes[name].from_pretrained(folder / name).state_dict())


def _outside_autocast(decode: Any) -> Any:
    """An autoencoder's `decode` in float32, even for pictures that are otherwise drawn in low precision."""

    def in_float32(latents: Tensor, *args: Any, **more: Any) -> Any:
        with torch.autocast(latents.device.type, enabled=False):
            return decode(latents.float(), *args, **more)

    return in_float32


def token_ids(tokenizer: Any, prompt: str, length: int | None = None) -> Any:
    """A prompt's tokens, cut or padded to `length`, the tokenizer's own if None: `input_ids` and `attention_mask`."""
    return tokenizer(
        prompt,
        truncation=True,
        padding="max_length",
        max_length=length or tokenizer.model_max_length,
        return_tensors="pt",
    )


def load_tokenizer(part: str, config: ModelConfig) -> Any:
    """One of the pipeline's tokenizers, or the one of `--tokenizer_name`."""
    name, other = str(config.pretrained_model_name_or_path), config.tokenizer_name
    with naming(f"the {part} of {other or name}"):
        if other:
            return AutoTokenizer.from_pretrained(other, revision=config.revision, trust_remote_code=False)
        return AutoTokenizer.from_pretrained(name, subfolder=part, revision=config.revision, trust_remote_code=False)
