"""The cache of encoded photos: bit-identical, encoded once, never from another model or a damaged file."""

import numpy as np
import pytest
import torch

from persam_dreambooth.segmentation import FeatureEncoder, Method, PerSAM, Reference
from random_models import random_sam
from tests.scene import scene
from tests.segmentation import random_sams
from tests.segmentation.test_features import dinov2


def counted(persam):
    """Record the batch size of every later call of the image encoder."""
    calls, encode = [], persam.backbone.encode_with_extra

    def recording(images):
        calls.append(len(images))
        return encode(images)

    persam.backbone.encode_with_extra = recording
    return calls


def same(first, second):
    assert torch.equal(first.embedding, second.embedding)
    assert first.frame == second.frame
    assert len(first.extra) == len(second.extra)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(first.extra, second.extra, strict=True))
    if first.other is not None:
        same(first.other, second.other)


PHOTOS = [scene(90, 150)[0], scene(60, 40, seed=1)[0]]


def test_cached_encodings_are_bit_identical_and_reused(tmp_path):
    first = PerSAM.from_pretrained(random_sam(), device="cpu", cache=tmp_path)
    encoded = first.encode(PHOTOS)
    second = PerSAM.from_pretrained(random_sam(), device="cpu", cache=tmp_path)
    calls = counted(second)
    for photo, again in zip(encoded, second.encode(PHOTOS), strict=True):
        same(photo, again)
    assert calls == []
    new = scene(70, 70, seed=2)[0]
    second.encode([PHOTOS[1], new])
    assert calls == [1]


def test_second_subject_in_same_album_runs_only_decoder(tmp_path):
    persam = PerSAM.from_pretrained(random_sam(), device="cpu", cache=tmp_path)
    photo, disc = scene(90, 150)
    corner = np.zeros_like(disc)
    corner[:40, :40] = True
    persam.segment(PHOTOS, persam.personalize(Reference(photo, disc)))
    calls = counted(persam)
    found = persam.segment(PHOTOS, persam.personalize(Reference(photo, corner)))
    assert calls == []
    plain = PerSAM.from_pretrained(random_sam(), device="cpu")
    for cached, fresh in zip(found, plain.segment(PHOTOS, plain.personalize(Reference(photo, corner))), strict=True):
        assert np.mean(cached.mask != fresh.mask) <= 0.001


def test_changed_photo_precision_or_sam_is_encoded_again(tmp_path):
    PerSAM.from_pretrained(random_sam(), device="cpu", cache=tmp_path).encode(PHOTOS)
    changed = PHOTOS[0].copy()
    changed[0, 0, 0] ^= 1
    turned = np.ascontiguousarray(PHOTOS[0].reshape(150, 90, 3))
    for photos, persam in (
        ([changed], PerSAM.from_pretrained(random_sam(), device="cpu", cache=tmp_path)),
        ([turned], PerSAM.from_pretrained(random_sam(), device="cpu", cache=tmp_path)),
        (PHOTOS, PerSAM.from_pretrained(random_sam(), None, "cpu", torch.bfloat16, cache=tmp_path)),
        (PHOTOS, PerSAM.from_pretrained(random_sam(seed=1), device="cpu", cache=tmp_path)),
    ):
        calls = counted(persam)
        persam.encode(photos)
        assert calls == [len(photos)]


@pytest.mark.parametrize("damage", [b"", b"not safetensors", None], ids=["empty", "other bytes", "cut off"])
def test_damaged_file_is_replaced(tmp_path, damage):
    persam = PerSAM.from_pretrained(random_sam(), device="cpu", cache=tmp_path)
    (encoded,) = persam.encode(PHOTOS[:1])
    (path,) = tmp_path.rglob("*.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[:-100] if damage is None else damage)
    calls = counted(persam)
    same(encoded, persam.encode(PHOTOS[:1])[0])
    assert calls == [1]
    assert path.read_bytes() == whole


def test_finer_levels_and_second_encoder_features_are_cached(tmp_path):
    sam2, features = random_sams.sam2(), FeatureEncoder(dinov2(), cells=8, device="cpu")
    persam = PerSAM.from_pretrained(sam2, Method(), "cpu", features=features, cache=tmp_path)
    (encoded,) = persam.encode(PHOTOS[:1])
    assert len(encoded.extra) == 2
    assert encoded.other is not None
    calls = counted(persam)
    same(encoded, persam.encode(PHOTOS[:1])[0])
    assert calls == []
