"""Diffusion with a DDPM noise schedule: epsilon or v prediction."""

from contextlib import AbstractContextManager
from typing import Any, ClassVar

import diffusers
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from torch import Tensor

from persam_dreambooth import long_prompts
from persam_dreambooth.errors import UserError
from persam_dreambooth.training.config import ModelConfig, OptimizationConfig, TrainingConfig
from persam_dreambooth.training.families.base import Conditioning, Family, Noised
from persam_dreambooth.training.families.cross_attention import CrossAttention, recorded
from persam_dreambooth.training.families.loading import load_config, load_tokenizer
from persam_dreambooth.training.families.textual_inversion import insert_words

DRAWN_UNIT = 8
"""The sides of pictures from UNet pipelines are multiples of this many pixels, whatever the autoencoder's factor."""


class Diffusion(Family):
    """A pipeline that was trained to predict the noise, or the velocity, at one of a thousand timesteps."""

    scheduler_class: ClassVar[Any] = DDPMScheduler
    flags: ClassVar[frozenset[str]] = frozenset(
        {
            "attention_loss_weight",
            "enable_xformers_memory_efficient_attention",
            "max_token_length",
            "offset_noise",
            "snr_gamma",
            "train_text_encoder_ti",
            "validation_scheduler",
        }
    )
    scheduler: Any
    tokenizer: Any

    def __init__(self, config: ModelConfig, **parts: Any) -> None:
        self.prediction_type: str = parts["scheduler"].config.prediction_type
        if self.prediction_type not in ("epsilon", "v_prediction"):
            known = "only epsilon and v_prediction are supported; give another base model"
            raise UserError(f"{config.pretrained_model_name_or_path} predicts {self.prediction_type}, and {known}")
        super().__init__(config, **parts)

    @classmethod
    def check(cls, config: TrainingConfig) -> None:
        """Also refuse a resolution at which the pipeline cannot draw validation pictures."""
        super().check(config)
        side = config.data.resolution
        if config.validation.all_prompts and side % DRAWN_UNIT:
            raise UserError(
                f"--resolution {side}: a {cls.pipeline_class.__name__} draws validation images in multiples of "
                f"{DRAWN_UNIT} pixels; take {max(1, side // DRAWN_UNIT) * DRAWN_UNIT}, or drop "
                "--validation_prompt and --validation_prompts_file"
            )

    @classmethod
    def even_unit_of(cls, config: ModelConfig) -> int:
        """Unit, in pixels, whose multiples are halved between the UNet's blocks without a remainder."""
        blocks = load_config(cls.denoiser[1], cls.denoiser[0], config)["down_block_types"]
        return cls.cell_of(config) * int(2 ** (len(blocks) - 1))

    def add_noise(self, latents: Tensor, settings: OptimizationConfig) -> Noised:
        """Draw noise, then int64 timesteps; offset noise is 0.1 times a normal number per channel, as in diffusers."""
        noise = self._draw_noise(latents, settings)
        steps = self.scheduler.config.num_train_timesteps
        timesteps = torch.randint(0, steps, (len(latents),), device=latents.device)
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        is_velocity = self.prediction_type == "v_prediction"
        target = self.scheduler.get_velocity(latents, noise, timesteps) if is_velocity else noise
        return Noised(noisy, timesteps, target)

    def encode_prompt(self, tokens: Conditioning) -> Conditioning:
        """Also encode prompts in chunks, with `--max_token_length`; these have a `text_mask`, (B, length)."""
        if "chunks" in tokens:
            with self.at_work(*self.encoders):
                return long_prompts.encode(self._encode, tokens)
        return super().encode_prompt(tokens)

    def _denoise(self, noised: Noised, conditioning: Conditioning, **given: Any) -> Tensor:
        """Call the UNet, with further arguments of its class; return noise or velocity, (B, C, h, w)."""
        mask = conditioning.get("text_mask")  # which positions of the prompts count, (B, length)
        prediction: Tensor = getattr(self, self.denoiser[0])(
            noised.noisy,
            noised.timesteps,
            conditioning["embeds"],
            encoder_attention_mask=None if mask is None or bool(mask.all()) else mask,
            return_dict=False,
            **given,
        )[0]
        return prediction

    def _draw_noise(self, latents: Tensor, settings: OptimizationConfig) -> Tensor:
        noise = torch.randn_like(latents)
        if settings.offset_noise:
            noise = noise + 0.1 * torch.randn(*latents.shape[:2], 1, 1, device=latents.device)
        return noise

    def snr(self, timesteps: Tensor) -> Tensor:
        """Return the (B,) signal-to-noise ratio of the schedule at these timesteps."""
        return compute_snr(self.scheduler, timesteps)

    def record_attention(self) -> AbstractContextManager[CrossAttention]:
        """Record the UNet's cross-attention in one prediction."""
        return recorded(getattr(self, self.denoiser[0]))

    @classmethod
    def prompt_tokenizers(cls, config: ModelConfig) -> list[tuple[Any, int | None]]:
        """Return the first tokenizer, with the words of textual inversion; SDXL's second one splits words alike."""
        tokenizer = load_tokenizer("tokenizer", config)
        if config.train_text_encoder_ti:
            insert_words([tokenizer], config)
        return [(tokenizer, config.tokenizer_max_length)]

    def sampler(self, name: str, config: Any) -> Any:
        """Return diffusers' scheduler of this name."""
        return getattr(diffusers, name).from_config(config)
