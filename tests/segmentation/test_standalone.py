"""Segmentation is standalone: it neither imports nor needs diffusion, data set or web packages."""

import json
import subprocess
import sys

import pytest

from random_models import random_sam

FORBIDDEN = ("diffusers", "accelerate", "peft", "datasets", "gradio", "persam_dreambooth.training")

IMPORT = f"""
import json, sys
from transformers import SamModel
before = [name for name in {FORBIDDEN} if name in sys.modules]
import persam_dreambooth as pd
pd.PerSAM, pd.Reference, pd.Subject, pd.Method, pd.read_photo
after = [name for name in {FORBIDDEN} if name in sys.modules]
print(json.dumps([before, after]))
"""

# With None in sys.modules, importing the package fails even if it is installed.
SEGMENT_WITHOUT = f"""
import json, sys
for name in {FORBIDDEN}:
    sys.modules[name] = None
import numpy as np
from persam_dreambooth.segmentation import PerSAM, Reference
persam = PerSAM.from_pretrained(sys.argv[1], device="cpu")
photo = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
mask = np.zeros((40, 60), bool)
mask[10:30, 10:30] = True
found = persam.segment(photo, persam.personalize(Reference(photo, mask)))
print(json.dumps([found.mask.shape, len(found.passes)]))
"""


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """The last line that each script prints in a fresh Python; both run at once, since loading torch takes seconds."""
    folder = tmp_path_factory.mktemp("sam")
    random_sam().save_pretrained(folder)
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for script in (IMPORT, SEGMENT_WITHOUT)
    ]
    finished = [process.communicate() for process in started]
    for process, (_, errors) in zip(started, finished, strict=True):
        assert process.returncode == 0, errors
    return [json.loads(output.splitlines()[-1]) for output, _ in finished]


def test_import_loads_no_diffusion_dataset_or_web_packages(printed):
    (_, after), _ = printed
    assert not set(after) - {"accelerate"}


def test_import_loads_nothing_beyond_transformers(printed):
    # transformers imports accelerate if it is installed, before any of our code runs.
    (before, after), _ = printed
    assert after == before


def test_segmentation_works_without_these_packages(printed):
    _, (mask_shape, passes) = printed
    assert mask_shape == [40, 60]
    assert passes in (2, 3)  # a box pass only where the second mask is not empty
