"""Stable Diffusion XL: two text encoders, a UNet conditioned on each crop's size and position, and EDM's noise."""

from typing import Any, ClassVar, Self

import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.schedulers.scheduling_edm_euler import EDMEulerScheduler
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from persam_dreambooth import long_prompts
from persam_dreambooth.errors import UserError
from persam_dreambooth.learned_tokens import spelled_out
from persam_dreambooth.training.config import ModelConfig, OptimizationConfig, TrainingConfig
from persam_dreambooth.training.families.base import Conditioning, Noised
from persam_dreambooth.training.families.diffusion import Diffusion
from persam_dreambooth.training.families.loading import load_config, naming, source, token_ids


class StableDiffusionXL(Diffusion):
    """The family behind `StableDiffusionXLPipeline` (arXiv 2307.01952)."""

    pipeline_class: ClassVar[Any] = StableDiffusionXLPipeline
    denoiser: ClassVar[tuple[str, Any]] = ("unet", UNet2DConditionModel)
    encoders: ClassVar[dict[str, Any]] = {
        "text_encoder": CLIPTextModel,
        "text_encoder_2": CLIPTextModelWithProjection,
    }
    targets: ClassVar[list[str]] = ["to_k", "to_q", "to_v", "to_out.0"]
    lora_encoders: ClassVar[tuple[str, ...]] = ("text_encoder", "text_encoder_2")
    vae_dtype: ClassVar[torch.dtype | None] = torch.float32  # in half precision it overflows
    flags: ClassVar[frozenset[str]] = Diffusion.flags | {"do_edm_style_training"}
    levels: Any
    unet: Any
    tokenizer_2: Any
    text_encoder: Any
    text_encoder_2: Any

    @classmethod
    def check(cls, config: TrainingConfig) -> None:
        """Also refuse flags that have no meaning with EDM's noise."""
        super().check(config)
        has_edm_noise = _has_edm_noise(config.model)
        if config.optimization.snr_gamma is not None and (has_edm_noise or config.optimization.do_edm_style_training):
            whose = "a base model of EDM's noise" if has_edm_noise else "--do_edm_style_training"
            raise UserError(f"--snr_gamma has no meaning with {whose}; drop it")
        if has_edm_noise and config.validation.validation_scheduler == "DDPMScheduler":
            raise UserError("--validation_scheduler has no use with a base model of EDM's noise; drop it")

    @classmethod
    def load(cls, config: ModelConfig, dtype: torch.dtype = torch.float32) -> Self:
        """Also read which noise the base model was trained with."""
        family, name = super().load(config, dtype), str(config.pretrained_model_name_or_path)
        kind: Any = EDMEulerScheduler if _has_edm_noise(config) else EulerDiscreteScheduler
        with naming(f"the scheduler of {name}"):
            family.levels = kind.from_pretrained(source(config), subfolder="scheduler", revision=config.revision)
        return family

    def add_noise(self, latents: Tensor, settings: OptimizationConfig) -> Noised:
        """Draw DDPM's noise, or EDM's with `--do_edm_style_training` or a base model trained with EDM's noise."""
        if settings.do_edm_style_training or self._is_edm:
            return add_edm_noise(self.levels, latents, self._draw_noise(latents, settings))
        return super().add_noise(latents, settings)

    def sampler(self, name: str, config: Any) -> Any:
        """Return EDM's sampler for a base model trained with EDM's noise, else diffusers' scheduler of this name."""
        return EDMEulerScheduler.from_config(self.levels.config) if self._is_edm else super().sampler(name, config)

    @property
    def _is_edm(self) -> bool:
        """Whether the base model was trained with EDM's noise."""
        return isinstance(self.levels, EDMEulerScheduler)

    def tokenize(self, prompt: str) -> Conditioning:
        """Tokenize for both CLIPs: ids, (1, length) int64 each; or in chunks."""
        both = (self.tokenizer, self.tokenizer_2)
        if self.config.max_token_length:
            return long_prompts.tokenize(both, [prompt], self.config.max_token_length)
        first, second = (token_ids(tokenizer, spelled_out(tokenizer, prompt)).input_ids for tokenizer in both)
        return {"input_ids": first, "input_ids_2": second}

    def _encode(self, tokens: Conditioning) -> Conditioning:
        return long_prompts.encode_for_sdxl(self.text_encoder, self.text_encoder_2, tokens)

    def normalize(self, latents: Tensor) -> Tensor:
        """Also whiten the latents if the autoencoder's config has the statistics."""
        scaled, vae = super().normalize(latents), self.vae.config
        if vae.latents_mean is None or vae.latents_std is None:
            return scaled
        mean, std = (latents.new_tensor(values).view(1, -1, 1, 1) for values in (vae.latents_mean, vae.latents_std))
        return (scaled - mean * vae.scaling_factor) / std

    def predict(self, noised: Noised, conditioning: Conditioning) -> Tensor:
        """Return noise or velocity, (B, C, h, w), conditioned on each crop's size and place (paper, section 2.2)."""
        if noised.crop is None:
            raise ValueError("SDXL is conditioned on the crop of the latents; give Noised a crop")
        given = {"text_embeds": conditioning["pooled"], "time_ids": noised.crop.to(noised.noisy)}
        return self._denoise(noised, conditioning, added_cond_kwargs=given)


