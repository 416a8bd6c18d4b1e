"""HTML of the runs' tab: tables of validation pictures, generated ones, and settings; text from files is escaped."""

import re

import pytest
from PIL import Image

from persam_dreambooth.model_folder import CONFIG_NAME
from persam_dreambooth.photos import files
from persam_dreambooth.review import gallery
from persam_dreambooth.review.workspace import Workspace

HOSTILE = "<b>a & 'dog'</b>"


@pytest.fixture
def workspace(tmp_path):
    """Two runs; the first has pictures of two prompts, two steps and two seeds, the second fewer of one."""
    files.write_picture(Image.new("RGB", (8, 8)), tmp_path / "photos" / "a.png")
    first, second = tmp_path / "first", tmp_path / "second"
    for number, prompt in enumerate((HOSTILE, "a cat")):
        for step in (2, 10):
            for seed in (0, 1):
                save(first, f"step-{step:06d}-{number}-{seed}.png", prompt, seed)
    save(second, "step-000010-0-1.png", HOSTILE, 1)
    return Workspace(tmp_path / "photos", runs=(first, second))


def save(run, name, prompt, seed, folder="validation"):
    words = {"prompt": prompt, "seed": str(seed)}
    files.write_picture(Image.new("RGB", (8, 8)), run / folder / name, words)


def cells(html):
    """Return the rows of each table: head and cells without tags, pictures as their file names."""
    rows = re.findall("<tr>(.*?)</tr>", html)
    html_cells = [re.findall("<t[hd]>(.*?)</t[hd]>", row) for row in rows]
    return [[re.sub("<img.*?/([^/]*)[?].*?>", r"\1", cell) for cell in row] for row in html_cells]


def test_table_has_a_column_per_step_and_a_row_per_seed(workspace):
    html = gallery.validation_gallery(workspace, [("first", workspace.runs[0])])
    assert re.findall("<h4>(.*?)</h4>", html) == ["&lt;b&gt;a &amp; &#x27;dog&#x27;&lt;/b&gt;", "a cat"]
    assert cells(html)[:3] == [
        ["", "step 10", "step 2"],
        ["seed 0", "step-000010-0-0.png", "step-000002-0-0.png"],
        ["seed 1", "step-000010-0-1.png", "step-000002-0-1.png"],
    ]
    assert "<b>" not in html


def test_rows_of_one_seed_of_two_runs_stand_together(workspace):
    html = gallery.validation_gallery(workspace, list(zip(("one", "<two>"), workspace.runs, strict=True)))
    assert [row[0] for row in cells(html)[:4]] == [
        "",
        "<b>one</b><br>seed 0",
        "<b>one</b><br>seed 1",
        "<b>&lt;two&gt;</b><br>seed 1",
    ]
    assert cells(html)[3][1:] == ["step-000010-0-1.png", ""]  # this run has none of the other step


def test_address_of_a_picture_changes_with_its_file(workspace):
    run = workspace.runs[1]
    (before,) = re.findall("src='(.*?)'", gallery.validation_gallery(workspace, [("second", run)]))
    assert before.startswith("picture/run1/validation/step-000010-0-1.png?side=512&amp;v=")
    files.write_picture(Image.new("RGB", (9, 9)), run / "validation" / "step-000010-0-1.png")
    (after,) = re.findall("src='(.*?)'", gallery.validation_gallery(workspace, [("second", run)]))
    assert after != before


def test_generated_pictures_have_their_prompt_and_seed(workspace):
    run = workspace.runs[0]
    assert "Generated" not in gallery.generated_gallery(workspace, workspace.runs[1])
    save(run, "a.png", HOSTILE, 7, "generated/001")
    html = gallery.generated_gallery(workspace, run)
    assert "Generated: generated/001</h4>" in html and "/generated/001/a.png" in html
    assert "&lt;/b&gt; · seed 7</figcaption>" in html and "<b>" not in html


def test_only_settings_that_differ_are_shown(workspace):
    first, second = workspace.runs
    same = "Both runs have the same settings"
    for run, words in ((first, "red <i>"), (second, "blue")):
        (run / CONFIG_NAME).write_text(f"instance_prompt: {words}\nmax_train_steps: 7\n")
    html = gallery.differences(("one", "<two>"), first, second)
    assert cells(html) == [
        ["differs in", "one", "&lt;two&gt;"],
        ["--instance_prompt", "red &lt;i&gt;", "blue"],
    ]
    assert same in gallery.differences(("one", "two"), first, first) and same not in html


def test_run_without_pictures_says_what_to_do(tmp_path, workspace):
    run = tmp_path / "new"
    run.mkdir()
    shown = [gallery.validation_gallery(workspace, [("a", run)])]
    for words in ("validation_prompt: a dog", "final_validation_prompt: a dog"):
        (run / CONFIG_NAME).write_text(words)
        shown.append(gallery.validation_gallery(workspace, [("a", run)]))
    parts = ("train with --validation_prompt", "they appear here without a reload", "after its last step")
    assert [[part in html for part in parts] for html in shown] == [
        [True, False, False],
        [False, True, False],
        [False, False, True],
    ]
