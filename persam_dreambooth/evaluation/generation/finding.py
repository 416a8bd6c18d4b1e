"""Where the subject is in what was drawn: PerSAM, from the subject's own photos, as a user would run it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from persam_dreambooth.errors import UserError
from persam_dreambooth.evaluation.generation.features import Masked
from persam_dreambooth.evaluation.generation.prompts import Prompt
from persam_dreambooth.preprocessing import SegmentationJob, segment_folder


@dataclass(frozen=True)
class Drawn:
    """One picture as drawn, and what segmentation said of it.

    Attributes:
        prompt: what was asked for.
        seed: of its noise.
        files: the picture and the subject's mask; the mask is kept and measured by whatever the verdict is, since
            leaving out what is unlike the subject would flatter a model that draws it badly.
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
        job: over the folder of the pictures.
        prompts: what was asked for.
        paths: the file of each (prompt's text, seed).

    Returns:
        One a picture, prompt by prompt, by seed.

    Raises:
        UserError: as `segment_folder`, or a picture that cannot be decoded.
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
