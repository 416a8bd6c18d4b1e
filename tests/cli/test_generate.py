"""`generate` as a command: prompts from flags and files, and sizes that no model has."""

from PIL import Image

from persam_dreambooth.cli import main
from tests.test_generation import DOG, run


def test_prompts_may_come_from_file_and_each_is_used_once(models, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("a sks dog\n\n   ein Käfer  \na cat\na cat\n", encoding="utf-8")
    flags = ["--prompts_file", tmp_path / "prompts.txt", "--prompt", "a bird", "--num_images", 1]
    assert run("--model", models / "stable-diffusion", *flags, "--output", tmp_path / "out") == 0
    pictures = [path for path in sorted((tmp_path / "out").iterdir()) if path.name != "grid.png"]
    assert [Image.open(path).text["prompt"] for path in pictures] == ["a bird", "a cat", DOG, "ein Käfer"]
    assert capsys.readouterr().out.startswith("4 images")


def test_single_side_and_sizes_that_model_rejects_are_refused(models, capsys, tmp_path):
    given = [
        "generate",
        "--model",
        str(models / "stable-diffusion"),
        "--prompt",
        DOG,
        "--output",
        str(tmp_path / "out"),
        "--device",
        "cpu",
    ]
    assert main([*given, "--height", "32"]) == 2
    assert "--height and --width belong together" in capsys.readouterr().err
    assert main([*given, "--height", "33", "--width", "33"]) == 2
    assert "must be multiples of 8" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_prompts_file_that_is_not_utf_8_is_refused_in_one_line(models, capsys, tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes("ein Hund für".encode("latin-1"))
    assert run("--model", models / "stable-diffusion", "--prompts_file", path, "--output", tmp_path / "out") == 2
    assert "is not UTF-8 text" in capsys.readouterr().err
