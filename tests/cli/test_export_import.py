"""`export` and `import` as commands: output, exit codes, and that training accepts the result."""

import subprocess
import sys

import numpy as np
import pytest
from accelerate import PartialState
from PIL import Image

from persam_dreambooth.cli import main
from persam_dreambooth.formats import CONVENTIONS
from persam_dreambooth.photos import files
from persam_dreambooth.photos.manifest import MANIFEST_NAME, ManifestEntry, write_manifest
from tests.formats.albums import NAMES, masks_in, write_album
from tests.kills import tree
from tests.scene import scene
from tests.training.small import configure, photos_of


@pytest.fixture
def album(tmp_path):
    write_album(tmp_path / "album")
    return tmp_path / "album"


@pytest.fixture
def command(capsys):
    """Run a command; return its exit code, output and errors."""

    def run(*argv):
        code = main([str(word) for word in argv])
        output = capsys.readouterr()
        return code, output.out, output.err

    return run


@pytest.mark.parametrize("trainer", CONVENTIONS)
def test_snippet_is_printed_and_round_trip_is_lossless(trainer, album, tmp_path, command):
    exported, imported = tmp_path / "exported", tmp_path / "imported"
    given = ("--images", album / "photos", "--masks", album / "masks", "--instance_prompt", "a sks dog")
    code, printed, errors = command("export", "--to", trainer, *given, "--output", exported)
    assert (code, errors) == (0, "")
    assert f"{len(NAMES)} photos" in printed and str(exported) in printed
    config = CONVENTIONS[trainer].config
    assert not config or (exported / config).read_text(encoding="utf-8").strip() in printed
    code, printed, errors = command("import", "--from", trainer, "--input", exported, "--output", imported)
    assert (code, errors) == (0, "")
    assert f"{len(NAMES)} photos" in printed
    assert "empty masks" in printed and "Hündin am See" in printed
    expected = masks_in(album / "masks")
    assert all(np.array_equal(mask, expected[stem]) for stem, mask in masks_in(imported / "masks").items())


def test_training_accepts_flags_printed_by_import(tmp_path, command):
    pixels, disc = scene(40, 60)
    files.write_picture(Image.fromarray(pixels), tmp_path / "photos" / "dog.png")
    (tmp_path / "photos" / "dog.txt").write_text("a sks dog on grass")
    files.write_mask(disc, tmp_path / "masks" / "dog.png")
    given = ("--images", tmp_path / "photos", "--masks", tmp_path / "masks")
    command("export", "--to", "coco", *given, "--output", tmp_path / "there")
    _, printed, _ = command("import", "--from", "coco", "--input", tmp_path / "there", "--output", tmp_path / "back")
    words = printed.splitlines()[-1].split()
    flags = dict(zip(words[-6::2], words[-5::2], strict=True))
    PartialState()  # needed by Accelerate's logger
    config = configure(
        "model",
        data={
            "instance_data_dir": flags["--instance_data_dir"],
            "caption_extension": flags["--caption_extension"],
        },
        mask={"instance_mask_dir": flags["--instance_mask_dir"]},
        output={"output_dir": str(tmp_path / "model")},
    )
    (instance,), left_out = photos_of(config, [(64, 64)])
    assert (instance.prompt, left_out) == ("a sks dog on grass", {})
    np.testing.assert_array_equal(files.read_mask(instance.regions[0].mask), disc)
    np.testing.assert_array_equal(np.asarray(files.read_photo(instance.photo)), pixels)


@pytest.mark.parametrize(
    ("captions", "expected"), [(0, ["--instance_prompt"]), (1, ["--caption_extension", "--instance_prompt"])]
)
def test_import_asks_for_prompt_of_photos_without_caption(captions, expected, tmp_path, command):
    pixels, disc = scene(20, 30)
    for number in range(2):
        files.write_picture(Image.fromarray(pixels), tmp_path / "photos" / f"{number}.png")
        files.write_mask(disc, tmp_path / "masks" / f"{number}.png")
        if number < captions:
            (tmp_path / "photos" / f"{number}.txt").write_text("a sks dog on grass")
    given = ("--images", tmp_path / "photos", "--masks", tmp_path / "masks")
    code, printed, _ = command("import", "--from", "kohya", *given, "--output", tmp_path / "back")
    flags = [word for word in printed.splitlines()[-1].split() if word.startswith("--")]
    assert (code, flags) == (0, ["--instance_data_dir", "--instance_mask_dir", *expected])


