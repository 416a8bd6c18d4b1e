"""Presence by agreement: the other methods' own masks decide, and tell photos with the subject from others."""

from dataclasses import replace

import numpy as np
import pytest

from models import DINO, SAM
from persam_dreambooth.cli import main
from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from persam_dreambooth.photos.manifest import MANIFEST_NAME, read_manifest
from persam_dreambooth.preprocessing import SegmentationJob
from persam_dreambooth.preprocessing.references import ReferenceFiles
from persam_dreambooth.segmentation import (
    INSID3,
    Agreement,
    AgreementCheck,
    Insid3Method,
    PerSAM,
    Reference,
    TextPrompt,
)
from persam_dreambooth.segmentation.exemplar import Exemplar
from persam_dreambooth.segmentation.multi_mask import candidates
from presence import photo, subjects
from recipes import random_identity
from tests.scene import iou
from tests.segmentation.random_locators import save


@pytest.fixture(scope="module")
def persam():
    return PerSAM.from_pretrained(str(SAM), device="cpu")


@pytest.fixture(scope="module")
def insid3():
    return Agreement(str(DINO), 64).load("cpu")[0]


@pytest.fixture(scope="module")
def sam3(tmp_path_factory):
    """Return the folder of a random SAM 3: what it finds is arbitrary, but always the same."""
    folder = tmp_path_factory.mktemp("sam3")
    save("sam3", folder)
    return str(folder)


def test_verdict_follows_from_the_iou_of_both_masks(persam, insid3):
    """With both methods run on their own."""
    verdicts = set()
    for reference, trials in subjects(0, 2, 1):
        subject, other = persam.personalize(reference), insid3.personalize(reference)
        check = AgreementCheck(persam, subject, [reference], insid3)
        for trial in trials:
            (encoded,) = persam.encode([trial.image])
            second = insid3.segment(trial.image, other).mask
            tried = list(candidates(persam, encoded, subject, 3))
            overlaps = [iou(found.mask, second) if found.mask.any() else 0.0 for found in tried]
            presence = check(trial.image, encoded, tried[0])
            assert presence.probability == pytest.approx(overlaps[0])
            both = second.any() and tried[0].mask.any()
            expected = "found" if overlaps[0] >= 0.5 else "unsure" if both else "not found"
            assert presence.verdict == expected and (presence.reason is None) == (expected == "found")
            verdicts.add(expected)
            kept, decision = check.find(trial.image, encoded)
            enough = [n for n, overlap in enumerate(overlaps) if overlap >= 0.5]
            best = enough[0] if enough else int(np.argmax(overlaps))
            np.testing.assert_array_equal(kept.mask, tried[best].mask)
            assert decision.probability == pytest.approx(overlaps[best])
    assert {"found", "unsure"} <= verdicts


def test_every_method_must_agree(persam, sam3):
    """The lowest of both IoUs decides, with all methods run on their own."""
    insid3, exemplar = others = Agreement(str(DINO), 64, sam3).load("cpu")
    lowest, reasons = set(), ""
    for reference, trials in subjects(0, 3, 1):
        subject, learned = persam.personalize(reference), insid3.personalize(reference)
        check = AgreementCheck(persam, subject, [reference], *others)
        for trial in trials:
            (encoded,) = persam.encode([trial.image])
            found = persam.segment(encoded, subject)
            masks = insid3.segment(trial.image, learned).mask, exemplar.find(trial.image, [reference])
            if found.mask.any() and any(mask.any() for mask in masks):
                overlaps = [iou(found.mask, mask) for mask in masks]
                presence = check(trial.image, encoded, found)
                assert presence.probability == pytest.approx(min(overlaps))
                assert presence.verdict == ("found" if min(overlaps) >= 0.5 else "unsure")
                lowest.add(int(np.argmin(overlaps)))
                reasons += presence.reason or ""
    assert lowest == {0, 1}, "one of the methods never decides"
    assert "SAM 3 finds the subject elsewhere" in reasons
    assert "INSID3 finds the subject nowhere" in reasons, "both always find something"


def test_insid3_searches_crops_if_the_masks_come_from_crops():
    (searching,) = Agreement(str(DINO), 64).load("cpu", crop_n_layers=1)
    assert searching.encode([photo(np.random.default_rng(0), None, ()).image])[0].crops


