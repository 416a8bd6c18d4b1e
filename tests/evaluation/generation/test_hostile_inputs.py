"""`generate` and `evaluate generation` refuse invalid prompts and models in one line with exit code 2."""

import os
import shutil
from pathlib import Path

import pytest

from persam_dreambooth import model_folder
from persam_dreambooth.cli import main
from persam_dreambooth.text_files import MAX_BYTES
from tests.evaluation.generation.conftest import argv

DEEP = b"[" * 100_000
COMMANDS = ("generate", "evaluate")


@pytest.fixture
def refused(options, generators, tmp_path, capsys):
    """Run a command with some flags changed and return its one-line message."""

    def run(command, **changed):
        output = tmp_path / "out"
        if command == "generate":
            flags = {"model": generators / "one", "num_inference_steps": 1, "output": output, "device": "cpu"}
            given = flags | {"prompt": "a dog"} | changed
            code = main(["generate", *(str(word) for name, value in given.items() for word in (f"--{name}", value))])
        else:
            code = main(argv(options, **changed))
        printed = capsys.readouterr()
        *others, line = printed.err.splitlines()  # progress bars may come first
        assert code == 2 and printed.out == "" and line.startswith(f"persam-dreambooth {command}: error: ")
        assert all("Loading" in line or not line for line in others), others
        assert not output.exists()
        return line

    return run


def write_huge(path):
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)


NO_PROMPTS = {
    "a pipe": (os.mkfifo, "is not a regular file"),
    "a folder": (Path.mkdir, "is not a regular file"),
    "NUL": (lambda path: path.write_bytes(b"a dog\0"), "holds NUL"),
    "another encoding": (lambda path: path.write_bytes("für".encode("latin-1")), "is not UTF-8 text"),
    "half a surrogate pair": (lambda path: path.write_bytes(b"a dog \xed\xb3\xbf"), "is not UTF-8 text"),
    "UTF-16": (lambda path: path.write_text("a dog", encoding="utf-16"), "is not UTF-8 text"),
    "huge": (write_huge, f"more than {MAX_BYTES}"),
    "a link to itself": (lambda path: path.symlink_to(path), "cannot be read"),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", NO_PROMPTS)
def test_invalid_prompt_files(command, kind, refused, tmp_path):
    make, message = NO_PROMPTS[kind]
    path = tmp_path / "prompts.txt"
    make(path)
    line = refused(command, **{"prompts_file" if command == "generate" else "prompts": path})
    assert message in line or (kind == "a link to itself" and "nor a file" in line)


@pytest.mark.parametrize(
    ("command", "flag"),
    [
        *(("generate", flag) for flag in ("prompt", "negative_prompt")),
        *(("evaluate", flag) for flag in ("unique_token", "class_token", "negative_prompt", "training_scenes")),
    ],
)
def test_flags_that_are_not_utf_8(command, flag, refused):
    assert f"--{flag} 'ein \\udcff' is not UTF-8 text" in refused(command, **{flag: os.fsdecode(b"ein \xff")})


def pickled(folder):
    """A weight file that runs code when it is unpickled."""
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.unlink()
    path.with_suffix(".bin").write_bytes(b"cos\nsystem\n(S'touch executed'\ntR.")


def truncated(folder):
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def pipe(folder):
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.unlink()
    os.mkfifo(path)


def written(name, content):
    return lambda folder: (folder / name).write_bytes(content)


DAMAGES = {
    "an index that is no JSON": written(model_folder.PIPELINE_INDEX, b"{"),
    "an index that is empty": written(model_folder.PIPELINE_INDEX, b""),
    "an index that is a list": written(model_folder.PIPELINE_INDEX, b"[1]"),
    "an index that is null": written(model_folder.PIPELINE_INDEX, b"null"),
    "an index without end": written(model_folder.PIPELINE_INDEX, DEEP),
    "an index of NUL": written(model_folder.PIPELINE_INDEX, b"\0" * 100),
    "an unknown pipeline": written(model_folder.PIPELINE_INDEX, b'{"_class_name": "os.system"}'),
    "parts that are no parts": written(
        model_folder.PIPELINE_INDEX, b'{"_class_name": "StableDiffusionPipeline", "unet": 7, "vae": {"a": []}}'
    ),
    "a part's config without end": written("unet/config.json", DEEP),
    "a part's config that is a list": written("unet/config.json", b"[]"),
    "another part's config without end": written("text_encoder/config.json", DEEP),
    "a vocabulary without end": written("tokenizer/tokenizer.json", DEEP),
    "weights cut short": truncated,
    "weights of nothing": written("unet/diffusion_pytorch_model.safetensors", b""),
    "weights with a header without end": written(
        "unet/diffusion_pytorch_model.safetensors", (2**62).to_bytes(8, "little")
    ),
    "weights that are a pipe": pipe,
    "weights that run code": pickled,
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_models(command, damage, refused, generators, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path(shutil.copytree(generators / "one", tmp_path / "damaged"))
    DAMAGES[damage](folder)
    assert str(folder) in refused(command, model=folder)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("flag", ["clip_model", "dino_model", "sam", "presence"])
@pytest.mark.parametrize("content", [DEEP, b"[]", b"null", b""])
def test_damaged_image_encoders(flag, content, refused, options, tmp_path):
    if flag == "presence":
        damaged = tmp_path / "presence.json"
        damaged.write_bytes(content)
    else:
        damaged = Path(shutil.copytree(options[flag][0], tmp_path / "damaged"))
        (damaged / "config.json").write_bytes(content)
    assert str(damaged) in refused("evaluate", **{flag: damaged})
