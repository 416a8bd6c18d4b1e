"""Scene recognition: zero-shot classification of backgrounds among the scenes of the prompts and of the photos."""

from collections.abc import Sequence

import torch
from torch import Tensor

from persam_dreambooth.evaluation.generation import measures, prompts
from persam_dreambooth.evaluation.generation.encoders import Clip
from persam_dreambooth.evaluation.generation.prompts import Prompt


class Scenes:
    """The scene labels and their CLIP text features.

    Args:
        clip: embeds the labels.
        asked: the prompts; each scene that one of them names is a label.
        training: the photos' scene, in one wording or several; these are labels too.
        template: sentence for a label, {} for its words: "a photo {}".
    """

    def __init__(self, clip: Clip, asked: Sequence[Prompt], training: Sequence[str], template: str) -> None:
        self.training = list(dict.fromkeys(training))
        self.labels = list(dict.fromkeys([*prompts.scenes(asked), *self.training]))
        sentences = [template.replace("{}", label) for label in self.labels]
        self._features = clip.read(sentences).cpu() if sentences else torch.empty(0, 0)

    def recognize(self, background: Tensor | None) -> str | None:
        """Classify a background's (C,) unit-length CLIP feature; None without one, or with fewer than two labels."""
        if background is None or len(self.labels) < 2:
            return None
        return self.labels[int(measures.recognized(background[None], self._features))]

    def rates(self, seen: str | None, asked: str | None) -> dict[str, float]:
        """Return one picture's `scene` and `training_scene`, 0 or 1 each; without those that do not apply.

        Args:
            seen: the scene from `recognize`.
            asked: the prompt's scene.
        """
        if seen is None or asked is None:
            return {}
        leaked = {"training_scene": float(seen in self.training)} if self.training else {}
        return {"scene": float(seen == asked)} | (leaked if asked not in self.training else {})
