"""Flux.2 and Flux.2 Klein: flow matching on patches of latents, three layers of a language model for prompts."""

from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKLFlux2, Flux2KleinPipeline, Flux2Pipeline, Flux2Transformer2DModel
from diffusers.pipelines.flux2.pipeline_flux2 import format_input
from torch import Tensor
from transformers import AutoProcessor, Mistral3ForConditionalGeneration, Qwen3ForCausalLM

from persam_dreambooth.training.families.base import Conditioning, Noised
from persam_dreambooth.training.families.chat_prompts import ChatPrompts
from persam_dreambooth.training.families.joint_attention import JointAttention, recorded
from persam_dreambooth.training.families.loading import chat_message, unwrapped


class Flux2Klein(ChatPrompts):
    """The family behind `Flux2KleinPipeline`; prompts are encoded by Qwen3.

    Latents are kept unpatched, (B, C, h, w), so that a mask has one value for each cell of the autoencoder.

    Attributes:
        layers: the layers of the text encoder whose states are concatenated, the pipeline's default.
    """

    pipeline_class: ClassVar[Any] = Flux2KleinPipeline
    denoiser: ClassVar[tuple[str, Any]] = ("transformer", Flux2Transformer2DModel)
    encoders: ClassVar[dict[str, Any]] = {"text_encoder": Qwen3ForCausalLM}
    vae_class: ClassVar[Any] = AutoencoderKLFlux2
    targets: ClassVar[list[str]] = [
        *("to_k", "to_q", "to_v", "to_out.0", "to_qkv_mlp_proj"),
        *(f"single_transformer_blocks.{number}.attn.to_out" for number in range(48)),  # as many as Flux.2 has
    ]
    posterior_mean: ClassVar[bool] = True
    padded: ClassVar[bool] = True
    max_sequence_length: ClassVar[int] = 512
    layers: ClassVar[tuple[int, ...]] = (9, 18, 27)
    transformer: Any
    tokenizer: Any
    text_encoder: Any

    @classmethod
    def message(cls, tokenizer: Any, prompt: str) -> str:
        """Return the prompt as a message to the language model, in its chat template."""
        return chat_message(tokenizer, prompt, thinking=False)

    def _encode(self, tokens: Conditioning) -> Conditioning:
        ids, mask = (tokens[name].to(self.text_encoder.device) for name in ("input_ids", "attention_mask"))
        encoded = self.text_encoder(ids, attention_mask=mask, output_hidden_states=True, logits_to_keep=1)
        return {"embeds": torch.cat([encoded.hidden_states[layer] for layer in self.layers], dim=-1)}

    def normalize(self, latents: Tensor) -> Tensor:
        """Whiten latents, (B, C, h, w), by the autoencoder's statistics of each channel and place in a patch."""
        patches, norm = Flux2Pipeline._patchify_latents(latents), self.vae.bn
        mean, variance = (values.to(latents).view(1, -1, 1, 1) for values in (norm.running_mean, norm.running_var))
        return Flux2Pipeline._unpatchify_latents((patches - mean) / (variance + self.vae.config.batch_norm_eps).sqrt())

    def draw_noise(self, latents: Tensor) -> Tensor:
        """Draw noise of the latents' shape, patch by patch as in diffusers' script."""
        return Flux2Pipeline._unpatchify_latents(torch.randn_like(Flux2Pipeline._patchify_latents(latents)))

    def predict(self, noised: Noised, conditioning: Conditioning) -> Tensor:
        """Return the velocity, (B, C, h, w), unpacked from the transformer's tokens of 2 x 2 cells each."""
        patches, embeds = Flux2Pipeline._patchify_latents(noised.noisy), conditioning["embeds"]
        guided = unwrapped(self.transformer).config.guidance_embeds
        packed = self.transformer(
            hidden_states=Flux2Pipeline._pack_latents(patches),
            timestep=noised.timesteps / self.scheduler.config.num_train_timesteps,
            guidance=patches.new_full((len(patches),), self.config.guidance_scale) if guided else None,
            encoder_hidden_states=embeds,
            txt_ids=Flux2Pipeline._prepare_text_ids(embeds).to(patches.device),
            img_ids=Flux2Pipeline._prepare_latent_ids(patches).to(patches.device),
            return_dict=False,
        )[0]
        return Flux2Pipeline._unpatchify_latents(packed.mT.reshape(patches.shape))

    def record_attention(self) -> AbstractContextManager[JointAttention]:
        """Record the joint attention of blocks with separate weights for text and picture in one prediction."""
        return recorded([block.attn for block in unwrapped(self.transformer).transformer_blocks], text_first=True)


class Flux2(Flux2Klein):
    """The family behind `Flux2Pipeline`; prompts are encoded by Mistral Small 3, guidance is an input."""

    pipeline_class: ClassVar[Any] = Flux2Pipeline
    encoders: ClassVar[dict[str, Any]] = {"text_encoder": Mistral3ForConditionalGeneration}
    tokenizer_class: ClassVar[Any] = AutoProcessor
    flags: ClassVar[frozenset[str]] = ChatPrompts.flags | {"guidance_scale"}
    layers: ClassVar[tuple[int, ...]] = (10, 20, 30)

    @classmethod
    def message(cls, tokenizer: Any, prompt: str) -> str:
        """Return the prompt after the pipeline's own system message, in the model's chat template."""
        (messages,) = format_input([prompt])
        return str(tokenizer.apply_chat_template(messages, tokenize=False))

    @classmethod
    def read(cls, tokenizer: Any, prompt: str, length: int, **more: Any) -> Any:
        """Tokenize the message with the model's processor."""
        return tokenizer.apply_chat_template(
            format_input([prompt]),
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            padding="max_length",
            truncation=True,
            max_length=length,
            **more,
        )
