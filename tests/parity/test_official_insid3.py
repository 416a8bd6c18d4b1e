"""Every number of the authors' INSID3 code is reproduced.

`data/insid3` was recorded by running that code, unmodified, on CPU in float32, with a small random DINOv3.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from persam_dreambooth.segmentation import INSID3, Insid3Method, Reference, insid3_steps
from tests.parity import recorded_sam

PHOTOS = recorded_sam.DATA / "synthetic" / "photos"
RECORDINGS = recorded_sam.DATA / "insid3"


@pytest.fixture(scope="module", params=["a", "b"])
def official(request):
    """INSID3 with the settings of a recording, its subject, and the name of the recording."""
    recorded = np.load(RECORDINGS / f"01_{request.param}.npz")
    method = Insid3Method("official", float(recorded["tau"]), float(recorded["merge_threshold"]), svd_components=24)
    insid3 = INSID3.from_pretrained(RECORDINGS / "dinov3", method, "cpu", image_size=384)
    subject = insid3.personalize(Reference(PHOTOS / "00.jpg", PHOTOS / "00.png"))
    return insid3, subject, request.param


def same_partition(labels, others):
    """Return whether two labelings agree up to the numbering of their labels."""
    pairs = set(zip(labels.ravel().tolist(), others.ravel().tolist(), strict=True))
    return len(pairs) == len(np.unique(labels)) == len(np.unique(others))


@pytest.mark.parametrize("photo", ["01", "02"])
def test_recorded_numbers(official, photo):
    insid3, subject, settings = official
    recorded = np.load(RECORDINGS / f"{photo}_{settings}.npz")
    np.testing.assert_allclose(insid3.projection, recorded["positional_projection"], atol=1e-4)
    np.testing.assert_allclose(subject.target_feature, recorded["prototype"], atol=1e-4)
    (encoded,) = insid3.encode([PHOTOS / f"{photo}.jpg"])
    np.testing.assert_allclose(encoded.embedding, recorded["target_debiased"], atol=1e-4)
    rows = encoded.embedding.flatten(1).T
    candidates = insid3_steps.candidates(rows, subject.target_feature, subject.memory)
    np.testing.assert_array_equal(candidates.view(24, 24), recorded["candidates"])
    clusters = insid3_steps.clusters(encoded.extra[0].flatten(1).T, insid3.method.tau)
    assert same_partition(clusters.numpy(), recorded["clusters"])
    found = insid3.segment(encoded, subject)
    np.testing.assert_array_equal(found.logits > 0, recorded["grid_mask"])
    np.testing.assert_array_equal(found.mask, np.asarray(Image.open(RECORDINGS / f"{photo}_{settings}_mask.png")) > 0)


def test_clusters_are_average_linkage_cut_at_one_minus_tau():
    torch.manual_seed(0)
    features = F.normalize(torch.randn(40, 3), dim=1)
    labels = insid3_steps.clusters(features, 0.6)
    groups = [[number] for number in range(40)]
    cosine = (features @ features.T).double()
    while True:  # the definition: merge the two groups with the highest mean cosine while it is at least tau
        pairs = [(a, b) for a in range(len(groups)) for b in range(a)]
        best = max(pairs, key=lambda pair: cosine[groups[pair[0]]][:, groups[pair[1]]].mean())
        if cosine[groups[best[0]]][:, groups[best[1]]].mean() < 0.6:
            break
        groups[best[1]] += groups.pop(best[0])
    expected = np.zeros(40, dtype=int)
    for number, group in enumerate(groups):
        expected[group] = number
    assert len(groups) > 3
    assert same_partition(labels.numpy(), expected)
