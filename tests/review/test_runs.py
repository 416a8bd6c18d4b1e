"""The page's view of a real finished run, and pictures generated with it."""

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from albums import albums, save_album
from models import DIFFUSION
from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from persam_dreambooth.review import runs
from tests.review.test_page import shoot
from tests.training.runs import train

PROMPT = "a sks dog in the snow"
HOSTILE = '<script>alert(1)</script> "a" & <b>b</b>'
STEPS = 6


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short LoRA run with curves and validation pictures."""
    folder = tmp_path_factory.mktemp("run")
    photos, masks = save_album(albums(1, photos=2)[0], folder)
    flags = {
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
        "validation_steps": 2,
        "num_validation_images": 2,
    }
    assert train(flags, "--use_lora") == 0
    return folder / "model"


def test_losses_match_log(run):
    (events,) = (path for path in run.rglob("events.out.tfevents.*") if path.parent.name == "dreambooth")
    logged = {event.step: event.value for event in EventAccumulator(str(events)).Reload().Scalars("loss")}
    assert runs.losses(run) == sorted(logged.items())
    assert [step for step, _ in runs.losses(run)] == list(range(1, STEPS + 1))


def test_validation_pictures_are_ordered_by_step(run):
    steps = runs.validation_pictures(run)
    assert list(steps) == [2, 4, 6]
    assert [path.name for path in steps[4]] == ["step-000004-0.png", "step-000004-1.png"]


def test_empty_folder_shows_nothing(tmp_path):
    assert runs.losses(tmp_path) == []
    assert runs.validation_pictures(tmp_path) == {} == runs.generated_pictures(tmp_path)


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


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        (("  ", 1, 0), "no prompt"),
        (("a dog", 0, 0), "1 to 16 pictures"),
        (("a dog", 99, 0), "1 to 16 pictures"),
        (("a dog", 1, 2**63), "must lie in"),
    ],
)
def test_invalid_request_is_refused(run, order, reason):
    with pytest.raises(UserError, match=reason):
        runs.Generator("cpu").start(run, *order, num_inference_steps=1)


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
    tab.wait_for_selector("#loss svg, #loss canvas")
    tab.wait_for_function("document.querySelectorAll('#run-pictures .steps img').length === 6")
    assert [title.inner_text() for title in tab.query_selector_all("#run-pictures .steps h4")] == [
        "Step 2",
        "Step 4",
        "Step 6",
    ]
    assert tab.input_value("#run-prompt textarea") == PROMPT
    assert PROMPT in tab.inner_text("#run-pictures")
    assert f"{HOSTILE} · seed {HOSTILE}" in tab.inner_text("#run-pictures")
    tab.fill("#run-steps input", "6")
    tab.get_by_role("button", name="Generate").click()
    tab.wait_for_function("document.querySelector('#run-said').textContent.includes('4 pictures generated')")
    tab.wait_for_function(
        "[...document.querySelectorAll('#run-pictures figcaption')]"
        ".filter(caption => caption.textContent.startsWith('a sks')).length === 4"
    )
    captions = [element.inner_text() for element in tab.query_selector_all("#run-pictures figcaption")]
    assert [f"{PROMPT} · seed {seed}" for seed in range(4)] == [text for text in captions if text.startswith("a sks")]
    tab.wait_for_function(
        "[...document.querySelectorAll('#run-pictures img')].every(image => image.naturalWidth === 64)"
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
