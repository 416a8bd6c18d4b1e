"""Run every command and snippet of the README on tinyworld's models and drawn photos."""

import base64
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import demo
from tests.forks import Fork
from toy_photos import draw, save_photos

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
# The real names and sizes in the README -> their replacements here.
SMALL = {
    "facebook/sam-vit-huge": "experiments/tinyworld/models/sam",
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "experiments/tinyworld/models/stable-diffusion",
    "--max_train_steps 500": "--max_train_steps 2 --mask_downsample max",
    "--resolution 512": "--resolution 64",
    "--num_images 4": "--num_images 1 --num_inference_steps 2 --height 64 --width 64",
    "plain=dog-plain masked=dog-lora": "dog-lora",  # the README's other model would need another training run
    "--prompts live": "--prompts prompts.txt --num_images 1 --num_inference_steps 2 --height 64 --width 64 "
    "--clip_model experiments/tinyworld/models/clip --dino_model none",
    "accelerate launch train_dreambooth_persam.py": f"{sys.executable} -m accelerate.commands.launch --cpu "
    f"--num_processes 1 {ROOT / 'train_dreambooth_persam.py'}",
    "persam-dreambooth ": f"{sys.executable} -m persam_dreambooth.cli ",
}


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder in which the README's commands can be run: with the demo's output and photos of a dog."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "examples").symlink_to(ROOT / "examples")
    (folder / "experiments").symlink_to(ROOT / "experiments")
    demo.run(folder / "demo", steps=2)
    save_photos(folder / "dog")
    draw(0)[1].save(folder / "dog-00.png")
    (folder / "prompts.txt").write_text("a {unique_token} {class_token} [in the jungle]\n")
    return folder


def run(command, folder):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_demo_writes_its_report(folder):
    picture = Image.open(folder / "demo" / "report.png")
    assert picture.size == Image.open(ROOT / "docs" / "pictures" / "demo.png").size
    page = (folder / "demo" / "report.html").read_text()
    inside = base64.b64decode(re.search(r"data:image/png;base64,([^\"]+)", page)[1])
    assert Image.open(io.BytesIO(inside)).tobytes() == picture.tobytes()
    assert page.count("<li>") == 3 and "http" not in page


def test_snippet_output_matches_readme(folder, monkeypatch):
    (snippet,), (printed,) = blocks("python"), blocks("text")
    assert len([line for line in snippet.splitlines() if line.strip()]) <= 8
    monkeypatch.chdir(folder)
    done = Fork(exec, snippet, {"__name__": "__main__"})
    stdout, stderr = done.communicate(timeout=300)
    assert done.returncode == 0, stderr.decode()[-3000:]
    assert stdout.decode().strip() == printed.strip()


def test_every_command_runs_in_readmes_order(folder):
    make, *commands = blocks("bash")
    assert [line.split("#")[0].strip() for line in make.splitlines()] == ["make demo", "make test"]
    assert len(commands) == 5
    for command in commands:
        for real, small in SMALL.items():
            command = command.replace(real, small)
        run(["bash", "-euc", command], folder)
    assert sorted(path.name for path in (folder / "dog-masks" / "masks").iterdir()) == [f"0{n}.png" for n in range(4)]
    assert (folder / "dog-lora" / "pytorch_lora_weights.safetensors").exists()
    assert sorted(path.name for path in (folder / "dog-kohya").iterdir()) == ["images", "kohya.toml", "masks"]
    assert {"report.html", "metrics.json"} <= {path.name for path in (folder / "dog-report").iterdir()}
    names = sorted(path.name for path in (folder / "dog-pictures").iterdir())
    assert names == ["a-sks-dog-in-the-jungle-0.png", "a-sks-dog-in-the-snow-0.png", "grid.png"]


def test_files_linked_in_readme_exist():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    checked = re.findall(r"`(tests/[\w./]+)`", README)
    assert links and all((ROOT / link).exists() for link in links)
    assert all((ROOT / link).read_text().strip() for link in links if link.endswith(".md"))
    assert "@@" not in README
    assert checked and all((ROOT / path).exists() for path in checked)