def test_uncertain_photos_are_left_out_and_named(tmp_path, command):
    entries = []
    for number, (name, verdict) in enumerate({"dog": "found", "sofa": "not found"}.items()):
        pixels, disc = scene(20, 30, number)
        photo, mask = tmp_path / "photos" / f"{name}.png", tmp_path / "out" / "masks" / f"{name}.png"
        files.write_picture(Image.fromarray(pixels), photo)
        files.write_mask(disc, mask)
        known = {"presence": verdict, "reason": "too red", "mask_digest": files.digest(mask)}
        entries.append(ManifestEntry(f"../photos/{name}.png", files.digest(photo), **known))
    write_manifest(tmp_path / "out" / MANIFEST_NAME, entries)
    export = ("export", "--to", "kohya", "--masks", tmp_path / "out", "--output")
    code, printed, _ = command(*export, tmp_path / "a")
    assert code == 0
    assert "left out: the subject in sofa.png: not found, too red" in printed
    assert [path.name for path in (tmp_path / "a" / "images").iterdir()] == ["dog.png"]
    _, printed, _ = command(*export, tmp_path / "b", "--include_uncertain")
    assert "left out" not in printed
    assert len(list((tmp_path / "b" / "images").iterdir())) == 2
    before = tree(tmp_path)
    code, _, error = command("export", "--to", "onetrainer", "--masks", tmp_path / "out", "--in_place")
    assert code == 2
    assert "sofa.png" in error and "trains on all of a photo" in error
    assert tree(tmp_path) == before


def test_in_place_export_writes_masks_next_to_photos(album, command):
    given = ("--images", album / "photos", "--masks", album / "masks")
    code, printed, _ = command("export", "--to", "onetrainer", *given, "--in_place")
    assert code == 0
    assert "onetrainer.json" in printed
    assert len(list((album / "photos").glob("*-masklabel.png"))) == len(NAMES)


def test_grey_pixels_are_counted_in_output(tmp_path, command):
    files.write_picture(Image.new("RGB", (4, 1)), tmp_path / "theirs" / "images" / "dog.png")
    files.write_picture(Image.new("L", (4, 1), 130), tmp_path / "theirs" / "masks" / "dog.png")
    arguments = ("--input", tmp_path / "theirs", "--output", tmp_path / "back")
    _, printed, _ = command("import", "--from", "kohya", *arguments)
    assert "4 pixels neither black nor white: dog.png" in printed


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["export"], ["--to", *CONVENTIONS]),
        (["export", "--to", "onetrianer"], ["onetrianer", *CONVENTIONS]),
        (["export", "--to", "kohya"], ["--masks"]),
        (["export", "--to", "kohya", "--masks", "m"], ["--output", "--in_place"]),
        (["export", "--to", "kohya", "--masks", "m", "--output", "o", "--in_place"], ["--output", "--in_place"]),
        (["export", "--to", "kohya", "--masks", "m", "--in_place", "--instance_prompt", "p"], ["--instance_prompt"]),
        (["export", "--to", "kohya", "--masks", "absent", "--output", "o"], ["absent"]),
        (["import"], ["--from", *CONVENTIONS]),
        (["import", "--from", "sd-scripts"], ["sd-scripts", *CONVENTIONS]),
        (["import", "--from", "kohya"], ["--input"]),
        (["import", "--from", "kohya", "--input", "i"], ["--output"]),
        (["import", "--from", "kohya", "--input", "absent", "--output", "o"], ["absent"]),
    ],
)
def test_error_is_one_line_and_writes_nothing(argv, expected, tmp_path, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, printed, errors = command(*argv)
    assert (code, printed, len(errors.splitlines())) == (2, "", 1)
    assert all(word in errors for word in expected)
    assert list(tmp_path.iterdir()) == []


def test_from_can_be_set_in_config(tmp_path, command):
    (tmp_path / "flags.yaml").write_text("from: kohya\noutput: o\n")
    code, _, errors = command("import", "--config", tmp_path / "flags.yaml")
    assert code == 2
    assert "--input is missing" in errors


def test_invalid_input_ends_process_with_code_2(album, tmp_path):
    (album / "masks" / "scan.png").rename(album / "masks" / "foreign.png")
    given = ["--images", album / "photos", "--masks", album / "masks", "--output", tmp_path / "out"]
    run = [sys.executable, "-m", "persam_dreambooth.cli", "export", "--to", "kohya", *given]
    result = subprocess.run(run, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, len(result.stderr.splitlines())) == (2, "", 1)
    assert "scan.tif has no mask" in result.stderr and "foreign.png has no photo" in result.stderr
    assert not (tmp_path / "out").exists()
