"""The page's view of a real run, finished or training, two runs side by side, and pictures generated with one."""

import shutil
import sys
import threading
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from albums import albums, save_album
from models import DIFFUSION
from persam_dreambooth.errors import UserError
from persam_dreambooth.metrics_file import WARNING, MetricsFile
from persam_dreambooth.photos import files
from persam_dreambooth.review import runs
from persam_dreambooth.training.config import TrainingConfig
from persam_dreambooth.training.loop import TrainingCallbacks
from persam_dreambooth.training.main import train as train_here
from persam_dreambooth.training.runtime.likeness import FIDELITY, LEAKAGE
from tests.review.test_page import shoot
from tests.training.runs import train

PROMPT = "a sks dog in the snow"
OTHER_PROMPT = "a <i>sks</i> dog in the jungle"
HOSTILE = '<script>alert(1)</script> "a" & <b>b</b>'
STEPS = 6


def flags_in(folder):
    """Flags of a short LoRA run with curves and validation pictures of two prompts."""
    photos, masks = save_album(albums(1, photos=2)[0], folder)
    (folder / "prompts.txt").write_text(f"{OTHER_PROMPT}\n")
    return {
        "pretrained_model_name_or_path": DIFFUSION,
        "instance_data_dir": photos,
        "instance_mask_dir": masks,
        "instance_prompt": "a sks dog",
        "output_dir": folder / "model",
        "resolution": 64,
        "train_batch_size": 1,
        "max_train_steps": STEPS,
        "lr_warmup_steps": 0,
        "seed": 0,
        "report_to": "tensorboard",
        "validation_prompt": PROMPT,
        "validation_prompts_file": folder / "prompts.txt",
        "validation_steps": 2,
        "num_validation_images": 2,
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    assert train(flags_in(folder), "--use_lora") == 0
    return folder / "model"


def test_losses_match_log(run, tmp_path):
    (events,) = (path for path in run.rglob("events.out.tfevents.*") if path.parent.name == "dreambooth")
    logged = {event.step: event.value for event in EventAccumulator(str(events)).Reload().Scalars("loss")}
    assert runs.losses(run) == [(step, pytest.approx(loss, rel=1e-6)) for step, loss in sorted(logged.items())]
    assert [step for step, _ in runs.losses(run)] == list(range(1, STEPS + 1))
    shutil.copytree(run / "logs", tmp_path / "logs")  # a run of an earlier version
    assert runs.losses(tmp_path) == sorted(logged.items())


def test_loss_is_read_without_tensorboard(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.backend.event_processing.event_accumulator", None)
    assert len(runs.losses(run)) == STEPS
    shutil.copytree(run / "logs", tmp_path / "logs")
    with pytest.raises(UserError, match="needs tensorboard"):
        runs.losses(tmp_path)


def test_curve_is_mean_of_last_50_steps_thinned(monkeypatch):
    points = [(step, float(step)) for step in range(1, 1201)]
    shown = runs.smoothed(points)
    assert len(shown) == 400 and shown[-1] == (1200, 1175.5)
    assert shown[0] == (3, 2.0)
    assert runs.smoothed(points[:2]) == [(1, 1.0), (2, 1.5)] and runs.smoothed([]) == []


def test_validation_pictures_have_step_prompt_and_seed(run, tmp_path):
    shown = runs.validation_pictures(run)
    by_step = [(step, prompt, seed) for step in (2, 4, 6) for prompt in (PROMPT, OTHER_PROMPT) for seed in "01"]
    assert [(picture.step, picture.prompt, picture.seed) for picture in shown] == by_step
    (tmp_path / "validation").mkdir()  # without text entries, as another program leaves them
    Image.new("RGB", (8, 8)).save(tmp_path / "validation" / "step-000010-3.png")
    (tmp_path / "training_config.yaml").write_text("validation_prompt: a cat")
    (picture,) = runs.validation_pictures(tmp_path)
    assert (picture.step, picture.prompt, picture.seed) == (10, "a cat", "3")


def test_state_changes_with_steps_pictures_and_end(tmp_path):
    states = [runs.state(tmp_path)]

    def changed():
        states.append(runs.state(tmp_path))
        return states[-1] != states[-2]

    assert not changed()
    MetricsFile(tmp_path, 0).add(1, {"loss": 1.0})
    assert changed()
    (tmp_path / "validation").mkdir()
    assert changed()
    files.write_picture(Image.new("RGB", (8, 8)), tmp_path / "validation" / "step-000001-0.png")
    assert changed()
    (tmp_path / ".training.lock").touch()
    assert changed() and "running" in runs.progress_words(tmp_path, [(1, 1.0)])
    assert not changed()


def test_only_differing_settings_are_listed(run, tmp_path):
    (tmp_path / "training_config.yaml").write_text(
        (run / "training_config.yaml")
        .read_text()
        .replace("max_train_steps: 6", "max_train_steps: 7")
        .replace("class_prompt: null", "class_prompt: a dog")
        .replace("masked_loss: true", "masked_loss: false")
    )
    differing = {"max_train_steps": ("6", "7"), "class_prompt": ("unset", "a dog"), "masked_loss": ("on", "off")}
    assert runs.differing_settings(run, tmp_path) == differing
    assert runs.differing_settings(run, run) == {}


def test_empty_folder_says_what_to_do(tmp_path):
    assert runs.progress_words(tmp_path, []) == f"no step yet; train with --output_dir {tmp_path}"


def test_empty_folder_shows_nothing(tmp_path):
    assert runs.losses(tmp_path) == []
    assert runs.validation_pictures(tmp_path) == [] and runs.generated_pictures(tmp_path) == {}


def test_generated_pictures_carry_their_prompt_and_seed(tmp_path):
    for number, folder in enumerate(("old", "new")):
        words = PngInfo()
        words.add_itxt("prompt", f"a dög {number}")
        words.add_itxt("seed", str(40 + number))
        (tmp_path / "grids" / folder).mkdir(parents=True)
        for name in ("a.png", "grid.png"):
            Image.new("RGB", (8, 8)).save(
                tmp_path / "grids" / folder / name, pnginfo=words if name == "a.png" else None
            )
        (tmp_path / "grids" / folder / "broken.png").write_bytes(b"\x89PNG nothing")
    found = runs.generated_pictures(tmp_path)
    assert {folder.name for folder in found} == {"old", "new"}
    (drawn,) = found[tmp_path / "grids" / "new"]
    assert (drawn.path.name, drawn.prompt, drawn.seed) == ("a.png", "a dög 1", "41")


def test_page_shows_run_and_generates_with_it(run, serve, open_tab):
    photos = run.parent / "photos"
    words = PngInfo()
    words.add_itxt("prompt", HOSTILE)
    words.add_itxt("seed", HOSTILE)
    (run / "before").mkdir()
    for name in ("x.png", "grid.png"):
        Image.new("RGB", (64, 64)).save(run / "before" / name, pnginfo=words)
    tab = open_tab(serve("--images", photos, "--run", run))
    tab.get_by_role("tab", name="Training runs").click()
    tab.wait_for_selector("#loss svg")
    tab.wait_for_function("document.querySelectorAll('#run-pictures td img').length === 12")
    assert [title.inner_text() for title in tab.query_selector_all("#run-pictures h4")] == [PROMPT, OTHER_PROMPT]
    assert [head.inner_text() for head in tab.query_selector_all("#run-pictures section:first-child th")] == [
        *("", "step 6", "step 4", "step 2"),
        *("seed 0", "seed 1"),
    ]
    assert f"step 6 of 6, mean loss {fmean(loss for _, loss in runs.losses(run)):.4f}, not running" in tab.inner_text(
        "#run-progress"
    )
    assert tab.input_value("#run-prompt textarea") == PROMPT
    assert f"{HOSTILE} · seed {HOSTILE}" in tab.inner_text("#run-generated")
    tab.fill("#run-steps input", "6")
    tab.get_by_role("button", name="Generate").click()
    tab.wait_for_function("document.querySelector('#run-said').textContent.includes('4 images generated')")
    tab.wait_for_function(
        "[...document.querySelectorAll('#run-generated figcaption')]"
        ".filter(caption => caption.textContent.startsWith('a sks')).length === 4"
    )
    captions = [element.inner_text() for element in tab.query_selector_all("#run-generated figcaption")]
    assert [f"{PROMPT} · seed {seed}" for seed in range(4)] == [text for text in captions if text.startswith("a sks")]
    tab.wait_for_function(
        "[...document.querySelectorAll('#run-pictures img, #run-generated img')]"
        ".every(image => image.naturalWidth === 64)"
    )
    shoot(tab, "review-run")
    grid = runs.generated_pictures(run)[run / "generated" / "001"]
    assert [(picture.prompt, picture.seed) for picture in grid] == [(PROMPT, str(seed)) for seed in range(4)]
    levels = [np.asarray(files.read_photo(picture.path)) for picture in grid]
    assert all((levels[0] != other).any() for other in levels[1:])
    tab.fill("#run-prompt textarea", " ")
    tab.get_by_role("button", name="Generate").click()
    tab.wait_for_selector("#run-said .refused")
    assert "no prompt" in tab.inner_text("#run-said")


def test_page_follows_a_run_and_compares_it_with_another(run, serve, open_tab, tmp_path):
    """The run trains in this process, one step for each look at the page, and no tab is reloaded."""
    flags_in_run = flags_in(run.parent)
    flags = {name: str(value) if isinstance(value, Path) else value for name, value in flags_in_run.items()}
    flags |= {"output_dir": str(tmp_path / "faster")}
    flags |= {"use_lora": True, "report_to": "none", "learning_rate": 2e-2, "num_validation_images": 1}
    may_step, stepped = threading.Semaphore(0), threading.Semaphore(0)
    live = Path(flags["output_dir"])

    def wait(*_):
        stepped.release()
        assert may_step.acquire(timeout=60)

    going = threading.Thread(
        target=train_here, args=(TrainingConfig(**flags),), kwargs={"callbacks": TrainingCallbacks(on_step=wait)}
    )
    going.start()
    try:
        assert stepped.acquire(timeout=60)
        tab = open_tab(serve("--images", run.parent / "photos", "--run", live, run))
        tab.get_by_role("tab", name="Training runs").click()
        tab.wait_for_selector("#loss svg")
        progress = "words => document.querySelector('#run-progress').textContent.includes(words)"
        tab.wait_for_function(progress, arg="step 1 of 6")
        assert tab.query_selector_all("#run-pictures img") == []
        tab.evaluate("window.same = true")  # gone after a reload
        for step, pictures in ((2, 0), (3, 2), (4, 2), (5, 4)):  # drawn after the step's callback
            may_step.release()
            assert stepped.acquire(timeout=60)
            tab.wait_for_function(progress, arg=f"step {step} of 6, mean loss {mean_loss(live):.4f}, running")
            tab.wait_for_function(f"document.querySelectorAll('#run-pictures td img').length === {pictures}")
        may_step.release()
        assert stepped.acquire(timeout=60)
    finally:
        may_step.release(10)
        going.join(60)
    tab.wait_for_function(progress, arg="step 6 of 6")
    tab.wait_for_function(progress, arg="not running")
    tab.wait_for_function("document.querySelectorAll('#run-pictures td img').length === 6")
    choose_other(tab, "model")
    tab.wait_for_function("document.querySelectorAll('#run-pictures td img').length === 18")
    heads = [
        head.inner_text().replace("\n", " ") for head in tab.query_selector_all("#run-pictures section:first-child th")
    ]
    assert heads == ["", "step 6", "step 4", "step 2", "faster seed 0", "model seed 0", "model seed 1"]
    differing = tab.inner_text("#run-progress .differences")
    assert "--learning_rate\t0.02\t0.0005" in differing and "--instance_data_dir" not in differing
    names = [name.inner_text() for name in tab.query_selector_all("#loss .name")]
    assert names == ["faster", "model"] and len(tab.query_selector_all("#loss polyline")) == 2
    assert tab.evaluate("window.same")
    tab.wait_for_function("[...document.querySelectorAll('#run-pictures img')].every(image => image.complete)")
    shoot(tab, "review-compare")
    assert tab.query_selector_all("#scores svg") == []
    report = {"reason": "step-4 is the best of 2 <b>", "scores": [SCORE | {"step": 2}, SCORE | {"step": 4}]}
    files.write_json({"checkpoints": report}, live / "checkpoint-report" / "metrics.json")
    tab.wait_for_function("document.querySelectorAll('#scores polyline').length === 2")
    assert "faster: step-4 is the best of 2 <b>" in tab.inner_text("#scores")
    assert [name.inner_text() for name in tab.query_selector_all("#scores .name")] == [
        "faster: subject",
        "faster: background leaked",
    ]
    metrics = MetricsFile(live, STEPS)
    for step in (0, 4):
        metrics.add(step, {FIDELITY: 0.2 * step, LEAKAGE: 0.1 * step})
    metrics.add(4, {WARNING: "it leaks <b>"})
    tab.wait_for_function("document.querySelectorAll('#measures circle').length === 4")
    tab.wait_for_function(progress, arg="step 4: it leaks <b>")


SCORE = {"fidelity": 0.8, "background": 0.1, "class_leakage": None}


def mean_loss(run):
    return fmean(loss for _, loss in runs.losses(run))


def choose_other(tab, name):
    tab.click("#run-other input")
    tab.get_by_role("option", name=name).click()
