"""The decision whether a subject is in a photo: the rule, and rule and scores in tinyworld."""

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import CLIP, SAM
from persam_dreambooth.errors import UserError
from persam_dreambooth.segmentation import (
    ImageEncoder,
    PerSAM,
    PresenceCheck,
    PresenceRule,
    PresenceScores,
    Reference,
)
from persam_dreambooth.segmentation.presence import REASONS
from presence import RULE, photo, stranger
from random_models import random_sam
from recipes import KIND_NAMES, random_identity
from tests.scene import scene

USUAL = {"likeness": 0.9, "contrast": 0.5, "cycle": 0.8, "score": 0.9, "appearance": 0.7}
SIMPLE = PresenceRule(
    weights={"likeness": 2.0, "cycle": 5.0}, usual={"likeness": 0.9, "cycle": 0.8}, bias=1.0,
    found_from=0.6, unsure_from=0.2, backbone="?",
)  # fmt: skip
GOOD = PresenceScores(**USUAL)


@pytest.fixture(scope="module")
def persam():
    return PerSAM.from_pretrained(random_sam(), device="cpu")


# The rule


@given(likeness=st.floats(-1, 1.5), cycle=st.floats(0, 1))
def test_probability_is_logistic_of_weighted_scores(likeness, cycle):
    scores = replace(GOOD, likeness=likeness, cycle=cycle)
    log_odds = 1 + 2 * (likeness - 0.9) + 5 * (cycle - 0.8)
    assert SIMPLE.probability(scores) == pytest.approx(1 / (1 + math.exp(-log_odds)), abs=1e-6)


def test_thresholds_separate_verdicts():
    assert SIMPLE.decide(GOOD).verdict == "found"
    assert SIMPLE.decide(GOOD).reason is None
    assert SIMPLE.decide(replace(GOOD, cycle=0.5)).verdict == "unsure"
    assert SIMPLE.decide(replace(GOOD, cycle=0.0)).verdict == "not found"
    nothing = SIMPLE.decide(None)
    assert (nothing.verdict, nothing.probability, nothing.reason) == ("not found", 0.0, "the mask is empty")


@pytest.mark.parametrize("name", list(REASONS))
def test_reason_names_most_harmful_score(name):
    rule = replace(SIMPLE, weights=dict.fromkeys(USUAL, 3.0), usual=USUAL)
    reason = rule.decide(replace(GOOD, **{name: USUAL[name] - 3.0})).reason
    assert reason.startswith(REASONS[name])
    assert f"{name} {USUAL[name] - 3.0:.2f}, usually {USUAL[name]:.2f}" in reason


def test_score_is_shown_as_1_at_most():
    rule = PresenceRule({"score": 50.0}, {"score": 1.03}, 0.0, 0.6, 0.2, "?")
    assert "(score 1.00, usually 1.00)" in rule.decide(replace(GOOD, score=1.014)).reason


def test_saved_rule_loads_unchanged_and_finds_encoder_next_to_it(tmp_path):
    SIMPLE.save(tmp_path / "presence.json")
    assert PresenceRule.load(tmp_path / "presence.json") == SIMPLE
    (tmp_path / "sam").mkdir()
    (tmp_path / "clip").mkdir()
    replace(SIMPLE, encoder="../clip").save(tmp_path / "sam" / "presence.json")
    loaded = PresenceRule.load(tmp_path / "sam" / "presence.json")
    assert (tmp_path / "sam" / loaded.encoder).resolve() == tmp_path / "clip"
    replace(SIMPLE, encoder="facebook/dinov2-base").save(tmp_path / "presence.json")
    assert PresenceRule.load(tmp_path / "presence.json").encoder == "facebook/dinov2-base"


@pytest.mark.parametrize(
    "change",
    [
        {"weights": {"smell": 1.0}, "usual": {"smell": 1.0}},
        {"usual": {"cycle": 1.0}},
        {"bias": "high"},
        {"more": 1},
        {"made_on": 1},
    ],
)
def test_invalid_rule_file_is_refused_in_one_line(tmp_path, change):
    path = tmp_path / "presence.json"
    path.write_text(json.dumps(asdict(SIMPLE) | change))
    with pytest.raises(UserError, match="is not a presence rule") as error:
        PresenceRule.load(path)
    assert len(str(error.value).splitlines()) == 1
    path.write_text("{")
    with pytest.raises(UserError, match="is not a presence rule"):
        PresenceRule.load(path)
    with pytest.raises(UserError, match="no presence rule at"):
        PresenceRule.load(tmp_path / "absent.json")


