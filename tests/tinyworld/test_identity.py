"""Identity: an individual is distinguished from its look-alikes in drawn pictures."""

import numpy as np
from PIL import Image

from identity import LOOK_ALIKES, Recognizer, look_alikes, portrait
from recipes import is_held_out, random_identity


def test_look_alikes_are_other_held_out_individuals_of_the_same_kind():
    rng = np.random.default_rng(0)
    identity = random_identity(rng, "cat", held_out=True)
    others = look_alikes(identity, rng)
    assert len(set(others)) == LOOK_ALIKES and identity not in others
    assert all(other.kind == "cat" and is_held_out(other) for other in others)


def test_right_individual_is_recognized_and_others_are_not():
    right, wrong = [], []
    for number, kind in enumerate(("dog", "cat", "car", "teapot")):
        rng = np.random.default_rng([4, number])
        identity = random_identity(rng, kind, held_out=True)
        recognizer = Recognizer(identity, seed=number)
        right += recognizer.recognizes([portrait(identity, rng).image for _ in range(5)])
        (other, *_) = look_alikes(identity, np.random.default_rng([number, 17]))
        wrong += recognizer.recognizes([portrait(other, rng).image for _ in range(5)])
    assert np.mean(right) >= 0.9
    assert np.mean(wrong) <= 0.1


def test_image_without_subject_is_not_recognized():
    identity = random_identity(np.random.default_rng(1), "dog", held_out=True)
    assert Recognizer(identity).recognizes([Image.new("RGB", (64, 64), (90, 90, 90))]) == [False]
