"""Z-Image: flow matching with negated velocity and reversed time, prompts of any length encoded by Qwen3."""

from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
from diffusers import ZImagePipeline, ZImageTransformer2DModel
from diffusers.models.transformers.transformer_z_image import SEQ_MULTI_OF
from torch import Tensor
from transformers import Qwen3Model

from persam_dreambooth.training.families.base import Conditioning, Noised
from persam_dreambooth.training.families.chat_prompts import ChatPrompts
from persam_dreambooth.training.families.joint_attention import JointAttention, recorded
from persam_dreambooth.training.families.loading import chat_message, unwrapped


class ZImage(ChatPrompts):
    """The family behind `ZImagePipeline` (arXiv 2511.22699)."""

    pipeline_class: ClassVar[Any] = ZImagePipeline
    denoiser: ClassVar[tuple[str, Any]] = ("transformer", ZImageTransformer2DModel)
    encoders: ClassVar[dict[str, Any]] = {"text_encoder": Qwen3Model}
    targets: ClassVar[list[str]] = ["to_k", "to_q", "to_v", "to_out.0"]
    posterior_mean: ClassVar[bool] = True
    max_sequence_length: ClassVar[int] = 512
    transformer: Any
    tokenizer: Any
    text_encoder: Any

    @classmethod
    def message(cls, tokenizer: Any, prompt: str) -> str:
        """Return the prompt as a message to the language model, in its chat template."""
        return chat_message(tokenizer, prompt, thinking=True)

    def _encode(self, tokens: Conditioning) -> Conditioning:
        ids, mask = (tokens[name].to(self.text_encoder.device) for name in ("input_ids", "attention_mask"))
        encoded = self.text_encoder(ids, attention_mask=mask, output_hidden_states=True)
        return {"embeds": encoded.hidden_states[-2], "attention_mask": mask}

    def predict(self, noised: Noised, conditioning: Conditioning) -> Tensor:
        """Return the velocity, (B, C, h, w); the transformer takes and returns lists of one-frame videos."""
        prompts = zip(conditioning["embeds"], conditioning["attention_mask"].bool(), strict=True)
        videos = self.transformer(
            list(noised.noisy.unsqueeze(2)),
            1 - noised.timesteps / self.scheduler.config.num_train_timesteps,
            [embeds[mask] for embeds, mask in prompts],
            return_dict=False,
        )[0]
        return -torch.stack(videos).squeeze(2)

    def record_attention(self) -> AbstractContextManager[JointAttention]:
        """Record the attention of the layers that see text and picture in one prediction."""
        layers = [layer.attention for layer in unwrapped(self.transformer).layers]
        return recorded(layers, text_first=False, multiple=SEQ_MULTI_OF)