def test_photos_of_the_subject_agree_and_empty_scenes_do_not(persam, insid3):
    found = {"the subject alone": [], "an empty scene": []}
    for reference, trials in subjects(4, 8, 2):
        subject = persam.personalize(reference)
        check = AgreementCheck(persam, subject, [reference], insid3)
        for trial in trials:
            if trial.group in found:
                _, presence = check.find(trial.image, persam.encode([trial.image])[0])
                found[trial.group].append(presence.verdict == "found")
    assert np.mean(found["the subject alone"]) >= 0.85
    assert np.mean(found["an empty scene"]) <= 0.15


def test_command_asks_insid3_and_sam_3(tmp_path, sam3):
    rng = np.random.default_rng(7)
    dog = random_identity(rng, "dog", held_out=True)
    pictures = {"reference": photo(rng, dog, ("subject",)), "dog": photo(rng, dog, ("subject",))}
    pictures["nobody"] = photo(rng, dog, ())
    for name, picture in pictures.items():
        files.write_picture(picture.image, tmp_path / "photos" / f"{name}.png")
    files.write_mask(pictures["reference"].mask(), tmp_path / "mask.png")
    argv = ["--images", tmp_path / "photos", "--reference", tmp_path / "photos" / "reference.png", "--reference_mask"]
    argv += [tmp_path / "mask.png", "--output", tmp_path / "out", "--sam", SAM, "--device", "cpu"]
    agreement = ["--presence", "agreement", "--presence_features", DINO, "--presence_features_size", 64]
    assert main(["segment", *map(str, [*argv, *agreement])]) == 0
    entries = {entry.photo.split("/")[-1]: entry for entry in read_manifest(tmp_path / "out" / MANIFEST_NAME)}
    assert entries["dog.png"].presence == "found" and entries["reference.png"].presence is None
    assert entries["nobody.png"].uncertain and entries["nobody.png"].probability < 0.5
    subject = INSID3.from_pretrained(DINO, image_size=64, device="cpu")
    reference = Reference(pictures["reference"].image, pictures["reference"].mask())
    other = subject.personalize(reference)
    mask = files.read_mask(tmp_path / "out" / entries["dog.png"].mask)
    expected = iou(mask, subject.segment(pictures["dog"].image, other).mask)
    assert entries["dog.png"].probability == pytest.approx(expected, abs=1e-5)
    argv[argv.index("--output") + 1] = tmp_path / "both"
    assert main(["segment", *map(str, [*argv, *agreement, "--presence_exemplar", sam3])]) == 0
    entries = {entry.photo.split("/")[-1]: entry for entry in read_manifest(tmp_path / "both" / MANIFEST_NAME)}
    third = Exemplar.from_pretrained(sam3, "cpu").find(pictures["dog"].image, [reference])
    mask = files.read_mask(tmp_path / "both" / entries["dog.png"].mask)
    assert entries["dog.png"].probability == pytest.approx(min(expected, iou(mask, third)), abs=1e-5)
    assert main(["segment", *map(str, argv)]) == 2  # another run: the rule beside the SAM decides


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"presence": "rule.json"}, "cannot be used with a presence rule"),
        ({"method": Insid3Method()}, "cannot be used with --method insid3"),
        ({"all_instances": True}, "finding all instances needs a presence rule"),
    ],
)
def test_combinations_that_make_no_sense_are_refused(changes, message):
    reference = (ReferenceFiles("a.jpg", box=(0, 0, 1, 1)),)
    with pytest.raises(UserError, match=message):
        SegmentationJob("photos", reference, "out", SAM, **{"agreement": Agreement(), **changes})


@pytest.mark.parametrize("flag", ["--presence_features", "--presence_exemplar"])
def test_models_without_agreement_are_refused(flag, capsys):
    argv = ["--images", "p", "--reference", "a.jpg", "--reference_mask", "m.png", "--output", "o"]
    assert main(["segment", *argv, flag, "model"]) == 2
    assert f"{flag} is for --presence agreement" in capsys.readouterr().err


def test_agreement_with_no_other_method_is_refused(persam):
    reference, _ = next(iter(subjects(0, 1, 1)))
    with pytest.raises(UserError, match="needs another method"):
        AgreementCheck(persam, persam.personalize(reference), [reference])


def test_runs_from_before_the_exemplar_can_be_resumed():
    job = SegmentationJob("p", (), "o", SAM, text=TextPrompt("a dog"), agreement=Agreement("dino"))
    assert job.settings()["agreement"] == {"features": "dino", "features_size": None}
    with_sam3 = replace(job, agreement=Agreement("dino", exemplar="sam3"))
    assert with_sam3.settings()["agreement"]["exemplar"] == "sam3"
