"""Stable Diffusion 1.x and 2.x: epsilon or v prediction, all weights or LoRA, with or without the text encoder."""

from typing import Any, ClassVar, Self

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel

from persam_dreambooth import long_prompts
from persam_dreambooth.errors import UserError
from persam_dreambooth.learned_tokens import spelled_out
from persam_dreambooth.training.config import ModelConfig
from persam_dreambooth.training.families.base import Conditioning, Noised
from persam_dreambooth.training.families.diffusion import Diffusion
from persam_dreambooth.training.families.loading import ids_and_mask


class StableDiffusion(Diffusion):
    """The family behind `StableDiffusionPipeline`."""

    pipeline_class: ClassVar[Any] = StableDiffusionPipeline
    denoiser: ClassVar[tuple[str, Any]] = ("unet", UNet2DConditionModel)
    encoders: ClassVar[dict[str, Any]] = {"text_encoder": CLIPTextModel}
    # The attention layers that diffusers' LoRA script adapts.
    targets: ClassVar[list[str]] = ["to_k", "to_q", "to_v", "to_out.0", "add_k_proj", "add_v_proj"]
    lora_encoders: ClassVar[tuple[str, ...]] = ("text_encoder",)
    whole_encoders: ClassVar[tuple[str, ...]] = ("text_encoder",)
    flags: ClassVar[frozenset[str]] = Diffusion.flags | {
        "class_labels_conditioning",
        "text_encoder_use_attention_mask",
        "tokenizer_max_length",
        "tokenizer_name",
    }
    unchecked: ClassVar[dict[str, Any]] = {"safety_checker": None, "requires_safety_checker": False}
    unet: Any
    text_encoder: Any

    @classmethod
    def load(cls, config: ModelConfig, dtype: torch.dtype = torch.float32) -> Self:
        """Also refuse a `--tokenizer_max_length` above what the text encoder takes."""
        family = super().load(config, dtype)
        positions = family.text_encoder.config.max_position_embeddings
        if (config.tokenizer_max_length or 0) > positions:
            raise UserError(f"--tokenizer_max_length {config.tokenizer_max_length} must be at most {positions}")
        return family

    def tokenize(self, prompt: str) -> Conditioning:
        """Tokenize with CLIP's tokenizer: ids and attention mask, (1, length) int64 each; or in chunks."""
        if self.config.max_token_length:
            return long_prompts.tokenize([self.tokenizer], [prompt], self.config.max_token_length)
        return ids_and_mask(self.tokenizer, spelled_out(self.tokenizer, prompt), self.config.tokenizer_max_length)

    def _encode(self, tokens: Conditioning) -> Conditioning:
        use_mask = self.config.text_encoder_use_attention_mask
        device = next(self.text_encoder.parameters()).device
        embeds = self.text_encoder(
            tokens["input_ids"].to(device),
            attention_mask=tokens["attention_mask"].to(device) if use_mask else None,
            return_dict=False,
        )[0]
        return {"embeds": embeds}

    def predict(self, noised: Noised, conditioning: Conditioning) -> Tensor:
        """Return noise or velocity, (B, C, h, w)."""
        labels = noised.timesteps if self.config.class_labels_conditioning == "timesteps" else None
        return self._denoise(noised, conditioning, class_labels=labels)
