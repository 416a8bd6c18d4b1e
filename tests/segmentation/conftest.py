"""A PerSAM with a small random SAM, and its subject; modules that need others define their own."""

import pytest

from persam_dreambooth.segmentation import PerSAM, Reference, load_backbone
from random_models import random_sam
from tests.scene import scene


@pytest.fixture(scope="module")
def backbone():
    return load_backbone(random_sam(), device="cpu")


@pytest.fixture(scope="module")
def persam(backbone):
    return PerSAM(backbone)


@pytest.fixture(scope="module")
def subject(persam):
    return persam.personalize(Reference(*scene(90, 150)))