def test_rule_from_drawings_has_caveat_and_older_file_is_read(tmp_path):
    path = tmp_path / "presence.json"
    replace(SIMPLE, made_on="drawings (tinyworld)").save(path)
    assert PresenceRule.load(path).caveat == (
        "the presence rule was made on drawings (tinyworld); on photographs its probabilities are a guess"
    )
    assert replace(SIMPLE, made_on="PerSeg").caveat is None
    path.write_text(json.dumps({name: value for name, value in asdict(SIMPLE).items() if name != "made_on"}))
    assert PresenceRule.load(path) == SIMPLE and SIMPLE.caveat is None
    path.write_text("[" * 100_000)
    with pytest.raises(UserError, match="is not a presence rule"):
        PresenceRule.load(path)
    assert PresenceRule.load(RULE).caveat  # tinyworld's own


def test_rule_of_other_sam_or_without_encoder_is_refused(persam):
    reference = Reference(*scene(90, 150))
    subject = persam.personalize(reference)
    with pytest.raises(UserError, match=r"calibrated on \?, not on"):
        PresenceCheck(persam, subject, [reference], SIMPLE)
    rule = replace(
        SIMPLE, backbone=persam.checksum, weights={"appearance": 1.0}, usual={"appearance": 1.0}, encoder="x"
    )
    with pytest.raises(UserError, match="pass its image encoder, x"):
        PresenceCheck(persam, subject, [reference], rule)


# In tinyworld, with the committed rule


@pytest.fixture(scope="module")
def checks():
    """Held-out individuals that the rule was not fitted on, each with its check."""
    persam, encoder = PerSAM.from_pretrained(SAM, device="cpu"), ImageEncoder.from_pretrained(CLIP, "cpu")
    rule, made = PresenceRule.load(RULE), []
    for number in range(16):
        rng = np.random.default_rng([99, number])
        identity = random_identity(rng, KIND_NAMES[number % len(KIND_NAMES)], held_out=True)
        picture = photo(rng, identity, ("subject",))
        reference = Reference(picture.image, picture.mask())
        made.append((rng, identity, PresenceCheck(persam, persam.personalize(reference), [reference], rule, encoder)))
    return persam, made


def look(persam, check, picture):
    (encoded,) = persam.encode([picture.image])
    return check.find(picture.image, encoded)


@pytest.mark.parametrize(
    ("who", "verdict", "share"),
    [(("subject",), "found", (0.8, 1)), ((), "not found", (0.9, 1)), (("another kind",), "found", (0, 0.1))],
)
def test_verdicts_by_kind_of_scene(checks, who, verdict, share):
    persam, made = checks
    verdicts = [look(persam, check, photo(rng, identity, who))[1].verdict for rng, identity, check in made]
    least, most = share
    assert least <= np.mean([answer == verdict for answer in verdicts]) <= most, verdicts


def test_subject_next_to_another_kind_is_found_on_second_look(checks):
    persam, made = checks
    once, again = [], []
    for rng, identity, check in made:
        picture = photo(rng, identity, ("subject", "another kind"))
        true = picture.mask()
        (encoded,) = persam.encode([picture.image])
        for most, right in ((1, once), (3, again)):
            mask = check.find(picture.image, encoded, at_most=most)[0].mask
            right.append((mask & true).sum() / (mask | true).sum() > 0.5)
    assert np.mean(again) >= 0.8
    assert np.mean(again) >= np.mean(once) + 0.15


def test_look_alike_is_rejected_more_often_than_subject(checks):
    persam, made = checks
    own, other = [], []
    for rng, identity, check in made:
        for who, probabilities in ((("subject",), own), (("look-alike",), other)):
            probabilities.append(look(persam, check, photo(rng, identity, who))[1].probability)
        assert stranger(rng, identity, same=True) != identity
    area = np.mean([mine > theirs for mine in own for theirs in other])
    assert area > 0.85
