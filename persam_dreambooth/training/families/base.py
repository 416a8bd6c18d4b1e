"""Base class of all families: what they share, and the interface and data that the training loop uses."""

import copy
from abc import abstractmethod
from collections.abc import Iterable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.training_utils import cast_training_params, offload_models
from diffusers.utils.import_utils import is_xformers_available
from torch import Tensor, nn

from persam_dreambooth.errors import UserError
from persam_dreambooth.training.config import ModelConfig, OptimizationConfig, TrainingConfig
from persam_dreambooth.training.families import lora, quantized
from persam_dreambooth.training.families.attention_maps import AttentionMaps
from persam_dreambooth.training.families.flags import check_flags
from persam_dreambooth.training.families.parts import PipelineParts
from persam_dreambooth.training.families.phrases import PhraseFinder, by_tokens
from persam_dreambooth.training.families.textual_inversion import NewTokens, learned_encoders

Conditioning = dict[str, Tensor]
"""Tensors of one prompt, as a family needs them; each has a leading dimension of 1."""
TEXT_ENCODER_TARGETS = ["q_proj", "k_proj", "v_proj", "out_proj"]


@dataclass(frozen=True, eq=False)
class Noised:
    """Noised latents.

    Attributes:
        noisy: (B, C, h, w), the denoiser's input.
        timesteps: (B,), int64 in diffusion, float32 in flow matching and with EDM's noise.
        target: (B, C, h, w), the regression target.
        weight: (B,) float32, factor of each picture's loss for its noise level; None is 1.
        crop: (B, 6) int64, see `Crop.conditioning`; None for families that do not use it.
    """

    noisy: Tensor
    timesteps: Tensor
    target: Tensor
    weight: Tensor | None = None
    crop: Tensor | None = None

    def first(self, count: int) -> "Noised":
        """Return the first `count` of the batch, as views of the same tensors."""
        weight = None if self.weight is None else self.weight[:count]
        crop = None if self.crop is None else self.crop[:count]
        return Noised(self.noisy[:count], self.timesteps[:count], self.target[:count], weight, crop)


