"""Qwen-Image: flow matching on packed latents, a video autoencoder, prompts encoded by Qwen2.5-VL."""

from contextlib import AbstractContextManager
from typing import Any, ClassVar, Final

from diffusers import AutoencoderKLQwenImage, QwenImagePipeline, QwenImageTransformer2DModel
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration

from persam_dreambooth.training.config import ModelConfig
from persam_dreambooth.training.families.base import Conditioning, Noised
from persam_dreambooth.training.families.chat_prompts import ChatPrompts
from persam_dreambooth.training.families.flow_matching import FlowMatching
from persam_dreambooth.training.families.joint_attention import JointAttention, recorded
from persam_dreambooth.training.families.loading import load_config, unwrapped

BARE: Final[Any] = QwenImagePipeline(None, None, None, None, None)
"""A pipeline without parts, for its prompt template."""


class QwenLatents(FlowMatching):
    """A family with the latents of Qwen-Image's video autoencoder, which takes a picture as a video of one frame."""

    vae_class: ClassVar[Any] = AutoencoderKLQwenImage

    @classmethod
    def cell_of(cls, config: ModelConfig) -> int:
        """Side of a latent cell in pixels: a factor of 2 for each of the autoencoder's downsampling layers."""
        return int(2 ** len(load_config(cls.vae_class, "vae", config)["temperal_downsample"]))

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Encode (B, 3, H, W) in [-1, 1] as videos of one frame; return moments, (B, 2 C, h, w)."""
        return super().encode_pixels(pixels.unsqueeze(2)).squeeze(2)

    def normalize(self, latents: Tensor) -> Tensor:
        """Whiten latents, (B, C, h, w), by the statistics in the autoencoder's config."""
        config = self.vae.config
        mean, std = (
            latents.new_tensor(values).view(1, -1, 1, 1) for values in (config.latents_mean, config.latents_std)
        )
        return (latents - mean) / std


class QwenImage(QwenLatents, ChatPrompts):
    """The family behind `QwenImagePipeline` (arXiv 2508.02324)."""

    pipeline_class: ClassVar[Any] = QwenImagePipeline
    denoiser: ClassVar[tuple[str, Any]] = ("transformer", QwenImageTransformer2DModel)
    encoders: ClassVar[dict[str, Any]] = {"text_encoder": Qwen2_5_VLForConditionalGeneration}
    targets: ClassVar[list[str]] = ["to_k", "to_q", "to_v", "to_out.0"]
    max_sequence_length: ClassVar[int] = 512
    longest_sequence: ClassVar[int] = 1024
    start: ClassVar[int] = BARE.prompt_template_encode_start_idx
    drawing: ClassVar[dict[str, Any]] = {"negative_prompt": " "}
    transformer: Any
    tokenizer: Any
    text_encoder: Any

    @classmethod
    def message(cls, tokenizer: Any, prompt: str) -> str:
        """Return the prompt in the pipeline's own template."""
        return str(BARE.prompt_template_encode.format(prompt))

    def _encode(self, tokens: Conditioning) -> Conditioning:
        ids, mask = (tokens[name].to(self.text_encoder.device) for name in ("input_ids", "attention_mask"))
        encoded = self.text_encoder(ids, attention_mask=mask, output_hidden_states=True, logits_to_keep=1)
        return {"embeds": encoded.hidden_states[-1][:, self.start :], "attention_mask": mask[:, self.start :]}

    def predict(self, noised: Noised, conditioning: Conditioning) -> Tensor:
        """Return the velocity, (B, C, h, w), unpacked from the transformer's tokens of 2 x 2 cells each."""
        noisy, mask = noised.noisy, conditioning["attention_mask"]
        batch, channels, height, width = noisy.shape
        packed = self.transformer(
            hidden_states=QwenImagePipeline._pack_latents(noisy, batch, channels, height, width),
            encoder_hidden_states=conditioning["embeds"],
            encoder_hidden_states_mask=None if mask.all() else mask,
            timestep=noised.timesteps / self.scheduler.config.num_train_timesteps,
            img_shapes=[[(1, height // 2, width // 2)]] * batch,
            return_dict=False,
        )[0]
        return QwenImagePipeline._unpack_latents(packed, height, width, vae_scale_factor=1).squeeze(2)

    def record_attention(self) -> AbstractContextManager[JointAttention]:
        """Record the transformer's joint attention in one prediction."""
        return recorded([block.attn for block in unwrapped(self.transformer).transformer_blocks], text_first=True)
