"""The ways of training that are compared, by letter, and the settings that all of them share."""

from dataclasses import dataclass

CLASS_IMAGES = 24


@dataclass(frozen=True)
class Arm:
    """One way of training.

    Attributes:
        title: its row in the table.
        photos: "photos", or "blank" for photos whose background is painted grey.
        masks: "none", "found" (PerSAM, from the first photo) or "true".
        flags: further flags of the trainer.
        behind: the backgrounds put behind the subject, "gradients" or "scenes" (see `backgrounds`); "" for none.
    """

    title: str
    photos: str = "photos"
    masks: str = "found"
    flags: tuple[str, ...] = ()
    behind: str = ""


@dataclass(frozen=True)
class Recipe:
    """The settings that all arms share."""

    steps: int = 200
    batch_size: int = 4
    learning_rate: float = 4.5e-4
    prior_weight: float = 1.0
    lora_rank: int = 0
    guidance_scale: float = 4.0
    pictures: int = 2
    inference_steps: int = 20
    mixed_precision: str = "no"


def arms(recipe: Recipe) -> dict[str, Arm]:
    """Return the arms by their letters."""
    background = ("--background_prior_weight", str(recipe.prior_weight))
    prior = ("--with_prior_preservation", "--num_class_images", str(CLASS_IMAGES))
    return {
        "a": Arm("DreamBooth", masks="none"),
        "b": Arm("foreground loss only"),
        "c": Arm("foreground loss + background prior", flags=background),
        "a+p": Arm("DreamBooth + class prior preservation", masks="none", flags=prior),
        "b+p": Arm("foreground loss + class prior preservation", flags=prior),
        "c+p": Arm("foreground loss + background prior + class prior preservation", flags=background + prior),
        "e": Arm("as c, with the true masks", masks="true", flags=background),
        "f": Arm("DreamBooth on photos whose background is painted grey", photos="blank", masks="none"),
    }


def further(recipe: Recipe) -> dict[str, Arm]:
    """Return the arms that run only on request: the attention loss, other backgrounds, other latent masks."""
    prior = arms(recipe)["c"].flags
    whole = ("--background_weight", "1")
    made = {
        "a+g": Arm("DreamBooth, gradients put behind the subject", flags=whole, behind="gradients"),
        "b+g": Arm("as b, gradients put behind the subject", behind="gradients"),
        "a+s": Arm("DreamBooth, empty scenes put behind the subject", flags=whole, behind="scenes"),
        "b+s": Arm("as b, empty scenes put behind the subject", behind="scenes"),
    }
    for letter, weight in (("t", "0.01"), ("tt", "0.1")):
        attention = ("--attention_loss_weight", weight, "--identifier", "sks")
        made[f"b+{letter}"] = Arm(f"as b, attention loss {weight}", flags=attention)
        made[f"c+{letter}"] = Arm(f"as c, attention loss {weight}", flags=prior + attention)
    masks = {
        "none": ("loss divided by all cells", "--mask_normalization", "none"),
        "batch": ("loss divided by the batch's cells", "--mask_normalization", "batch"),
        "nearest": ("a cell is its centre pixel", "--mask_downsample", "nearest"),
        "max": ("a cell with any pixel of the subject is the subject's", "--mask_downsample", "max"),
        "min": ("a cell with any pixel of background is background", "--mask_downsample", "min"),
        "wide": ("masks widened by a cell", "--mask_dilation", "4"),
    }
    for letter, (title, *flags) in masks.items():
        made[f"b+{letter}"] = Arm(f"as b, {title}", flags=tuple(flags))
        made[f"c+{letter}"] = Arm(f"as c, {title}", flags=(*prior, *flags))
    return made
