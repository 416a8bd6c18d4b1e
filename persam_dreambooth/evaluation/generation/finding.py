"""Segment the subject in generated pictures with PerSAM and the subject's own photos, as a user would."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from persam_dreambooth.errors import UserError
from persam_dreambooth.evaluation.generation.features import Masked
from persam_dreambooth.evaluation.generation.prompts import Prompt
from persam_dreambooth.preprocessing import SegmentationJob, segment_folder


@dataclass(frozen=True)
class Drawn:
    """A generated picture and its segmentation.

    Attributes:
        prompt: the prompt it was generated for.
        seed: seed of its noise.
        files: the picture and the subject's mask; the mask is measured whatever the verdict, because leaving out
            pictures unlike the subject would flatter a model that draws it badly.
        presence: "found", "unsure" or "not found"; None without a presence rule.
    """

    prompt: Prompt
    seed: int
    files: Masked
    presence: str | None


def find_subject(
    job: SegmentationJob, prompts: Sequence[Prompt], paths: Mapping[tuple[str, int], Path]
) -> list[Drawn]:
    """Segment a model's pictures, each once.

    Args:
        job: segmentation of the folder of the pictures.
        prompts: the prompts.
        paths: the file of each (prompt text, seed).

    Returns:
        One entry per picture, by prompt, then by seed.

    Raises:
        UserError: as in `segment_folder`, or a picture cannot be decoded.
    """
    entries = {Path(entry.photo).name: entry for entry in segment_folder(job)}
    by_text = {prompt.text: prompt for prompt in prompts}
    drawn = []
    for (text, seed), path in paths.items():
        entry = entries[path.name]
        if entry.mask is None:
            raise UserError(f"{entry.error}; delete it and run again")
        drawn.append(Drawn(by_text[text], seed, Masked(path, job.output / entry.mask), entry.presence))
    return drawn
