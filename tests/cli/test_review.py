"""`review` refuses at its start what it would only need at the first click."""

import json

import pytest
from PIL import Image

from persam_dreambooth.cli import main

pytest.importorskip("gradio")


@pytest.mark.parametrize(
    ("sam", "words"),
    [
        ("nope", "no SAM at 'nope'"),
        ("nope.pth", "no SAM checkpoint at nope.pth"),
        ("clip", 'clip is not a SAM: its config.json has the model_type "clip"'),
    ],
)
def test_sam_that_is_not_there_is_refused_before_the_page_is_served(sam, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "photos/a.png")
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip/config.json").write_text(json.dumps({"model_type": "clip"}))
    assert main(["review", "--images", "photos", "--sam", sam, "--port", "0"]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
