"""Hostile trainer folders end in a one-line error: nothing else is read or written, and nothing blocks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from persam_dreambooth.cli import main
from persam_dreambooth.errors import printable
from persam_dreambooth.formats import CONVENTIONS
from persam_dreambooth.photos import files
from tests.formats.albums import masks_in, write_pair
from tests.kills import tree

EVERY = pytest.mark.parametrize("trainer", CONVENTIONS)
LINE = {"image": "images/dog.png", "mask": "masks/dog.png", "text": "words"}
ELSEWHERE = "../secret/dog.png"
NAMES = ["Собака", "犬 🐕", "a\nb", "\x1b[2Jred", "a\u202egpj", "a'b\"c\\d$photos", "-rf", "#x: y", "\x7f\x85"]


@pytest.fixture
def theirs(tmp_path, monkeypatch):
    """A trainer's folder with one photo and mask of 6 x 4 pixels; a copy lies in another folder that is not given."""
    monkeypatch.chdir(tmp_path)
    for folder in ("theirs", "secret"):
        for name, mode in (("images/dog.png", "RGB"), ("masks/dog.png", "L")):
            path = Path(folder, name if folder == "theirs" else f"{mode}/dog.png")
            files.write_picture(Image.new(mode, (6, 4), "white"), path)
    (tmp_path / "secret" / "dog.png").write_bytes((tmp_path / "secret" / "RGB" / "dog.png").read_bytes())
    return tmp_path / "theirs"