class Family(PipelineParts):
    """A text-to-image model in training.

    A subclass names its parts, encodes prompts and calls the denoiser; `Diffusion` and `FlowMatching` add the noise.
    The loop never checks which family it has.

    Attributes:
        prediction_type: what the denoiser predicts: "epsilon", "v_prediction" or "flow".
        dtype: of all frozen parts, as given to `place`.
        device: the accelerator, likewise.
        targets: the denoiser's layers that LoRA adapts.
        lora_encoders: the text encoders that get adapters with `--train_text_encoder`.
        flags: flags in `PARTICULAR` that the family supports.
        posterior_mean: whether latents are the posterior's mean and not a sample, as in diffusers' script.
    """

    targets: ClassVar[list[str]]
    lora_encoders: ClassVar[tuple[str, ...]] = ()
    flags: ClassVar[frozenset[str]]
    posterior_mean: ClassVar[bool] = False

    prediction_type: str
    dtype: torch.dtype
    device: torch.device

    def __init__(self, config: ModelConfig, **parts: Any) -> None:
        super().__init__(config, **parts)
        self.base: dict[str, nn.Module] = {}
        self.dtype, self.device = torch.float32, torch.device("cpu")
        self._freeze()

    @classmethod
    def check(cls, config: TrainingConfig) -> None:
        """Refuse flags that the family does not support, before any weights are loaded.

        Raises:
            UserError: such a flag was given; the message names the first.
        """
        check_flags(cls, config)

    def asked(self, prompt: str) -> str:
        """Return the text that is tokenized for a prompt: the prompt itself, or the pipeline's template around it."""
        return prompt

    def _trained_encoders(self) -> tuple[str, ...]:
        if self.config.train_text_encoder_ti:
            return learned_encoders(self.encoders, self.config)
        if not self.config.train_text_encoder:
            return ()
        return self.lora_encoders if self.config.use_lora else self.whole_encoders

    def _freeze(self) -> None:
        """Freeze everything that is not trained, and add new tokens and LoRA adapters."""
        config, denoiser = self.config, getattr(self, self.denoiser[0])
        trained = self.trained()
        for name in ("vae", *self.encoders, self.denoiser[0]):
            if getattr(self, name) is not None:
                getattr(self, name).requires_grad_(name in trained and not config.frozen_base)
        if config.enable_xformers_memory_efficient_attention:
            if not is_xformers_available():
                raise UserError("--enable_xformers_memory_efficient_attention needs `pip install xformers`")
            denoiser.enable_xformers_memory_efficient_attention()
        if config.gradient_checkpointing:
            denoiser.enable_gradient_checkpointing()
            for name in self._trained_encoders():
                getattr(self, name).gradient_checkpointing_enable()
        if config.train_text_encoder_ti:
            encoders = {name: trained[name] for name in self._trained_encoders()}
            tokenizers = {name: getattr(self, name.replace("text_encoder", "tokenizer")) for name in encoders}
            self.new_tokens = NewTokens.begin(encoders, tokenizers, config)
        if config.use_lora:
            for name, part in self.adapted().items():
                is_denoiser = name == self.denoiser[0]
                targets = lora.layers(part, self.targets, config) if is_denoiser else TEXT_ENCODER_TARGETS
                lora.add_adapters(part, targets, config)
            if config.network_weights:
                lora.begin_from(config.network_weights, trained)

    def record_attention(self) -> AbstractContextManager[AttentionMaps]:
        """Record the denoiser's attention to the prompt in one prediction; with `attention_loss_weight` in `flags`."""
        raise NotImplementedError

    @classmethod
    def phrase_finder(cls, config: ModelConfig) -> PhraseFinder:
        """Return what finds a phrase among the tokens that `record_attention` sees; loads tokenizers, no models."""
        return by_tokens(cls.prompt_tokenizers(config))

    @classmethod
    def prompt_tokenizers(cls, config: ModelConfig) -> list[tuple[Any, int | None]]:
        """Return the tokenizers of the default `phrase_finder`, see `by_tokens`."""
        raise NotImplementedError

    def trained(self) -> dict[str, nn.Module]:
        """Return the modules with trainable weights, by part name; the denoiser is the first, trained or not."""
        return {name: getattr(self, name) for name in (self.denoiser[0], *self._trained_encoders())}

    def finish_step(self) -> None:
        """Rescale the embeddings of new tokens after an optimizer step; without textual inversion do nothing."""
        if self.new_tokens is not None:
            self.new_tokens.rescale(self.inverted())

    def replace(self, parts: dict[str, nn.Module]) -> None:
        """Replace the modules of `trained()` by those that Accelerate prepared."""
        for name, part in parts.items():
            setattr(self, name, part)

    def keep_base(self) -> None:
        """Keep the base weights for `predict_base`; to be called on the weights as loaded, before `place`.

        The copy is frozen: it is not in `trained()`, nor in any checkpoint or result.
        """
        if not self.config.frozen_base:
            self.base = {
                name: copy.deepcopy(part).requires_grad_(False).eval() for name, part in self.trained().items()
            }

    def place(self, device: torch.device, dtype: torch.dtype, denoiser_device: torch.device | None = None) -> None:
        """Move all parts to a device and precision; trainable weights stay float32.

        Args:
            device: of all parts; with `--offload` frozen ones but the denoiser stay on the CPU.
            dtype: of all frozen parts.
            denoiser_device: of the denoiser, if different.
        """
        self.dtype, self.device, trained = dtype, device, self.trained()
        for name in ("vae", *self.encoders, self.denoiser[0]):
            part = getattr(self, name)
            if part is None:
                continue
            own = self.dtype_of(name, self.config, dtype)
            where = torch.device("cpu") if self.config.offload and name not in trained else device
            where = denoiser_device if denoiser_device and name == self.denoiser[0] else where
            as_loaded = own == torch.float32 or getattr(part, "is_quantized", False)
            part.to(where) if as_loaded else part.to(where, dtype)  # in one call: never on the device in float32
        quantized.finish(getattr(self, self.denoiser[0]), self.config, dtype)
        if self.vae_dtype is not None and dtype != torch.float32:
            self.vae.decode = _outside_autocast(self.vae.decode)
        if dtype != torch.float32:
            cast_training_params(list(trained.values()), dtype=torch.float32)
        for part in self.base.values():
            part.to(device, dtype)
            if dtype != torch.float32:  # run under autocast, as Accelerate runs the trained part
                part.forward = torch.autocast(device.type, dtype)(part.forward)  # type: ignore[method-assign]

    @abstractmethod
    def tokenize(self, prompt: str) -> Conditioning:
        """Tokenize a prompt into tensors with a leading dimension of 1."""

    def encode_prompt(self, tokens: Conditioning) -> Conditioning:
        """Encode token tensors into the input of `predict`; tensors that are already encoded are returned as they are.

        Returns:
            `embeds`, (B, length, channels), and whatever else the family's denoiser takes for a prompt; every
            tensor has a leading dimension of B.
        """
        if "embeds" in tokens:
            return tokens
        with self.at_work(*self.encoders):
            return self._encode(tokens)

    @abstractmethod
    def _encode(self, tokens: Conditioning) -> Conditioning:
        """Encode token tensors; see `encode_prompt`."""

    def at_work(self, *names: str) -> AbstractContextManager[None]:
        """Move these parts, if they are frozen, to the accelerator inside the block; nothing without `--offload`."""
        parts: list[Any] = self.frozen(names)
        return offload_models(*parts, device=self.device, offload=self.config.offload and self.device.type != "cpu")

    def stow(self, *names: str) -> None:
        """Move these parts, if they are frozen, to the CPU until they are needed again."""
        for part in self.frozen(names):
            part.to("cpu")

    def frozen(self, names: Iterable[str]) -> list[Any]:
        """Return those of these parts that the base model has and that are not trained."""
        trained = self.trained()
        return [getattr(self, name) for name in names if name not in trained and getattr(self, name) is not None]

    @torch.no_grad()
    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Encode (B, 3, H, W) in [-1, 1] to (B, 2 C, h, w), means and log variances of latents; deterministic."""
        with self.at_work("vae"):
            moments: Tensor = self.vae.encode(pixels.to(self.vae.device, self.vae.dtype)).latent_dist.parameters
        return moments

    def sample_latents(self, moments: Tensor) -> Tensor:
        """Return (B, C, h, w) latents of the moments of `encode_pixels`, drawn with the global random generator.

        With `posterior_mean` nothing is drawn.
        """
        posterior = DiagonalGaussianDistribution(moments)
        return self.normalize(posterior.mode() if self.posterior_mean else posterior.sample())

    def normalize(self, latents: Tensor) -> Tensor:
        """Shift and scale the autoencoder's latents, (B, C, h, w), to what the denoiser takes."""
        shift = self.vae.config.shift_factor
        return (latents if shift is None else latents - shift) * self.vae.config.scaling_factor

    @abstractmethod
    def add_noise(self, latents: Tensor, settings: OptimizationConfig) -> Noised:
        """Draw noise, then timesteps, with the global random generator; the result has no `crop` yet."""

    def snr(self, timesteps: Tensor) -> Tensor:
        """Return the (B,) signal-to-noise ratio, for min-SNR; flow matching has none, and refuses the flag."""
        raise NotImplementedError

    @abstractmethod
    def predict(self, noised: Noised, conditioning: Conditioning) -> Tensor:
        """Return the denoiser's prediction, (B, C, h, w), for prompts from `encode_prompt`."""

    @torch.no_grad()
    def predict_base(self, noised: Noised, tokens: Conditioning) -> Tensor:
        """Return the prediction of the untrained base model, (B, C, h, w), without gradient or random numbers.

        The prompt is given as for `encode_prompt`, and also encoded with the untrained weights. `trained()` is
        restored afterwards.
        """
        trained = self.trained()
        with ExitStack() as stack:
            if self.config.frozen_base:
                for part in trained.values():
                    stack.enter_context(lora.without_adapters(part))
            else:
                stack.callback(self.replace, trained)
                self.replace({name: self.base[name] for name in trained})
            return self.predict(noised, self.encode_prompt(tokens))

    @abstractmethod
    def sampler(self, name: str, config: Any) -> Any:
        """Return the scheduler for validation pictures: diffusers' class of this name, if the family has a choice.

        Args:
            name: of the class.
            config: of the pipeline's own scheduler.
        """


def _outside_autocast(decode: Any) -> Any:
    """Wrap an autoencoder's `decode` to run in float32, even if the rest runs in low precision."""

    def in_float32(latents: Tensor, *args: Any, **more: Any) -> Any:
        with torch.autocast(latents.device.type, enabled=False):
            return decode(latents.float(), *args, **more)

    return in_float32
