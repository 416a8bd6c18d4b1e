"""Krea 2: flow matching on packed latents of Qwen-Image's autoencoder, prompts encoded by many layers of Qwen3-VL."""

from typing import Any, ClassVar

import torch
from diffusers import Krea2Pipeline, Krea2Transformer2DModel, QwenImagePipeline
from torch import Tensor
from transformers import Qwen3VLModel

from persam_dreambooth.training.config import ModelConfig
from persam_dreambooth.training.families.base import Conditioning, Noised
from persam_dreambooth.training.families.loading import token_ids
from persam_dreambooth.training.families.qwen_image import QwenLatents


class Krea2(QwenLatents):
    """The family behind `Krea2Pipeline`."""

    pipeline_class: ClassVar[Any] = Krea2Pipeline
    denoiser: ClassVar[tuple[str, Any]] = ("transformer", Krea2Transformer2DModel)
    encoders: ClassVar[dict[str, Any]] = {"text_encoder": Qwen3VLModel}
    targets: ClassVar[list[str]] = [
        *("to_q", "to_k", "to_v", "to_out.0", "to_gate", "ff.up", "ff.down", "img_in", "final_layer.linear"),
        *("text_fusion.projector", "txt_in.linear_1", "txt_in.linear_2"),
        *("time_embed.linear_1", "time_embed.linear_2", "time_mod_proj"),
    ]
    max_sequence_length: ClassVar[int] = 512
    transformer: Any
    tokenizer: Any
    text_encoder: Any

    def __init__(self, config: ModelConfig, **parts: Any) -> None:
        super().__init__(config, **parts)
        layers = Krea2Pipeline.load_config(self.base_model, revision=config.revision)["text_encoder_select_layers"]
        # A pipeline without parts, for its prompt template.
        self.bare: Any = Krea2Pipeline(None, None, None, None, None, text_encoder_select_layers=layers)

    def asked(self, prompt: str) -> str:
        """Return the prompt after the prefix of the pipeline's own template."""
        return f"{self.bare.prompt_template_encode_prefix}{prompt}"

    def tokenize(self, prompt: str) -> Conditioning:
        """Tokenize in the pipeline's template, unpadded: ids and attention mask, (1, length) int64 each.

        The pipeline pads between prompt and suffix and gives padding no positions, so the result is the same without.
        """
        bare = self.bare
        start, end = bare.prompt_template_encode_start_idx, bare.prompt_template_encode_num_suffix_tokens
        asked = token_ids(self.tokenizer, self.asked(prompt), start + self.length - end, padded=False)
        suffix = self.tokenizer(bare.prompt_template_encode_suffix, return_tensors="pt")
        return {name: torch.cat([asked[name], suffix[name]], dim=1) for name in ("input_ids", "attention_mask")}

    def _encode(self, tokens: Conditioning) -> Conditioning:
        ids, mask = (tokens[name].to(self.text_encoder.device) for name in ("input_ids", "attention_mask"))
        states = self.text_encoder(
            input_ids=ids,
            attention_mask=mask.bool(),
            position_ids=torch.arange(ids.shape[1], device=ids.device).expand(3, *ids.shape),
            output_hidden_states=True,
        ).hidden_states
        stack = torch.stack([states[layer] for layer in self.bare.text_encoder_select_layers], dim=2)
        start = self.bare.prompt_template_encode_start_idx
        return {"embeds": stack[:, start:], "attention_mask": mask[:, start:]}

    def predict(self, noised: Noised, conditioning: Conditioning) -> Tensor:
        """Return the velocity, (B, C, h, w), unpacked from the transformer's tokens of 2 x 2 cells each."""
        noisy, embeds, mask = noised.noisy, conditioning["embeds"], conditioning["attention_mask"].bool()
        batch, channels, height, width = noisy.shape
        places = Krea2Pipeline.prepare_position_ids(embeds.shape[1], height // 2, width // 2, noisy.device)
        packed = self.transformer(
            hidden_states=QwenImagePipeline._pack_latents(noisy, batch, channels, height, width),
            encoder_hidden_states=embeds,
            timestep=noised.timesteps / self.scheduler.config.num_train_timesteps,
            position_ids=places,
            encoder_attention_mask=None if mask.all() else mask,
            return_dict=False,
        )[0]
        return QwenImagePipeline._unpack_latents(packed, height, width, vae_scale_factor=1).squeeze(2)
