"""Measures of validation pictures: as `evaluate` has them, a warning if the background leaks, the best checkpoint."""

import json
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import torch

import persam_dreambooth as pd
from albums import albums, save_album
from models import CLIP, SAM
from persam_dreambooth.evaluation.generation.features import CachedFeatures, Clip, Masked
from persam_dreambooth.evaluation.generation.measures import PictureMeter, Scenes
from persam_dreambooth.evaluation.generation.pictures import find_subject
from persam_dreambooth.evaluation.generation.prompts import Prompt
from persam_dreambooth.metrics_file import WARNING, MetricsFile, read_metrics, read_warnings
from persam_dreambooth.photos import files
from persam_dreambooth.preprocessing import SegmentationJob
from persam_dreambooth.preprocessing.references import ReferenceFiles
from persam_dreambooth.torch_utils import TensorCache
from persam_dreambooth.training import summary
from persam_dreambooth.training.runtime import likeness
from persam_dreambooth.training.runtime.likeness import FIDELITY, LEAKAGE, Likeness
from recipes import Recipe, random_placement
from tests.evaluation.generation.conftest import eyes as eyes
from tests.training.runs import train
from world import draw

MEASURES = {"dino_inside", "leakage_dino", FIDELITY, LEAKAGE}


@pytest.fixture
def measured(flags, models, eyes):
    """Flags of a run whose validation pictures are measured."""
    drawn = {"validation_prompt": "a sks dog", "num_validation_images": 1, "validation_steps": 2, "report_to": "none"}
    return flags | drawn | {"dino_model": eyes / "dino", "sam": models / "sam", "class_prompt": "a dog"}


