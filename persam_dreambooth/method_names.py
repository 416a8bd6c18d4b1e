"""Names of the one-shot methods, and what their flags allow; imports no torch, for `--help`."""

from typing import Final, Literal

from persam_dreambooth.errors import UserError

PERSAM: Final = "persam"
PERSAM_F: Final = "persam-f"
INSID3: Final = "insid3"
INSID3_SAM: Final = "insid3-sam"
SEGGPT: Final = "seggpt"
SEGGPT_MODEL: Final = "BAAI/seggpt-vit-large"
"""SegGPT's weights as transformers reads them."""
MethodName = Literal["persam", "persam-f", "insid3", "insid3-sam", "seggpt"]
"""The methods that find a subject in a folder of photos."""
WITHOUT_SAM: Final = (INSID3, SEGGPT)
MOST_CROP_LAYERS: Final = 3
"""Most layers of crops that a photo is searched in; three layers are 84 crops."""


def refuse_size_alone(method: str, features: str | None, size: int | None, prefix: str = "") -> None:
    """Refuse `--features_size` without an encoder that it applies to.

    Args:
        method: its name; INSID3 always has an encoder.
        features: the value of `--features`.
        size: the value of `--features_size`.
        prefix: of the flags' names, for the message.

    Raises:
        UserError: there is a size without an encoder.
    """
    if size and not features and method not in (INSID3, INSID3_SAM):
        name = f"--{prefix}features"
        raise UserError(f"{name}_size is the size of the {name} model; give {name}, or leave it out")


def refuse_seggpt(method: str, **given: object) -> None:
    """Refuse SegGPT's flags if another method is used.

    Args:
        method: its name.
        given: values by the flags' names; None and False count as not given.

    Raises:
        UserError: one was given.
    """
    for name, value in given.items():
        if value and method != SEGGPT:
            raise UserError(f"--{name} is read by SegGPT only, not by {method}; leave it out, or choose {SEGGPT}")


def refuse_sam(method: str, flag: str, method_flag: str = "--method") -> None:
    """Refuse a flag of the SAM, such as `--sam`, if the method has no SAM.

    Raises:
        UserError: the method has none.
    """
    if method in WITHOUT_SAM:
        raise UserError(f"{flag} has no effect on {method_flag} {method}, which has no SAM; leave it out")