def refused(capsys, *argv):
    """Return the one-line error of a command, after checking that nothing was written."""
    before = tree(Path())
    assert main([str(word) for word in argv]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    assert printed.err[:-1] == printable(printed.err[:-1])
    assert tree(Path()) == before
    return printed.err


LINES = {
    "brackets": ("[" * 100_000, "nested too deeply"),
    "brackets in a value": (json.dumps(LINE)[:-1] + ', "x": ' + "[" * 100_000, "nested too deeply"),
    "a number of 6,000 digits": (f'{{"image": {"9" * 6000}}}', "4300 digits"),
    "words": ("\n\nwords", "(line 3: Expecting value: column 1"),
    "no UTF-8": ("\udcff", "data.jsonl is not a JSON Lines file (line 1: "),
    "null": ("null", "line 1: it has no 'image'"),
    "a list as name": (json.dumps(LINE | {"image": ["a"]}), "line 1: it has no 'image'"),
    "NUL": (json.dumps(LINE | {"image": "a\0b.png"}), "a\\x00b.png does not exist"),
    "NUL in the mask": (json.dumps(LINE | {"mask": "a\0b.png"}), "a\\x00b.png does not exist"),
    "half a letter": (json.dumps(LINE | {"image": "\ud800.png"}), "does not exist"),
    "half a letter as caption": (json.dumps(LINE | {"text": "\ud800"}), "the 'text' of dog.png is not text; write it"),
    "a list as caption": (json.dumps(LINE | {"text": ["a"]}), "the 'text' of dog.png is not text; write it"),
    "escapes": (json.dumps(LINE | {"image": "\x1b[2J.png"}), "\\x1b[2J.png does not exist"),
    "a name of 5,000 letters": (json.dumps(LINE | {"image": "a" * 5000}), "too long"),
    "a folder": (json.dumps(LINE | {"image": "images"}), "images does not exist"),
    "the folder itself": (json.dumps(LINE | {"image": ""}), "does not exist"),
    "twice": ("\n".join([json.dumps(LINE)] * 2), "dog.png is listed twice; remove one"),
    "a photo outside": (json.dumps(LINE | {"image": ELSEWHERE}), "lies outside theirs"),
    "a photo outside, behind a folder": (json.dumps(LINE | {"image": f"images/../{ELSEWHERE}"}), "lies outside"),
    "a mask outside": (json.dumps(LINE | {"mask": ELSEWHERE}), "lies outside theirs"),
    "an absolute path": (json.dumps(LINE | {"image": "/etc/passwd"}), "/etc/passwd lies outside"),
}


@pytest.mark.parametrize(("text", "message"), LINES.values(), ids=LINES)
def test_hostile_json_lines(text, message, theirs, capsys):
    (theirs / "data.jsonl").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert message in refused(capsys, "import", "--from", "invoke", "--input", "theirs", "--output", "out")


def coco(**changes):
    """Return a COCO file of the photo, with changes to its first image, annotation or category."""
    box = [[0, 0, 6, 0, 6, 4, 0, 4]]
    whole = {
        "images": [{"id": 1, "file_name": "dog.png", "width": 6, "height": 4}],
        "annotations": [{"id": 5, "image_id": 1, "category_id": 1, "segmentation": box}],
        "categories": [{"id": 1, "name": "dog"}],
    }
    for key, change in changes.items():
        whole[key] = change if not isinstance(change, dict) else [whole[key][0] | change]
    return json.dumps(whole)


FAR = [[1e9, 1, 4, 1, 4, 3]]
TABLES = {
    "brackets": ("[" * 100_000, "nested too deeply"),
    "a number of 6,000 digits": (f'{{"images": {"9" * 6000}}}', "4300 digits"),
    "images in an object": (coco(images=3), "not a COCO file"),
    "an image that is none": (coco(images=[3]), "image number 1 is not an object"),
    "an annotation that is none": (coco(annotations=[None]), "annotation number 1 is not an object"),
    "a category that is none": (coco(categories=["dog"]), "category number 1 is not an object"),
    "categories as a number": (coco(categories=3), "category number 1 is not an object"),
    "an image's id as a list": (coco(images={"id": [1]}), "image number 1 has no valid id"),
    "an annotation's image as a list": (coco(annotations={"image_id": [1]}), "annotation 5 has no valid image_id"),
    "a category as a list": (coco(annotations={"category_id": [1]}), "annotation 5 has no valid category_id"),
    "a category's id as an object": (coco(categories={"id": {}}), "category number 1 has no valid id"),
    "a category without a name": (coco(categories={"name": None}), "category 1 has no valid name"),
    "a photo's name as a number": (coco(images={"file_name": 3}), "image 1 has no valid file_name"),
    "an annotation of no image": (coco(annotations={"image_id": 9}), "annotation 5 belongs to image 9"),
    "two images of one id": (coco(images=[{"id": 1, "file_name": "dog.png"}] * 2), "2 images have the id 1"),
    "NUL": (coco(images={"file_name": "a\0b.png"}), "a\\x00b.png does not exist"),
    "a photo outside": (coco(images={"file_name": f"../{ELSEWHERE}"}), "lies outside"),
    "an absolute path": (coco(images={"file_name": "/etc/passwd"}), "/etc/passwd lies outside"),
    "a claimed size": (
        coco(images={"width": 10**6, "height": 10**6}),
        "dog.png is 6 x 4 pixels, its entry says 1000000",
    ),
    "a size in words": (coco(images={"width": "6"}), "dog.png is 6 x 4 pixels"),
    "a size without end": (coco(images={"width": float("inf")}), "dog.png is 6 x 4 pixels, its entry says inf"),
    "no mask": (coco(annotations={"segmentation": None}), "annotation 5, of dog.png: it has no mask"),
    "an empty mask": (coco(annotations={"segmentation": []}), "annotation 5, of dog.png: it has no polygon"),
    "an id with escapes": (
        coco(annotations={"id": "\x1b[2J", "segmentation": FAR}),
        "annotation \\x1b[2J, of dog.png",
    ),
    "a run of terabytes": (
        coco(annotations={"segmentation": {"size": [10**6, 10**6], "counts": [10**12]}}),
        "annotation 5, of dog.png: a mask of (1000000, 1000000) does not fit",
    ),
}


@pytest.mark.parametrize(("text", "message"), TABLES.values(), ids=TABLES)
def test_hostile_coco_files(text, message, theirs, capsys):
    (theirs / "instances.json").write_text(text)
    assert message in refused(capsys, "import", "--from", "coco", "--input", "theirs", "--output", "out")


def test_polygon_that_would_crash_process_is_refused(theirs):
    (theirs / "instances.json").write_text(coco(annotations={"segmentation": FAR}))
    command = [sys.executable, "-m", "persam_dreambooth.cli", "import", "--from", "coco", "--input", "theirs"]
    done = subprocess.run([*command, "--output", "out"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "annotation 5, of dog.png: a polygon's point (1e+09, 1) lies far outside" in done.stderr
    assert not Path("out").exists()


def test_files_elsewhere_are_read_if_their_folders_are_given(theirs, capsys):
    line = {"image": "../secret/RGB/dog.png", "mask": str(Path("secret/L/dog.png").absolute())}
    (theirs / "data.jsonl").write_text(json.dumps(line))
    flags = ("--images", "secret/RGB", "--masks", "secret/L", "--output", "out")
    assert main(["import", "--from", "invoke", "--input", "theirs", *flags]) == 0
    assert [path.name for path in Path("out/images").iterdir()] == ["dog.png"]


def test_unusual_line_separators_stay_in_caption(theirs):
    """`splitlines` splits at ten characters, JSON Lines at one."""
    words = "a dog\u2028on\x85grass\u2029 and\x1csand"
    (theirs / "data.jsonl").write_text(json.dumps(LINE | {"text": words}, ensure_ascii=False), encoding="utf-8")
    assert main(["import", "--from", "invoke", "--input", "theirs", "--output", "out"]) == 0
    assert Path("out/images/dog.txt").read_text(encoding="utf-8") == words + "\n"


@EVERY
@pytest.mark.parametrize("given", ["loop", "pipe", "/dev/null", "theirs/images/dog.png"])
def test_input_that_is_not_folder(given, trainer, theirs, capsys):
    Path("loop").symlink_to("loop")
    os.mkfifo("pipe")
    refused(capsys, "import", "--from", trainer, "--input", given, "--output", "out")


@EVERY
@pytest.mark.parametrize("output", ["loop", "theirs", "theirs/images/dog.png/x", "theirs/images/new"])
def test_impossible_outputs(output, trainer, theirs, capsys):
    Path("loop").symlink_to("loop")
    given = ("--images", "theirs/images", "--masks", "theirs/masks")
    refused(capsys, "export", "--to", trainer, *given, "--output", output)


@pytest.mark.parametrize("index", ["data.jsonl", "instances.json", "train/metadata.jsonl"])
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to(path.name), Path.mkdir])
def test_index_that_is_not_regular_file(make, index, theirs, capsys):
    (theirs / index).parent.mkdir(exist_ok=True)
    make(theirs / index)
    trainer = next(name for name, convention in CONVENTIONS.items() if getattr(convention.layout, "name", "") == index)
    message = refused(capsys, "import", "--from", trainer, "--input", "theirs", "--output", "out")
    assert f"has no {Path(index).name}" in message


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_unsupported_index_is_named(suffix, theirs, capsys):
    (theirs / "train").mkdir()
    (theirs / "train" / f"metadata.{suffix}").write_bytes(b"")
    message = refused(capsys, "import", "--from", "imagefolder", "--input", "theirs", "--output", "out")
    assert f"metadata.{suffix}, which is not read here" in message


@pytest.mark.parametrize("folder", ["secret/L", "secret/RGB"])
def test_output_must_be_outside_given_photos_and_masks(folder, theirs, capsys):
    given = ("--input", "theirs", "--images", "secret/RGB", "--masks", "secret/L")
    assert "not written to" in refused(capsys, "import", "--from", "kohya", *given, "--output", f"{folder}/new")


@pytest.mark.parametrize("flags", [["--instance_prompt", "\udcff"], ["--caption_extension", "txt"]])
def test_unencodable_text_is_refused(flags, theirs, capsys):
    given = ("--images", "theirs/images", "--masks", "theirs/masks", "--output", "out", *flags)
    assert flags[0] in refused(capsys, "export", "--to", "kohya", *given)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("trainer", ["onetrainer", "kohya", "coco", "imagefolder", "cutout"])
def test_any_name_survives_and_is_escaped_on_screen(name, trainer, tmp_path, capsys):
    mask = np.zeros((5, 7), bool)
    mask[1:4, 2:5] = True
    photos, masks = write_pair(tmp_path / "album", mask, f"{name}.png")
    folder = tmp_path / name
    folder.mkdir()
    given = ("--images", str(photos), "--masks", str(masks), "--output", str(folder / "there"))
    assert main(["export", "--to", trainer, *given]) == 0
    assert main(["import", "--from", trainer, "--input", str(folder / "there"), "--output", str(folder / "back")]) == 0
    ((stem, back),) = masks_in(folder / "back" / "masks").items()
    assert stem == name
    np.testing.assert_array_equal(back, mask)
    assert all(line == printable(line) for line in capsys.readouterr().out.split("\n"))
