"""The outcome: values by measure and prompt, notes for the reader, and metrics.json."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from models import SAM
from persam_dreambooth.evaluation.generation.class_leakage import ClassPicture
from persam_dreambooth.evaluation.generation.features import Masked
from persam_dreambooth.evaluation.generation.measures import MeasuredPicture
from persam_dreambooth.evaluation.generation.models import Model
from persam_dreambooth.evaluation.generation.outcome import Outcome, by_prompt, metrics, notes
from persam_dreambooth.evaluation.generation.pictures import Drawing, Drawn
from persam_dreambooth.evaluation.generation.plan import Plan
from persam_dreambooth.evaluation.generation.prompts import Prompt
from persam_dreambooth.model_source import ModelSource
from persam_dreambooth.preprocessing.references import ReferenceFiles

OUTPUT = Path("out")
SNOW, SOFA = Prompt("a sks dog in the snow", "a dog in the snow", "in the snow"), Prompt("a sks dog", "a dog", None)
MODELS = [Model(title, ModelSource(f"runs/{title}")) for title in ("plain", "masked")]


def plan(**changed):
    drawing = Drawing([SNOW, SOFA], 2, 7, {"guidance_scale": 4.0})
    given = {"dino": "dino", "training_scenes": ["on a sofa"], "class_prompt": "a dog"}
    photos = [ReferenceFiles(Path("photo.png"), mask=Path("mask.png"))]
    return Plan(MODELS, photos, drawing, OUTPUT, "no-sam", "clip", **given | changed)


def drawn(prompt, seed, presence=None):
    picture = OUTPUT / "models" / f"{seed}.png"
    return Drawn(prompt, seed, Masked(picture, picture), presence)


def measured(shift=0.0, presence=None):
    """Two pictures of each prompt; those without a scene have no `scene`, and one has an empty mask."""
    values = [
        (SNOW, 7, {"dino": 0.5, "clip_i_inside": 0.6, "scene": 1.0}),
        (SNOW, 8, {"dino": 0.7, "clip_i_inside": 0.8, "scene": 0.0}),
        (SOFA, 7, {"dino": 0.1, "clip_i_inside": 0.2}),
        (SOFA, 8, {"dino": 0.3}),
    ]
    return [
        MeasuredPicture(drawn(prompt, seed, presence), {name: value + shift for name, value in own.items()}, None)
        for prompt, seed, own in values
    ]


@pytest.fixture
def outcome():
    classes = [ClassPicture(drawn(SOFA, 7), 0.5, 0.25), ClassPicture(drawn(SOFA, 8), None, 0.5)]
    return Outcome(
        plan(),
        {"plain": measured(), "masked": measured(0.125)},
        {"plain": [0.5, None], "masked": [0.75, None]},
        {"plain": classes, "masked": [replace(own, of_base=None) for own in classes]},
        {"dino": 0.9},
        ["A note."],
    )


def test_values_are_by_prompt_and_unknown_ones_are_left_out(outcome):
    assert [[picture.drawn.seed for picture in same] for same in by_prompt(measured())] == [[7, 8], [7, 8]]
    assert outcome.values("plain") == {
        "dino": [[0.5, 0.7], [0.1, 0.3]],
        "clip_i_inside": [[0.6, 0.8], [0.2]],
        "scene": [[1.0, 0.0], []],
        "diversity": [[0.5], []],
        "class_likeness": [[0.5], []],  # each picture of the class counts like a prompt
        "class_leakage": [[0.25], []],
    }
    assert "class_leakage" not in outcome.values("masked")  # its base is unknown


def test_metrics_hold_means_differences_and_every_picture(outcome):
    stored = json.loads(json.dumps(metrics(outcome)))
    assert stored["models"]["plain"]["dino"]["mean"] == pytest.approx(0.4)
    assert stored["models"]["plain"]["clip_i_inside"]["mean"] == pytest.approx((0.7 + 0.2) / 2)
    assert list(stored["less plain"]) == ["masked"]
    assert stored["less plain"]["masked"]["dino"]["mean"] == pytest.approx(0.125)
    assert "class_leakage" not in stored["less plain"]["masked"]
    assert stored["photos"] == {"dino": 0.9} and stored["notes"] == ["A note."]
    row = stored["prompts"][0]
    assert (row["model"], row["prompt"], row["scene"], row["diversity"]) == ("plain", SNOW.text, "in the snow", 0.5)
    assert [(picture["file"], picture["seed"], picture["dino"]) for picture in row["pictures"]] == [
        ("models/7.png", 7, 0.5),
        ("models/8.png", 8, 0.7),
    ]
    assert stored["class_pictures"]["plain"][0] == {
        "file": "models/7.png",
        "seed": 7,
        "class_likeness": 0.5,
        "of_base_model": 0.25,
    }


def test_settings_are_named_like_the_flags(outcome):
    settings = metrics(replace(outcome, plan=plan(dino=None)))["settings"]
    assert settings["model"] == {"plain": "runs/plain", "masked": "runs/masked"}
    assert (settings["prompts"], settings["num_images"], settings["seed"], settings["photos"]) == (2, 2, 7, 1)
    assert (settings["dino_model"], settings["masc_model"], settings["guidance_scale"]) == ("none", "none", 4.0)
    assert settings["training_scenes"] == ["on a sofa"] and settings["dtype"] == "float32"


def test_notes_say_what_is_missing_and_nothing_else():
    usual = {
        "Diversity is 1 - cosine of DINO features; for the paper's LPIPS: --diversity lpips.",
        "There is no presence rule for this SAM: every mask counts as the subject's.",
    }
    one = [MODELS[0]]
    whole = measured()[:3]
    assert set(notes(replace(plan(), models=one), {"plain": whole})) == usual
    single = replace(plan(), models=one, drawing=replace(plan().drawing, num_images=1))
    less = replace(single, dino=None, training_scenes=(), class_prompt=None, left_out=["a.png was excluded in review"])
    assert notes(less, {"plain": whole}) == [
        "Left out: a.png was excluded in review.",
        "DINO's measures are left out: --dino_model none.",
        "With one image per prompt there is no diversity to measure.",
        "The photos' scene is not measured: give it as --training_scenes.",
        "Class leakage is not measured: give the class as --class_token.",
        "There is no presence rule for this SAM: every mask counts as the subject's.",
    ]
    assert "Diversity is LPIPS (AlexNet), as the DreamBooth paper measures it." in notes(
        replace(plan(), diversity="lpips"), {"plain": whole}
    )
    assert any("1 - cosine of CLIP" in note for note in notes(replace(plan(), dino=None), {"plain": whole}))


def test_notes_name_doubtful_pictures_and_too_few_prompts():
    pictures = measured(presence="unsure")
    pictures[0] = replace(pictures[0], drawn=replace(pictures[0].drawn, presence="found"))
    said = notes(plan(), {"plain": pictures, "masked": measured()})
    assert "2 prompts: too few to call a difference significant; use at least 8." in said
    assert "plain: the subject is unsure in 3 of 4 images." in said
    assert "masked: 1 image with an empty mask, so without measures of the subject alone." in said
    assert not any(note.startswith("masked: the subject") for note in said)
    drawings = notes(replace(plan(), sam=str(SAM)), {"plain": measured()})  # its rule was made on drawings
    assert any(note.startswith("The presence rule was made on ") for note in drawings)
    assert not any("no presence rule" in note or "too few" in note for note in drawings)