def test_run_is_measured_from_its_start_and_trains_the_same(measured, capsys):
    assert train(measured, "--use_lora") == 0
    looks = {step: values for step, values in read_metrics(Path("output")).items() if LEAKAGE in values}
    assert list(looks) == [0, 2, 4] and all(values.keys() >= MEASURES for values in looks.values())
    assert looks[0][FIDELITY] == looks[0][LEAKAGE] == 0 and looks[4]["leakage_dino"] != looks[0]["leakage_dino"]
    printed = capsys.readouterr().out
    assert f"measured: subject {looks[4][FIDELITY]:.0%}, leaked background {looks[4][LEAKAGE]:.0%} (0%" in printed
    plain = {name: value for name, value in measured.items() if name not in ("dino_model", "sam")}
    assert train(plain, "--use_lora", output_dir="plain") == 0
    losses = [
        [values["loss"] for values in read_metrics(Path(run)).values() if "loss" in values]
        for run in ("output", "plain")
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 4
    assert not Path("plain/validation/step-000000-0.png").exists()


def test_mistakes_are_refused_before_the_first_step(measured, capsys):
    for changes, switches, reason in (
        ({"dino_model": "nowhere"}, (), "--dino_model nowhere: "),
        ({"sam": "nowhere"}, (), "nowhere"),
        ({"validation_prompt": None}, (), "add --validation_prompt"),
        ({"instance_mask_dir": None}, ("--no_masked_loss",), "drop it or --no_masked_loss"),
        ({"instance_prompt": "a dog"}, ("--choose_checkpoint",), "the identifier and the class"),
        ({}, ("--choose_checkpoint",), "nothing to choose from"),
    ):
        assert train(measured | changes, *switches) == 2
        assert reason in capsys.readouterr().err and not Path("output/validation").exists()


def test_best_checkpoint_is_named_everywhere(measured, capsys, eyes):
    flags = measured | {"checkpointing_steps": 2, "max_train_steps": 3, "clip_model": eyes / "clip"}
    assert train(flags, "--use_lora", "--choose_checkpoint") == 0
    chosen = json.loads(Path("output/checkpoint-report/metrics.json").read_text())["checkpoints"]
    best = {"step-2": Path("output/checkpoint-2"), "result": Path("output")}[chosen["best"]]
    printed = capsys.readouterr().out.splitlines()
    assert printed[-4:-1] == [
        chosen["reason"],
        "look at it: output/checkpoint-report/report.html",
        f"the best checkpoint: {best}",
    ]
    assert printed[-1].startswith(f"try it: persam-dreambooth generate --model {best} ")
    assert chosen["reason"] in Path("output/README.md").read_text()


@pytest.mark.usefixtures("process_state")
def test_warning_reaches_screen_and_file_once(measured, monkeypatch, caplog):
    monkeypatch.setattr(likeness, "LEAKING", -10.0)
    assert train(measured, "--use_lora", checkpointing_steps=2) == 0
    ((step, words),) = read_warnings(Path("output"))
    assert step == 0 and words.startswith(likeness.LEAKS) and caplog.text.count(words) == 1
    again = {"resume_from_checkpoint": "checkpoint-4", "max_train_steps": 6}
    assert train(measured | again, "--use_lora", checkpointing_steps=2) == 0
    assert read_warnings(Path("output")) == [(0, words)] and caplog.text.count(words) == 1


@pytest.mark.usefixtures("process_state")
def test_memory_that_is_full_ends_the_measures_and_not_the_training(measured, monkeypatch, caplog, capsys):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    settings = measured | {"use_lora": True, "max_train_steps": 2, "validation_steps": 1, "checkpointing_steps": 1}
    callbacks = pd.TrainingCallbacks(on_checkpoint=lambda _: monkeypatch.setattr(Likeness, "_load_encoder", full))
    assert pd.train(pd.TrainingConfig(**settings), callbacks=callbacks).steps == 2
    assert caplog.text.count("no longer measured: CUDA out of memory") == 1
    looks = [step for step, values in read_metrics(Path("output")).items() if LEAKAGE in values]
    assert looks == [0] and Path("output/pytorch_lora_weights.safetensors").exists()
    for changed in ({"num_validation_images": 2}, {"validation_prompt": "a dog"}, {"dino_model": "dino"}):
        again = {"resume_from_checkpoint": "latest", "max_train_steps": 3}
        assert train(measured | changed | again, "--use_lora", checkpointing_steps=1) == 2
        assert f"the run had {next(iter(changed))} " in capsys.readouterr().err


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    """An album of photos taken before one sofa, and the meter that compares with them."""
    taken = albums(1, photos=3)[0]
    photos, masks = save_album(taken, tmp_path_factory.mktemp("album"))
    pairs = [Masked(photo, masks / photo.name) for photo in files.find_photos(photos)]
    return taken, Likeness("clip", str(CLIP), str(SAM), pairs, torch.device("cpu"))


def draw_in(folder, identity, scenes):
    """Draw an individual in scenes, as validation pictures."""
    rng, paths = np.random.default_rng(3), []
    for number, scene in enumerate(scenes):
        recipe = Recipe(scene, ((identity, random_placement(rng, mirrored=0.0)),), seed=number)
        paths.append(folder / f"{number}.png")
        files.write_picture(draw(recipe, 64).image, paths[-1])
    return paths


@pytest.mark.parametrize("leaks", [True, False])
def test_only_pictures_with_the_background_of_the_photos_are_warned_of(album, leaks, tmp_path):
    taken, meter = album
    scenes = taken.other_scenes[:3]
    before = draw_in(tmp_path / "before", replace(taken.identity, main="white", second="blue"), scenes)
    after = draw_in(tmp_path / "after", taken.identity, [taken.scene] * 3 if leaks else scenes[::-1])
    metrics = MetricsFile(tmp_path, 0)
    for step, pictures in ((0, before), (50, after), (100, after)):
        assert likeness.leakage_warning(tmp_path, 0.0) is None  # one measurement may be noise
        assert not meter.has_measured(tmp_path, step)
        metrics.add(step, meter.measure(pictures, tmp_path))
        assert meter.has_measured(tmp_path, step)
    looks = read_metrics(tmp_path)
    assert looks[0][LEAKAGE] == 0 and looks[100][FIDELITY] > 0.3
    warning = likeness.leakage_warning(tmp_path, 0.0)
    assert (warning is not None) == leaks == (looks[100][LEAKAGE] > likeness.LEAKING)
    if warning:
        assert "--background_prior_weight 1," in warning
        assert "a --background_prior_weight above 0.5," in likeness.leakage_warning(tmp_path, 0.5)
        metrics.add(100, {WARNING: warning})
        assert likeness.leakage_warning(tmp_path, 0.0) is None and read_metrics(tmp_path) == looks


def test_measures_are_those_of_evaluate(album, tmp_path, monkeypatch):
    """And are taken without touching other processes' GPUs."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    taken, meter = album
    pictures = draw_in(tmp_path / "pictures", taken.identity, taken.other_scenes[:2])
    clip = Clip.from_pretrained(CLIP, "cpu")
    references = tuple(ReferenceFiles(pair.picture, mask=pair.mask) for pair in meter.photos)
    job = SegmentationJob(tmp_path / "pictures", references, tmp_path / "found", str(SAM), device="cpu", batch_size=1)
    prompt = Prompt("a sks dog", "a dog", None)
    drawn = find_subject(job, [prompt], {(prompt.text, seed): path for seed, path in enumerate(pictures)})
    scenes = Scenes(clip, [], [], "a photo {}")
    of_evaluate = PictureMeter(clip, {"clip": CachedFeatures(clip, TensorCache(None))}, meter.photos, scenes)
    rows = [row.values for row in of_evaluate.measure(drawn, "")]
    own = meter.measure(pictures, tmp_path)
    for name in ("clip_i_inside", "leakage_clip"):
        assert own[name] == pytest.approx(fmean(row[name] for row in rows), abs=1e-5)


@pytest.mark.parametrize(
    ("looks", "step"),
    [
        ([(0, 0.0, 0.0), (50, 0.6, 0.0), (100, 0.8, 0.1), (150, 0.83, 0.2), (200, 0.8, 0.4)], 100),
        ([(0, 0.0, 0.0), (50, 0.4, 0.0), (100, 0.5, 0.1), (150, 0.6, 0.2), (200, 0.7, 0.4)], None),  # still learning
        ([(0, 0.0, 0.0), (50, 0.6, 0.1), (100, 0.8, 0.1), (150, 0.8, 0.1), (200, 0.8, 0.1)], None),  # nothing leaks
        ([(0, 0.0, 0.0), (50, 0.0, 0.1), (100, 0.0, 0.2)], None),  # nothing is learned
        ([], None),
    ],
)
def test_long_enough_is_the_start_of_the_plateau_if_leakage_grows(looks, step, tmp_path):
    metrics = MetricsFile(tmp_path, 0)
    for number, fidelity, leakage in looks:
        metrics.add(number, {"loss": 1.0})
        metrics.add(number, {FIDELITY: fidelity, LEAKAGE: leakage})
    words = likeness.long_enough(tmp_path)
    assert (words is None) == (step is None) and (words is None or f"after step {step}:" in words)
    assert summary.ends(tmp_path, 4, 1.0)[1:] == ([words] if words else [])
