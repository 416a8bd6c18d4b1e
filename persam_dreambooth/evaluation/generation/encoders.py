"""The models that look at pictures and read prompts: CLIP, and DINO where there is one."""

from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from transformers import AutoTokenizer, CLIPModel

from persam_dreambooth.errors import UserError
from persam_dreambooth.segmentation import ImageEncoder


class Clip(ImageEncoder):
    """A CLIP with both of its towers; pictures by `encode`.

    Args:
        model: the CLIP.
        processor: its image processor.
        tokenizer: its tokenizer.
        device: None takes an accelerator where there is one.
    """

    def __init__(
        self, model: CLIPModel, processor: Any, tokenizer: Any, device: torch.device | str | None = None
    ) -> None:
        super().__init__(model, processor, device)
        self._tokenizer = tokenizer

    @classmethod
    def from_pretrained(cls, source: str | Path, device: torch.device | str | None = None) -> Self:
        """By hub name ("openai/clip-vit-base-patch32") or folder.

        Raises:
            UserError: nothing there, not a CLIP, or no tokenizer beside it.
        """
        try:
            seen = ImageEncoder.from_pretrained(source, device)
        except UserError as error:
            raise UserError(f"--clip_model {source}: {error}") from error.__cause__ or error
        if not isinstance(seen.model, CLIPModel):
            raise UserError(f"--clip_model {source} is no CLIP; give one, such as openai/clip-vit-base-patch32")
        try:
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        except Exception as error:  # no file, no JSON, an unknown class: each has its own exception
            raise UserError(f"--clip_model {source} has no tokenizer that can be read; download it again") from error
        return cls(seen.model, seen.processor, tokenizer, device)

    @torch.no_grad()
    def read(self, texts: list[str]) -> Tensor:
        """Texts to (n, C) float32 embeddings of length 1; those longer than CLIP's context are cut."""
        length = self.model.config.text_config.max_position_embeddings
        settings = {"padding": True, "truncation": True, "max_length": length, "return_tensors": "pt"}
        tokens = self._tokenizer(texts, **settings).to(self.device)
        return torch.nn.functional.normalize(self.model.get_text_features(**tokens).pooler_output.float(), dim=-1)
