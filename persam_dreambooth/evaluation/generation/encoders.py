"""CLIP with both towers, for pictures and prompts; DINO is a plain `ImageEncoder`."""

from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from transformers import AutoTokenizer, CLIPModel

from persam_dreambooth.errors import UserError
from persam_dreambooth.segmentation import ImageEncoder


class Clip(ImageEncoder):
    """A CLIP with both towers: `encode` for pictures, `read` for texts.

    Args:
        model: the CLIP.
        processor: its image processor.
        tokenizer: its tokenizer.
        device: None uses an accelerator if there is one.
    """

    def __init__(
        self, model: CLIPModel, processor: Any, tokenizer: Any, device: torch.device | str | None = None
    ) -> None:
        super().__init__(model, processor, device)
        self._tokenizer = tokenizer

    @classmethod
    def from_pretrained(cls, source: str | Path, device: torch.device | str | None = None) -> Self:
        """Load by hub name ("openai/clip-vit-base-patch32") or from a folder.

        Raises:
            UserError: nothing found, not a CLIP, or no tokenizer.
        """
        try:
            encoder = ImageEncoder.from_pretrained(source, device)
        except UserError as error:
            raise UserError(f"--clip_model {source}: {error}") from error.__cause__ or error
        if not isinstance(encoder.model, CLIPModel):
            raise UserError(f"--clip_model {source} is not a CLIP; give one, such as openai/clip-vit-base-patch32")
        try:
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        except Exception as error:  # no file, no JSON, an unknown class: each has its own exception
            raise UserError(f"--clip_model {source} has no tokenizer that can be read; download it again") from error
        return cls(encoder.model, encoder.processor, tokenizer, device)

    @torch.no_grad()
    def read(self, texts: list[str]) -> Tensor:
        """Embed n texts as (n, C) float32 of unit length; texts longer than CLIP's context are truncated."""
        length = self.model.config.text_config.max_position_embeddings
        settings = {"padding": True, "truncation": True, "max_length": length, "return_tensors": "pt"}
        tokens = self._tokenizer(texts, **settings).to(self.device)
        return torch.nn.functional.normalize(self.model.get_text_features(**tokens).pooler_output.float(), dim=-1)
