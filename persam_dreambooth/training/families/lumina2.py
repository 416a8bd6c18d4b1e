"""Lumina Image 2.0: flow matching from noise at 0 to the picture at 1, prompts encoded by Gemma 2."""

import copy
from typing import Any, ClassVar

import torch
from diffusers import Lumina2Pipeline, Lumina2Transformer2DModel
from torch import Tensor
from transformers import Gemma2Model

from persam_dreambooth.training.families.base import Conditioning, Noised
from persam_dreambooth.training.families.flow_matching import FlowMatching
from persam_dreambooth.training.families.loading import ids_and_mask

# The pipeline's default system prompt.
SYSTEM_PROMPT = (
    "You are an assistant designed to generate superior images with the superior degree of image-text alignment based "
    "on textual prompts or user prompts."
)


class Lumina2(FlowMatching):
    """The family behind `Lumina2Pipeline`."""

    pipeline_class: ClassVar[Any] = Lumina2Pipeline
    denoiser: ClassVar[tuple[str, Any]] = ("transformer", Lumina2Transformer2DModel)
    encoders: ClassVar[dict[str, Any]] = {"text_encoder": Gemma2Model}
    targets: ClassVar[list[str]] = ["to_k", "to_q", "to_v", "to_out.0"]
    vae_dtype: ClassVar[torch.dtype | None] = torch.float32
    max_sequence_length: ClassVar[int] = 256
    transformer: Any
    tokenizer: Any
    text_encoder: Any

    def _freeze(self) -> None:
        super()._freeze()
        self.tokenizer.padding_side = "right"  # as the pipeline sets it
        self.text_encoder.to(torch.bfloat16)  # as in diffusers' script, whatever the others' precision

    def place(self, device: torch.device, dtype: torch.dtype, denoiser_device: torch.device | None = None) -> None:
        """Move all parts; the text encoder stays in bf16."""
        super().place(device, dtype, denoiser_device)
        self.text_encoder.to(torch.bfloat16)

    def checksum(self, part: str) -> str:
        """Also include the precision to which the text encoder's embeddings are cast."""
        return super().checksum(part) + (f"-{self.dtype}" if part == "text" else "")

    def pipeline(self) -> Any:
        """Also cast the text encoder to the precision of the other parts, as the pipeline needs."""
        pipeline = super().pipeline()
        if pipeline.text_encoder.dtype != self.dtype:
            pipeline.text_encoder = copy.deepcopy(pipeline.text_encoder).to(self.dtype)
        return pipeline

    def asked(self, prompt: str) -> str:
        """Return the prompt after the pipeline's own system prompt."""
        return f"{SYSTEM_PROMPT} <Prompt Start> {prompt}"

    def tokenize(self, prompt: str) -> Conditioning:
        """Tokenize with Gemma's tokenizer: ids and attention mask, (1, length) int64 each."""
        return ids_and_mask(self.tokenizer, self.asked(prompt), self.length)

    def _encode(self, tokens: Conditioning) -> Conditioning:
        mask = tokens["attention_mask"].to(self.text_encoder.device)
        ids = tokens["input_ids"].to(self.text_encoder.device)
        states = self.text_encoder(ids, attention_mask=mask, output_hidden_states=True).hidden_states
        return {"embeds": states[-2].to(self.dtype), "attention_mask": mask}

    def _between(self, latents: Tensor, noise: Tensor, sigmas: Tensor) -> tuple[Tensor, Tensor]:
        """As in `FlowMatching` with the ends swapped: sigma 1 is the picture."""
        return super()._between(noise, latents, sigmas)

    def predict(self, noised: Noised, conditioning: Conditioning) -> Tensor:
        """Return the velocity towards the picture, (B, C, h, w)."""
        return self.transformer(
            hidden_states=noised.noisy,
            timestep=noised.timesteps / self.scheduler.config.num_train_timesteps,
            encoder_hidden_states=conditioning["embeds"],
            encoder_attention_mask=conditioning["attention_mask"],
            return_dict=False,
        )[0]
