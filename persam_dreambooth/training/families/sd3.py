"""Stable Diffusion 3 and 3.5: flow matching, two CLIPs, and a T5 that may be left out."""

from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from torch import Tensor
from transformers import CLIPTextModelWithProjection, T5EncoderModel

from persam_dreambooth.training.config import ModelConfig
from persam_dreambooth.training.families.base import Conditioning, Noised
from persam_dreambooth.training.families.flow_matching import FlowMatching
from persam_dreambooth.training.families.joint_attention import JointAttention, recorded
from persam_dreambooth.training.families.loading import load_tokenizer, token_ids, unwrapped


class StableDiffusion3(FlowMatching):
    """The family behind `StableDiffusion3Pipeline` (arXiv 2403.03206)."""

    pipeline_class: ClassVar[Any] = StableDiffusion3Pipeline
    denoiser: ClassVar[tuple[str, Any]] = ("transformer", SD3Transformer2DModel)
    encoders: ClassVar[dict[str, Any]] = {
        "text_encoder": CLIPTextModelWithProjection,
        "text_encoder_2": CLIPTextModelWithProjection,
        "text_encoder_3": T5EncoderModel,
    }
    optional: ClassVar[tuple[str, ...]] = ("text_encoder_3",)
    targets: ClassVar[list[str]] = [
        *("attn.add_k_proj", "attn.add_q_proj", "attn.add_v_proj", "attn.to_add_out"),
        *("attn.to_k", "attn.to_out.0", "attn.to_q", "attn.to_v"),
    ]
    lora_encoders: ClassVar[tuple[str, ...]] = ("text_encoder", "text_encoder_2")
    flags: ClassVar[frozenset[str]] = FlowMatching.flags | {
        *("attention_loss_weight", "lora_blocks", "precondition_outputs")
    }
    vae_dtype: ClassVar[torch.dtype | None] = torch.float32
    weighting_scheme: ClassVar[str] = "logit_normal"
    precondition_outputs: ClassVar[bool] = True
    max_sequence_length: ClassVar[int] = 77
    transformer: Any
    tokenizer: Any
    tokenizer_2: Any
    tokenizer_3: Any
    text_encoder: Any
    text_encoder_2: Any
    text_encoder_3: Any

    def tokenize(self, prompt: str) -> Conditioning:
        """Tokenize for both CLIPs, and for T5 if the base model has one: ids, (1, length) int64 each."""
        tokens = {
            "input_ids": token_ids(self.tokenizer, prompt).input_ids,
            "input_ids_2": token_ids(self.tokenizer_2, prompt).input_ids,
        }
        if self.tokenizer_3 is not None:
            tokens["input_ids_3"] = token_ids(self.tokenizer_3, prompt, self.length).input_ids
        return tokens

    def _encode(self, tokens: Conditioning) -> Conditioning:
        device = next(self.text_encoder.parameters()).device
        first = self.text_encoder(tokens["input_ids"].to(device), output_hidden_states=True)
        second = self.text_encoder_2(tokens["input_ids_2"].to(device), output_hidden_states=True)
        clip = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        channels = unwrapped(self.transformer).config.joint_attention_dim
        if self.text_encoder_3 is None:  # as the pipeline does without it
            t5 = clip.new_zeros(len(clip), self.length, channels)
        else:
            t5 = self.text_encoder_3(tokens["input_ids_3"].to(device))[0]
        embeds = torch.cat([F.pad(clip, (0, channels - clip.shape[-1])), t5.to(clip.dtype)], dim=-2)
        return {"embeds": embeds, "pooled": torch.cat([first.text_embeds, second.text_embeds], dim=-1)}

    def predict(self, noised: Noised, conditioning: Conditioning) -> Tensor:
        """Return the velocity, (B, C, h, w)."""
        return self.transformer(
            hidden_states=noised.noisy,
            timestep=noised.timesteps,
            encoder_hidden_states=conditioning["embeds"],
            pooled_projections=conditioning["pooled"],
            return_dict=False,
        )[0]

    def record_attention(self) -> AbstractContextManager[JointAttention]:
        """Record the transformer's joint attention in one prediction."""
        return recorded([block.attn for block in unwrapped(self.transformer).transformer_blocks], text_first=False)

    @classmethod
    def prompt_tokenizers(cls, config: ModelConfig) -> list[tuple[Any, int | None]]:
        """Return the first CLIP's, with which the second one's agrees, and T5's if the base model has one."""
        own: list[tuple[Any, int | None]] = [(load_tokenizer("tokenizer", config), None)]
        if "text_encoder_3" in cls.encoders_of(config):
            own.append((load_tokenizer("tokenizer_3", config), config.max_sequence_length or cls.max_sequence_length))
        return own