def _has_edm_noise(config: ModelConfig) -> bool:
    """Whether a base model was trained with EDM's noise, such as Playground 2.5, by its scheduler's config."""
    return "EDM" in str(load_config(StableDiffusionXL.scheduler_class, "scheduler", config).get("_class_name"))


def add_edm_noise(levels: Any, latents: Tensor, noise: Tensor) -> Noised:
    """Draw noise levels on the CPU, as in diffusers' script, and add the noise (EDM: arXiv 2206.00364, section 5).

    The loss is taken on the clean image. With x = x0 + sigma noise, EDM's estimate of x0 is
    D = c_skip x + c_out F(c_in x), where F is the denoiser, and its loss is w (D - x0)^2. The target of F is therefore
    (x0 - c_skip x) / c_out, and the weight w c_out^2.

    Args:
        levels: table of noise levels: an EulerDiscreteScheduler for a base model trained by DDPM, an
            EDMEulerScheduler for one trained with EDM's noise.
        latents: x0, (B, C, h, w).
        noise: of the same shape.

    Returns:
        `noisy` is c_in x, the denoiser's input.
    """
    drawn = torch.randint(0, levels.config.num_train_timesteps, (len(latents),))
    sigmas = levels.sigmas[drawn].to(latents).view(-1, 1, 1, 1)
    noisy = latents + sigmas * noise
    if isinstance(levels, EDMEulerScheduler):
        ones, zeros = torch.ones_like(sigmas), torch.zeros_like(sigmas)
        c_skip, c_out = (levels.precondition_outputs(*parts, sigmas) for parts in ((ones, zeros), (zeros, ones)))
        target, weight = (latents - c_skip * noisy) / c_out, c_out**2  # diffusers' script: w = 1
        given = levels.precondition_inputs(noisy, sigmas)
    else:
        target, weight = _of_ddpm(levels.config.prediction_type, latents, noise, sigmas)
        given = noisy / (sigmas**2 + 1) ** 0.5
    timesteps = levels.timesteps[drawn].to(latents.device)
    return Noised(given, timesteps, target, weight=weight.flatten().float())


def _of_ddpm(prediction_type: str, latents: Tensor, noise: Tensor, sigmas: Tensor) -> tuple[Tensor, Tensor]:
    """Return the denoiser's target, (B, C, h, w), and w c_out^2, (B, 1, 1, 1), for w = sigma^-2.

    For epsilon, D = x - sigma F, so that F's target is the noise and its weight 1. For v prediction,
    D = x / (sigma^2 + 1) - sigma / sqrt(sigma^2 + 1) F.
    """
    if prediction_type == "epsilon":
        return noise, torch.ones_like(sigmas)
    return (noise - sigmas * latents) / (sigmas**2 + 1) ** 0.5, 1 / (sigmas**2 + 1)
