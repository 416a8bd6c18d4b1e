"""The flags of `segment` as they are read from the command line."""

from persam_dreambooth.cli.parsing import parse
from persam_dreambooth.cli.segment import GROUPS as SEGMENT

REQUIRED = ["--images", "photos", "--reference", "dog.jpg", "--reference_mask", "dog.png", "--output", "out"]


def segment_flags(*argv):
    flags, method, *_ = parse(SEGMENT, [*REQUIRED, *argv], "persam-dreambooth segment", "")
    return flags, method
