"""Flux.1: flow matching on packed latents, CLIP's pooled prompt and T5's, guidance as an input."""

from contextlib import AbstractContextManager
from typing import Any, ClassVar

from diffusers import FluxPipeline, FluxTransformer2DModel
from torch import Tensor
from transformers import CLIPTextModel, T5EncoderModel

from persam_dreambooth.learned_tokens import spelled_out
from persam_dreambooth.training.config import ModelConfig
from persam_dreambooth.training.families.base import Conditioning, Noised
from persam_dreambooth.training.families.flow_matching import FlowMatching
from persam_dreambooth.training.families.joint_attention import JointAttention, recorded
from persam_dreambooth.training.families.loading import load_tokenizer, token_ids, unwrapped
from persam_dreambooth.training.families.textual_inversion import insert_words


class Flux(FlowMatching):
    """The family behind `FluxPipeline`."""

    pipeline_class: ClassVar[Any] = FluxPipeline
    denoiser: ClassVar[tuple[str, Any]] = ("transformer", FluxTransformer2DModel)
    encoders: ClassVar[dict[str, Any]] = {"text_encoder": CLIPTextModel, "text_encoder_2": T5EncoderModel}
    targets: ClassVar[list[str]] = [
        *("attn.to_k", "attn.to_q", "attn.to_v", "attn.to_out.0"),
        *("attn.add_k_proj", "attn.add_q_proj", "attn.add_v_proj", "attn.to_add_out"),
        *("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"),
    ]
    lora_encoders: ClassVar[tuple[str, ...]] = ("text_encoder",)
    whole_encoders: ClassVar[tuple[str, ...]] = ("text_encoder",)
    flags: ClassVar[frozenset[str]] = FlowMatching.flags | {
        *("attention_loss_weight", "enable_t5_ti", "guidance_scale", "train_text_encoder_ti")
    }
    max_sequence_length: ClassVar[int] = 512
    transformer: Any
    tokenizer: Any
    tokenizer_2: Any
    text_encoder: Any
    text_encoder_2: Any

    def tokenize(self, prompt: str) -> Conditioning:
        """Tokenize with CLIP's and T5's tokenizers: ids, (1, length) int64 each."""
        return {
            "input_ids": token_ids(self.tokenizer, spelled_out(self.tokenizer, prompt)).input_ids,
            "input_ids_2": token_ids(self.tokenizer_2, spelled_out(self.tokenizer_2, prompt), self.length).input_ids,
        }

    def _encode(self, tokens: Conditioning) -> Conditioning:
        device = next(self.text_encoder.parameters()).device
        pooled = self.text_encoder(tokens["input_ids"].to(device)).pooler_output
        return {"embeds": self.text_encoder_2(tokens["input_ids_2"].to(device))[0], "pooled": pooled}

    def predict(self, noised: Noised, conditioning: Conditioning) -> Tensor:
        """Return the velocity, (B, C, h, w), unpacked from the transformer's tokens of 2 x 2 cells each.

        Packing only moves numbers, so that masking the unpacked prediction is the same as masking the packed one
        with a packed mask: the gradient is exactly zero in the same places.
        """
        noisy, config = noised.noisy, unwrapped(self.transformer).config
        batch, channels, height, width = noisy.shape
        places = FluxPipeline._prepare_latent_image_ids(batch, height // 2, width // 2, noisy.device, noisy.dtype)
        guidance = noisy.new_full((batch,), self.config.guidance_scale) if config.guidance_embeds else None
        packed = self.transformer(
            hidden_states=FluxPipeline._pack_latents(noisy, batch, channels, height, width),
            timestep=noised.timesteps / self.scheduler.config.num_train_timesteps,
            guidance=guidance,
            pooled_projections=conditioning["pooled"],
            encoder_hidden_states=conditioning["embeds"],
            txt_ids=noisy.new_zeros(conditioning["embeds"].shape[1], 3),
            img_ids=places,
            return_dict=False,
        )[0]
        return FluxPipeline._unpack_latents(packed, height, width, vae_scale_factor=1)

    def record_attention(self) -> AbstractContextManager[JointAttention]:
        """Record the joint attention of blocks with separate weights for text and picture in one prediction."""
        return recorded([block.attn for block in unwrapped(self.transformer).transformer_blocks], text_first=True)

    @classmethod
    def prompt_tokenizers(cls, config: ModelConfig) -> list[tuple[Any, int | None]]:
        """Return T5's, with the words of textual inversion if it has them; CLIP's part of the prompt is pooled."""
        tokenizer = load_tokenizer("tokenizer_2", config)
        if config.enable_t5_ti:
            insert_words([load_tokenizer("tokenizer", config), tokenizer], config)
        return [(tokenizer, config.max_sequence_length or cls.max_sequence_length)]
