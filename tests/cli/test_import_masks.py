"""`import` as a command: what it prints, and that training accepts the result."""

import numpy as np
import pytest
from accelerate import PartialState
from PIL import Image

from persam_dreambooth.photos import files
from tests.scene import scene
from tests.training.small import configure, photos_of


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


def test_grey_pixels_are_counted_in_output(tmp_path, command):
    files.write_picture(Image.new("RGB", (4, 1)), tmp_path / "theirs" / "images" / "dog.png")
    files.write_picture(Image.new("L", (4, 1), 130), tmp_path / "theirs" / "masks" / "dog.png")
    arguments = ("--input", tmp_path / "theirs", "--output", tmp_path / "back")
    _, printed, _ = command("import", "--from", "kohya", *arguments)
    assert "4 pixels neither black nor white: dog.png" in printed


def test_from_can_be_set_in_config(tmp_path, command):
    (tmp_path / "flags.yaml").write_text("from: kohya\noutput: o\n")
    code, _, errors = command("import", "--config", tmp_path / "flags.yaml")
    assert code == 2
    assert "--input is missing" in errors
