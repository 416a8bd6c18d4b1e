"""The runs' tab: names of runs, what follows a run's files, and the answers of its form."""

from types import SimpleNamespace

import gradio as gr
import pytest
from PIL import Image

from persam_dreambooth.metrics_file import WARNING, MetricsFile
from persam_dreambooth.model_folder import CONFIG_NAME
from persam_dreambooth.photos import files
from persam_dreambooth.review.generator import Generator
from persam_dreambooth.review.runs_tab import _names, add_runs_tab
from persam_dreambooth.review.workspace import Workspace
from persam_dreambooth.training.runtime.likeness import FIDELITY


@pytest.fixture
def workspace(tmp_path):
    """Two runs that have trained."""
    files.write_picture(Image.new("RGB", (8, 8)), tmp_path / "photos" / "a.png")
    folders = tmp_path / "first", tmp_path / "second"
    for number, run in enumerate(folders, start=1):
        run.mkdir()
        (run / CONFIG_NAME).write_text(f"instance_prompt: a dog {number}\nmax_train_steps: 9\n")
        metrics = MetricsFile(run, 0)
        for step in range(3):
            metrics.add(step, {"loss": float(number), FIDELITY: 0.1 * step})
    return Workspace(tmp_path / "photos", runs=folders)


def functions_of(workspace):
    """Lay out the tab; return the functions that its events call, by name."""
    with gr.Blocks() as page:
        add_runs_tab(page, workspace, Generator("cpu"))
    return {event.fn.__name__: event.fn for event in page.fns.values()}


def test_runs_are_named_by_what_tells_them_apart(tmp_path):
    def names(*folders):
        return _names(SimpleNamespace(runs=tuple(tmp_path / folder for folder in folders)))

    assert names("a/one", "a/two") == ["one", "two"]
    assert names("a/model", "b/model", "c/other") == ["a/model", "b/model", "c/other"]
    assert len(set(names("same", "same"))) == 2


def test_without_a_run_the_tab_says_how_to_open_one(tmp_path, workspace):
    with gr.Blocks() as page:
        add_runs_tab(page, Workspace(workspace.images), Generator("cpu"))
    (block,) = (block for block in page.blocks.values() if isinstance(block, gr.HTML))
    assert "--run OUTPUT_DIR" in block.value and not page.fns


def test_one_run_is_shown_alone_and_two_are_compared(workspace):
    MetricsFile(workspace.runs[0], 2).add(2, {WARNING: "it <leaks>"})
    show = functions_of(workspace)["show"]
    progress, loss, measured, evaluated, *_, prompt = show(0, -1)
    assert "step 2 of 9, mean loss 1.0000, not running" in progress and "step 2: it &lt;leaks&gt;" in progress
    assert loss.count("<polyline") == measured.count("<polyline") == 1 and ">subject<" in measured
    assert (evaluated, prompt) == ("", "a dog 1") and "differs in" not in progress
    progress, loss, measured, *_ = show(0, 1)
    assert "mean loss 2.0000" in progress and "--instance_prompt" in progress
    assert loss.count("<polyline") == 2 and ">first: subject<" in measured and ">second: subject<" in measured


def test_nothing_is_sent_until_a_file_of_the_run_changes(workspace):
    follow = functions_of(workspace)["follow"]
    *_, state = follow(0, -1, None)
    assert [answer == gr.skip() for answer in follow(0, -1, state)] == [True] * 6
    MetricsFile(workspace.runs[0], 2).add(3, {"loss": 1.0})
    progress, *_, newer = follow(0, -1, state)
    assert "step 3 of 9" in progress and newer != state


def test_request_that_cannot_be_drawn_is_answered_in_the_form(workspace):
    draw = functions_of(workspace)["draw"]
    for order, words in (((" ", 1, 0, 1, 7.5), "no prompt"), (("a dog", None, 0, 1, 7.5), "fill in all numbers")):
        said, timer = draw(0, *order)
        assert words in said and said.startswith("<span class='refused'>") and not timer.active
