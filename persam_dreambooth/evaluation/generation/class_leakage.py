"""Class leakage: whether other dogs turn into the subject if the prompt is "a dog", without the identifier.

Each model and its base model generate pictures of the class from the same noise, and the subject is located in them as
in all other pictures. A picture's likeness is the mean cosine of what was found there with the photos' subject; its
leakage is that likeness minus the likeness of the base model's picture of the same seed. At 0 the class is unchanged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from hashlib import sha256

from persam_dreambooth.errors import UserError
from persam_dreambooth.evaluation.generation.measures import PictureMeter
from persam_dreambooth.evaluation.generation.models import Model
from persam_dreambooth.evaluation.generation.pictures import Drawing, Drawn, draw_pictures, find_subject
from persam_dreambooth.evaluation.generation.plan import CLASS, PICTURES, Plan
from persam_dreambooth.evaluation.generation.prompts import Prompt
from persam_dreambooth.model_source import ModelSource


@dataclass(frozen=True)
class ClassPicture:
    """A picture of the class, without the identifier.

    Attributes:
        drawn: the picture.
        likeness: of its subject to the photos', in [-1, 1]; None if nothing was found in it.
        of_base: likeness of the base model's picture of this seed; None also if the base model is unknown.
    """

    drawn: Drawn
    likeness: float | None
    of_base: float | None

    @property
    def leakage(self) -> float | None:
        """The likeness minus the base model's; None if either is unknown."""
        return None if self.likeness is None or self.of_base is None else self.likeness - self.of_base


def draw_class(plan: Plan, model: Model) -> list[Drawn]:
    """Draw a model's pictures of the class, and segment the subject in them; none without a class prompt."""
    if not plan.class_prompt or not plan.class_images:
        return []
    prompts = [Prompt(plan.class_prompt, plan.class_prompt, None)]
    drawing: Drawing = replace(plan.drawing, prompts=prompts, num_images=plan.class_images)
    folder = plan.folder(model) / CLASS
    paths = draw_pictures(model, drawing, folder / PICTURES)
    return find_subject(plan.job_in(folder), prompts, paths)


def base_of(plan: Plan, model: Model) -> Model | None:
    """Return a model's base model, one of the compared models or another; None if unknown or not to be found."""
    source = model.source.trained()
    if source is None or not _is_there(source):
        return None
    among = (other for other in plan.models if str(other.source) == str(source))
    return next(among, Model(f"base-{sha256(str(source).encode()).hexdigest()[:8]}", source))


@cache
def _is_there(source: ModelSource) -> bool:
    """Return whether a model can be found; a pipeline's base model may have been moved since the training."""
    try:
        source.check()
    except UserError:
        return False
    return True


def measure_class(
    plan: Plan, drawn: Mapping[str, Sequence[Drawn]], meter: PictureMeter
) -> dict[str, list[ClassPicture]]:
    """Measure the class pictures of all models.

    Args:
        plan: the evaluation.
        drawn: title -> pictures of `draw_class`, of the compared models and of their bases.
        meter: measures the likeness.

    Returns:
        Title of each compared model -> its pictures. A base model among the compared ones is its own base.
    """
    likeness = {title: meter.likeness(pictures, title) for title, pictures in drawn.items()}
    bases = {model.title: base_of(plan, model) for model in plan.models}
    own_bases = {base.title for base in bases.values() if base is not None}
    measured = {}
    for model in plan.models:
        base = bases[model.title] or (model if model.title in own_bases else None)
        of_base = likeness[base.title] if base else [None] * len(drawn[model.title])
        values = zip(drawn[model.title], likeness[model.title], of_base, strict=True)
        measured[model.title] = [ClassPicture(*value) for value in values]
    return measured
