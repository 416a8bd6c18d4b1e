"""Guards the cache of encoded photos: the same bits, no second encoding, never another model's or a damaged file."""

import numpy as np
import pytest
import torch

from persam_dreambooth.segmentation import FeatureEncoder, Method, PerSAM, Reference
from random_models import random_sam
from tests.scene import scene
from tests.segmentation import random_sams
from tests.segmentation.test_features import dinov2


def counted(persam):
    """Lists how many photos each call of the image encoder was given, from now on."""
    calls, encode = [], persam.backbone.encode_with_extra

    def listening(images):
        calls.append(len(images))
        return encode(images)

    persam.backbone.encode_with_extra = listening
    return calls


def same(one, other):
    assert torch.equal(one.embedding, other.embedding)
    assert one.frame == other.frame
    assert len(one.extra) == len(other.extra)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(one.extra, other.extra, strict=True))
    if one.other is not None:
        same(one.other, other.other)


PHOTOS = [scene(90, 150)[0], scene(60, 40, seed=1)[0]]


def test_what_comes_out_is_what_went_in_and_nothing_is_encoded_twice(tmp_path):
    first = PerSAM.from_pretrained(random_sam(), device="cpu", cache=tmp_path)
    encoded = first.encode(PHOTOS)
    second = PerSAM.from_pretrained(random_sam(), device="cpu", cache=tmp_path)
    calls = counted(second)
    for one, other in zip(encoded, second.encode(PHOTOS), strict=True):
        same(one, other)
    assert calls == []
    new = scene(70, 70, seed=2)[0]
    second.encode([PHOTOS[1], new])
    assert calls == [1]


def test_a_second_subject_in_the_same_album_costs_the_decoder_alone(tmp_path):
    persam = PerSAM.from_pretrained(random_sam(), device="cpu", cache=tmp_path)
    photo, disc = scene(90, 150)
    corner = np.zeros_like(disc)
    corner[:40, :40] = True
    persam.segment(PHOTOS, persam.personalize(Reference(photo, disc)))
    calls = counted(persam)
    found = persam.segment(PHOTOS, persam.personalize(Reference(photo, corner)))
    assert calls == []
    plain = PerSAM.from_pretrained(random_sam(), device="cpu")
    for one, other in zip(found, plain.segment(PHOTOS, plain.personalize(Reference(photo, corner))), strict=True):
        assert np.mean(one.mask != other.mask) <= 0.001


def test_a_changed_photo_another_precision_and_another_sam_are_encoded_anew(tmp_path):
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
def test_a_damaged_file_is_made_anew(tmp_path, damage):
    persam = PerSAM.from_pretrained(random_sam(), device="cpu", cache=tmp_path)
    (encoded,) = persam.encode(PHOTOS[:1])
    (path,) = tmp_path.rglob("*.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[:-100] if damage is None else damage)
    calls = counted(persam)
    same(encoded, persam.encode(PHOTOS[:1])[0])
    assert calls == [1]
    assert path.read_bytes() == whole


def test_finer_levels_and_the_other_encoders_features_are_kept_too(tmp_path):
    sam2, features = random_sams.sam2(), FeatureEncoder(dinov2(), cells=8, device="cpu")
    persam = PerSAM.from_pretrained(sam2, Method(), "cpu", features=features, cache=tmp_path)
    (encoded,) = persam.encode(PHOTOS[:1])
    assert len(encoded.extra) == 2
    assert encoded.other is not None
    calls = counted(persam)
    same(encoded, persam.encode(PHOTOS[:1])[0])
    assert calls == []
