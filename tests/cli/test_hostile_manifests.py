"""Every verb refuses a hostile manifest, and nothing outside its folder changes."""

import json
import os
from pathlib import Path

import pytest

from persam_dreambooth.cli import main
from persam_dreambooth.errors import UserError
from persam_dreambooth.photos.live_manifest import LiveManifest
from persam_dreambooth.photos.manifest import MANIFEST_NAME
from toy_photos import draw

HOSTILE = {
    "an absolute mask": {"mask": "{outside}/mask.png"},
    "a mask above": {"mask": "../outside/mask.png"},
    "a way round": {"mask": "masks/../../outside/mask.png"},
    "an overlay above": {"overlay": "../outside/mask.png", "error": "gone"},
    "instances above": {"instances": "../outside/mask.png"},
    "another photo's mask": {"mask": "masks/0.png"},
    "a list as a name": {"mask": ["masks/gone.png"]},
    "half a pair": {"reason": "\ud800"},
    "a NUL": {"photo": "../photos/go\0ne.png"},
    "brackets": "[" * 100_000,
    "a long number": '{"photo": "a.png", "digest": "0", "width": ' + "9" * 6000 + "}",
}


@pytest.fixture(scope="module")
def finished(models, tmp_path_factory):
    """Two segmented photos, and a file outside that must not change."""
    folder = tmp_path_factory.mktemp("album")
    (folder / "photos").mkdir()
    for number in range(2):
        photo, mask = draw(number)
        photo.resize((48, 40)).save(folder / "photos" / f"{number}.png")
        mask.resize((48, 40)).save(folder / f"mask-{number}.png")
    (folder / "outside").mkdir()
    (folder / "outside" / "mask.png").write_bytes((folder / "mask-0.png").read_bytes())
    assert main(segment_argv(folder, models)) == 0
    return folder


def segment_argv(folder, models):
    argv = [
        "segment",
        "--images",
        folder / "photos",
        "--reference",
        folder / "photos" / "0.png",
        "--output",
        folder / "out",
    ]
    argv += ["--reference_mask", folder / "mask-0.png", "--sam", models / "sam", "--device", "cpu"]
    return [str(word) for word in argv]


def commands(folder, models):
    """Return every command that reads a manifest."""
    data = ["--instance_data_dir", folder / "photos", "--instance_mask_dir", folder / "out"]
    base = ["--pretrained_model_name_or_path", models / "stable-diffusion", "--instance_prompt", "a sks dog"]
    evaluate = ["--model", models / "stable-diffusion", "--prompts", "live", "--unique_token", "sks"]
    again = [*segment_argv(folder, models), "--again"]
    return {
        "segment": segment_argv(folder, models),
        "segment --again": again,
        "train": ["train", *base, *data, "--output_dir", folder / "model", "--report_to", "none"],
        "export": ["export", "--to", "kohya", "--masks", folder / "out", "--output", folder / "exported"],
        "evaluate": [
            "evaluate",
            "generation",
            *evaluate,
            "--class_token",
            "dog",
            *data,
            "--output",
            folder / "report",
        ],
    }


def insert_line(folder, values):
    """Insert a line into the manifest; return the original content."""
    path = folder / "out" / MANIFEST_NAME
    before = path.read_bytes()
    if isinstance(values, dict):
        values = {key: value.format(outside=folder / "outside") if key == "mask" and isinstance(value, str) else value
                  for key, value in values.items()}  # fmt: skip
        values = json.dumps({"photo": "../photos/gone.png", "digest": "00"} | values)
    path.write_bytes(values.encode() + b"\n" + before)
    return before


@pytest.mark.parametrize("verb", ["segment", "segment --again", "train", "export", "evaluate"])
@pytest.mark.parametrize("values", HOSTILE.values(), ids=HOSTILE)
def test_hostile_line_is_refused_and_nothing_changes(finished, models, values, verb, capsys):
    before = insert_line(finished, values)
    files = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    try:
        assert main([str(word) for word in commands(finished, models)[verb]]) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
        assert f"line 1 of {finished / 'out' / MANIFEST_NAME}" in line and len(line) < 500
        with pytest.raises(UserError, match="line 1 of"):
            LiveManifest(finished / "out" / MANIFEST_NAME).entries()  # as the review page reads it
        after = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file() and path in files}
        assert after == files
    finally:
        (finished / "out" / MANIFEST_NAME).write_bytes(before)


@pytest.mark.parametrize("verb", ["segment", "train", "export", "evaluate"])
def test_pipe_does_not_block(finished, models, verb, capsys):
    path = finished / "out" / MANIFEST_NAME
    kept = path.rename(finished / "kept.jsonl")
    os.mkfifo(path)
    try:
        assert main([str(word) for word in commands(finished, models)[verb]]) == 2
        assert "is a named pipe" in capsys.readouterr().err
    finally:
        Path(path).unlink()
        kept.rename(path)
