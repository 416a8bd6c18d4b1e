"""Run every command and snippet of the README on tinyworld's models and drawn photos."""

import base64
import io
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

import demo
from persam_dreambooth.cli import main
from tests.forks import Fork
from tests.training.runs import run_script
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
}
COMMANDS = {"persam-dreambooth": main, "accelerate launch train_dreambooth_persam.py": run_script}
"""How a line begins -> what runs with its other words, in a process of its own."""


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


def run(block):
    """Run a block's only command here, as bash would; return what was printed."""
    line = block.replace("\\\n", " ")
    (start,) = [start for start in COMMANDS if line.startswith(f"{start} ")]
    return finished(Fork(COMMANDS[start], shlex.split(line.removeprefix(start))))


def finished(process):
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr.decode()[-3000:]
    return stdout.decode()


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
    assert finished(Fork(exec, snippet, {"__name__": "__main__"})).strip() == printed.strip()


def test_every_command_runs_in_readmes_order(folder, monkeypatch):
    monkeypatch.chdir(folder)
    make, *commands = blocks("bash")
    assert [line.split("#")[0].strip() for line in make.splitlines()] == ["make demo", "make test"]
    assert len(commands) == 5
    for command in commands:
        for real, small in SMALL.items():
            command = command.replace(real, small)
        run(command)
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
