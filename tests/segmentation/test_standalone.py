"""Guards that segmentation is standalone: it neither imports nor needs diffusion, data set or web packages."""

import json
import subprocess
import sys

import pytest

from random_models import random_sam

FORBIDDEN = ("diffusers", "accelerate", "peft", "datasets", "gradio")

IMPORT = f"""
import json, sys
from transformers import SamModel
before = [name for name in {FORBIDDEN} if name in sys.modules]
import persam_dreambooth.segmentation
after = [name for name in {FORBIDDEN} if name in sys.modules]
print(json.dumps([before, after]))
"""

# None in sys.modules: Python then finds no such package, installed or not.
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
def answers(tmp_path_factory):
    """The last line of each script in a fresh Python, side by side, since both take seconds to load torch."""
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


def test_import_loads_no_diffusion_dataset_or_web_packages(answers):
    (_, after), _ = answers
    assert not {"diffusers", "peft", "datasets", "gradio"} & set(after)


def test_import_loads_nothing_beyond_transformers(answers):
    # transformers imports accelerate, wherever that is installed, before anything of ours is read.
    (before, after), _ = answers
    assert after == before


def test_segmentation_works_without_these_packages(answers):
    _, (mask_shape, passes) = answers
    assert mask_shape == [40, 60]
    assert passes in (2, 3)  # a box pass only where the second mask is not empty
