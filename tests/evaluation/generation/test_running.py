"""`evaluate generation`: equal conditions for all models, nothing done twice, no output after errors."""

import io
import json
import shutil
import signal
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.functional.image import learned_perceptual_image_patch_similarity
from torchvision.models import alexnet

from albums import albums, save_album
from models import CLIP, DIFFUSION, SAM
from persam_dreambooth.cli import main
from persam_dreambooth.photos import files
from persam_dreambooth.photos.manifest import MANIFEST_NAME, ManifestEntry, write_manifest
from tests.evaluation.generation.conftest import argv, evaluate
from tests.forks import Fork
from tests.kills import signal_when_exists
from tests.test_generation import save_lora


def read_metrics(options):
    return json.loads((Path(options["output"][0]) / "metrics.json").read_text())


VOTES = {"scene", "training_scene", "background_taken_for"}  # these depend on the likeliest label, and two may tie


def assert_close(ours, others):
    """Compare up to rounding: math libraries may change the order of summation between calls."""
    assert type(ours) is type(others)
    if isinstance(ours, dict):
        assert ours.keys() == others.keys()
        for name in ours:
            if name not in VOTES or (isinstance(ours[name], dict) and "text" in ours[name]):
                assert_close(ours[name], others[name])
    elif isinstance(ours, list):
        assert len(ours) == len(others)
        for our, their in zip(ours, others, strict=True):
            assert_close(our, their)
    elif isinstance(ours, float):
        assert ours == pytest.approx(others, abs=1e-4)
    else:
        assert ours == others


def pictures_of(output, title):
    return {path.name: path for path in (Path(output) / "models" / title / "pictures").iterdir()}


@pytest.fixture(scope="module")
def compared(flags_without_output, generators, tmp_path_factory):
    """Flags of a finished run with `one`, `other` and `copy`, and what it printed."""
    options = flags_without_output | {"output": [str(tmp_path_factory.mktemp("compared") / "out")]}
    options["model"] = [str(generators / name) for name in ("one", "other", "copy")]
    with redirect_stdout(io.StringIO()) as printed:
        assert evaluate(options, seed=7) == 0
    return options, printed.getvalue()


def test_models_are_measured_side_by_side(compared):
    options, printed = compared
    stored = read_metrics(options)
    assert list(stored["models"]) == ["one", "other", "copy"] and list(stored["less one"]) == ["other", "copy"]
    of_one = stored["models"]["one"]
    whole = {"dino", "clip_i", "clip_t"}
    assert whole | {"scene", "training_scene", "leakage_clip", "leakage_dino", "diversity"} <= set(of_one)
    assert "found" not in of_one  # this SAM has no presence rule, and the report says so
    assert any("no presence rule" in note for note in stored["notes"])
    assert all(of_one[name]["values"] == 6 and of_one[name]["prompts"] == 3 for name in whole)
    assert (of_one["scene"]["values"], of_one["scene"]["prompts"]) == (4, 2)  # two of three prompts name a scene
    assert (of_one["diversity"]["values"], of_one["diversity"]["prompts"]) == (3, 3)
    intervals = [estimate for estimate in of_one.values() if estimate["low"] is not None]
    assert intervals and all(estimate["low"] <= estimate["mean"] <= estimate["high"] for estimate in intervals)
    for name in whole:
        mean = stored["models"]["other"][name]["mean"] - of_one[name]["mean"]
        assert stored["less one"]["other"][name]["mean"] == pytest.approx(mean)
        of_pictures = [
            picture[name] for row in stored["prompts"] if row["model"] == "one" for picture in row["pictures"]
        ]
        assert of_one[name]["mean"] == pytest.approx(np.mean(of_pictures))
        assert f"{of_one[name]['mean']:.3f}" in printed
    labels = {"in the snow", "on the beach", "on a lawn"}
    assert {picture["background_taken_for"] for row in stored["prompts"] for picture in row["pictures"]} <= labels
    assert set(stored["photos"]) >= {"dino", "clip_i_inside", "leakage_clip", "training_scene"}


def test_every_model_starts_from_same_noise(compared):
    options, _ = compared
    first, other, copy = (pictures_of(options["output"][0], title) for title in ("one", "other", "copy"))
    assert set(first) == set(other) == set(copy) and len(first) == 6
    levels = {name: np.asarray(Image.open(path)) for name, path in first.items()}
    assert all(np.array_equal(levels[name], np.asarray(Image.open(path))) for name, path in copy.items())
    assert not any(np.array_equal(levels[name], np.asarray(Image.open(path))) for name, path in other.items())
    assert {Image.open(path).text["seed"] for path in other.values()} == {"7", "8"}
    assert len({level.tobytes() for level in levels.values()}) == 6
    stored = read_metrics(options)
    assert_close(stored["models"]["copy"], stored["models"]["one"])
    assert all(estimate["mean"] == pytest.approx(0, abs=1e-4) for estimate in stored["less one"]["copy"].values())


def test_run_killed_twice_resumes(options, tmp_path):
    """Killed in the middle of the first model's pictures, then after the first features of the photos."""
    options |= {"num_images": ["1"], "class_images": ["1"], "dino_model": ["none"]}
    output = Path(options["output"][0])
    times: dict[Path, int] = {}
    for moment in ("models/one/pictures/a-sks-disc-on-the-beach-0.png", "features/*/*.safetensors"):
        signal_when_exists(Fork(main, argv(options)), output, moment, signal.SIGKILL)
        assert any(output.glob(moment)) and not (output / "metrics.json").exists()
        assert {path: path.stat().st_mtime_ns for path in times} == times
        made = [path for kind in ("pictures/*.png", "masks/*.png", "features/*/*") for path in output.rglob(kind)]
        before = len(times)
        times = {path: path.stat().st_mtime_ns for path in made if not path.name.startswith(".")}
        assert len(times) > before
    assert evaluate(options) == 0
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert evaluate(options, output=tmp_path / "whole") == 0
    first, second = (json.loads((folder / "metrics.json").read_text()) for folder in (tmp_path / "whole", output))
    assert_close(first, second)


def test_finished_report_is_not_regenerated(options, generators, tmp_path, capsys):
    drawer = tmp_path / "one"
    shutil.copytree(generators / "one", drawer)
    options |= {"num_images": ["1"], "class_images": ["1"]}
    assert evaluate(options, model=drawer) == 0
    before = (
        read_metrics(options),
        {path: path.stat().st_mtime_ns for path in Path(options["output"][0]).rglob("*.png")},
    )
    (drawer / "vae" / "config.json").unlink()  # it can no longer be loaded
    assert evaluate(options, model=drawer, dino_model="none") == 0  # different measures of the same pictures
    assert evaluate(options, model=drawer) == 0
    assert_close(read_metrics(options), before[0])
    assert {path: path.stat().st_mtime_ns for path in before[1]} == before[1]
    assert evaluate(options, model=[drawer, generators / "other"]) == 0  # a second model
    assert_close(read_metrics(options)["models"]["one"], before[0]["models"]["one"])
    capsys.readouterr()
    weights = drawer / "unet" / "diffusion_pytorch_model.safetensors"
    weights.touch()  # like a copy
    assert evaluate(options, model=drawer) == 0
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")  # like a retrained model
    assert evaluate(options, model=drawer) == 2
    assert "weights differ" in capsys.readouterr().err
    assert evaluate(options, model=generators / "other", num_inference_steps=2) == 2
    assert "num_inference_steps differ" in capsys.readouterr().err


def test_report_in_model_folder_resumes(options, generators, tmp_path):
    drawer = tmp_path / "one"
    shutil.copytree(generators / "one", drawer)
    changed = {"model": drawer, "output": drawer / "report", "num_images": 1, "dino_model": "none"}
    assert evaluate(options, **changed) == 0
    metrics = drawer / "report" / "metrics.json"
    before = json.loads(metrics.read_text())
    assert any(metrics.parent.rglob("*.safetensors"))  # features
    assert evaluate(options, **changed) == 0
    assert_close(json.loads(metrics.read_text()), before)


@pytest.mark.parametrize("source", ["by the flag", "by the training's config"])
def test_retrained_base_is_different_model(source, options, generators, tmp_path, capsys):
    base, lora = tmp_path / "base", tmp_path / "lora"
    shutil.copytree(generators / "one", base)
    save_lora(base, lora)
    if source == "by the training's config":
        (lora / "training_config.yaml").write_text(f"pretrained_model_name_or_path: {base}")
    base_model = base if source == "by the flag" else None
    changed = {"model": lora, "num_images": 1, "dino_model": "none", "base_model": base_model}
    assert evaluate(options, **changed) == 0
    assert evaluate(options, **changed) == 0
    capsys.readouterr()
    shutil.rmtree(base)
    shutil.copytree(generators / "other", base)
    assert evaluate(options, **changed) == 2
    assert "holds another run (base_weights differ" in capsys.readouterr().err
    assert evaluate(options, **changed, output=tmp_path / "fresh") == 0


def test_prompts_with_same_file_name_keep_pictures_if_reordered(options, tmp_path):
    """They differ only after the 60th character, or in case and punctuation."""
    prompts, long = tmp_path / "prompts.txt", f"a very {'very ' * 12}large"
    lines = [f"{long} red disc", f"{long} blue disc", "a disc!", "A disc"]
    changed = {"model": options["model"][0], "prompts": prompts, "num_images": 1, "dino_model": "none"}
    for order in (lines, lines[::-1]):
        prompts.write_text("\n".join(order))
        assert evaluate(options, **changed) == 0
        output = Path(options["output"][0])
        files_of = {row["prompt"]: row["pictures"][0]["file"] for row in read_metrics(options)["prompts"]}
        assert len(files_of) == 4
        assert all(Image.open(output / file).text["prompt"] == prompt for prompt, file in files_of.items())
    assert evaluate(options, **changed, output=tmp_path / "fresh") == 0
    fresh = json.loads((tmp_path / "fresh" / "metrics.json").read_text())
    assert_close(fresh, json.loads((output / "metrics.json").read_text()))


def test_without_dino_its_rows_are_left_out_with_note(options, capsys):
    assert evaluate(options, dino_model="none", training_scenes=None, num_images=1) == 0
    stored, printed = read_metrics(options), capsys.readouterr().out
    assert not any("dino" in name or name in ("training_scene", "diversity") for name in stored["models"]["one"])
    assert "--dino_model none" in printed and "give it as --training_scenes" in printed
    assert "DINO, subject only" not in printed
    assert "With one image per prompt" in printed and "Diversity is" not in printed


def test_diversity_is_lpips_if_alexnet_is_available(options, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    path = tmp_path / "torch" / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth"
    path.parent.mkdir(parents=True)
    torch.manual_seed(0)
    state = alexnet().state_dict()  # LPIPS does not use the classifier, so one number per tensor suffices
    torch.save({k: v if "features" in k else torch.zeros(1).expand(v.shape) for k, v in state.items()}, path)
    options |= {"model": options["model"][:1]}
    assert evaluate(options, diversity="lpips") == 0
    rows = read_metrics(options)["prompts"]
    for row in rows:
        levels = [np.array(Image.open(Path(options["output"][0]) / picture["file"])) for picture in row["pictures"]]
        pair = [torch.from_numpy(level).permute(2, 0, 1)[None] / 255 for level in levels]
        assert row["diversity"] == pytest.approx(
            float(learned_perceptual_image_patch_similarity(*pair, net_type="alex", normalize=True)), rel=1e-4
        )
    assert len({row["diversity"] for row in rows}) == 3
    capsys.readouterr()
    torch.save(Evil(tmp_path / "executed"), path)
    assert evaluate(options, diversity="lpips", output=tmp_path / "again") == 2
    assert "--diversity features" in capsys.readouterr().err
    assert not (tmp_path / "executed").exists() and not (tmp_path / "again").exists()


class Evil:
    """A pickle that creates a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_tinyworld_models_and_presence_rule(tmp_path, capsys):
    """The base model's "dog" is a dog in the right scene, but not this dog."""
    album = albums(photos=2)[0]
    photos, masks = save_album(album, tmp_path)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a {unique_token} {class_token} [in the snow]\na {unique_token} {class_token} [in the jungle]")
    flags = {"instance_data_dir": photos, "instance_mask_dir": masks, "prompts": prompts, "unique_token": "sks"}
    flags |= {"class_token": "dog", "training_scenes": "on a sofa", "scene_template": "an empty scene {}"}
    flags |= {"sam": SAM, "clip_model": CLIP, "dino_model": "none", "height": 64, "width": 64, "device": "cpu"}
    flags |= {"num_images": 2, "class_images": 0, "num_inference_steps": 10, "guidance_scale": 4}
    flags |= {"output": tmp_path / "out"}
    assert main(argv({name: [str(value)] for name, value in flags.items()}, model=f"base={DIFFUSION}")) == 0
    stored = json.loads((tmp_path / "out" / "metrics.json").read_text())
    of_base = {name: estimate["mean"] for name, estimate in stored["models"]["base"].items()}
    assert of_base["scene"] == 1 and of_base["training_scene"] == 0
    assert of_base["found"] <= 0.25
    assert of_base["clip_i_inside"] < stored["photos"]["clip_i_inside"] - 0.1
    assert of_base["leakage_clip"] < stored["photos"]["leakage_clip"] - 0.2
    assert stored["photos"]["training_scene"] == 1
    assert any("made on drawings (tinyworld)" in note for note in stored["notes"])
    assert any(note.startswith("base: the subject is ") and note.endswith(" of 4 images.") for note in stored["notes"])


MISTAKES = {
    "no model": ({"model": None}, "--model is missing"),
    "no photos": ({"instance_data_dir": None}, "--instance_data_dir is missing"),
    "no masks": ({"instance_mask_dir": None}, "--instance_mask_dir is missing"),
    "a folder that is not there": ({"model": "./nowhere"}, "no model at ./nowhere"),
    "weights without a base": ({"model": "{lora}"}, "give --base_model"),
    "a base that is not there": (
        {"model": "{lora}", "base_model": "./nowhere"},
        "no base model of {lora} at ./nowhere",
    ),
    "two of one name": ({"model": ["{one}", "{one}"]}, "two models have the title 'one'; give titles"),
    "a title that is no name": ({"model": "../up={one}"}, "give TITLE=FOLDER"),
    "no class": ({"class_token": None}, "needs --class_token; give one, such as dog"),
    "unknown prompts": ({"prompts": "object"}, "neither objects nor live nor scenes nor a file"),
    "masks of others": ({"instance_mask_dir": "{one}"}, "no mask in {one} for 0.png, 1.png, 2.png"),
    "photos as masks": ({"instance_mask_dir": "{photos}"}, "are the photos themselves"),
    "no CLIP": ({"clip_model": "{dino}"}, "is not a CLIP"),
    "no DINO": ({"dino_model": "nowhere"}, "no CLIP or DINO at 'nowhere'"),
    "no SAM": ({"sam": "nowhere"}, "no SAM at 'nowhere'"),
    "no rule": ({"presence": "nowhere"}, "no presence rule at nowhere"),
    "no pictures": ({"num_images": "0"}, "--num_images 0 must be at least 1"),
    "half a size": ({"height": None}, "--height and --width belong together"),
    "an odd size": ({"height": "30"}, "must be multiples of 8"),
    "a negative seed": ({"seed": "-1"}, "--seed -1 must lie in"),
    "a template without a place": ({"scene_template": "a photo"}, "has no {{}} for the scene's words"),
    "an unknown flag": ({"promts": "live"}, "did you mean --prompts?"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_errors_are_one_line_and_leave_nothing(case, options, generators, eyes, subject, tmp_path, capsys):
    changed, saying = MISTAKES[case]
    known = {"one": generators / "one", "dino": eyes / "dino", "photos": subject / "photos", "lora": tmp_path / "lora"}
    known["lora"].mkdir()
    (known["lora"] / "pytorch_lora_weights.safetensors").touch()

    def filled(value):
        return [item.format(**known) for item in value] if isinstance(value, list) else value and value.format(**known)

    given = {name: value if name == "scene_template" else filled(value) for name, value in changed.items()}
    assert evaluate(options, **given) == 2
    printed = capsys.readouterr()
    *others, line = printed.err.splitlines()  # progress bars may come first
    assert line.startswith("persam-dreambooth evaluate: error: ") and saying.format(**known) in line
    assert printed.out == "" and all("Loading weights" in line or not line for line in others)
    assert not Path(options["output"][0]).exists()


def test_mismatched_masks_are_refused(options, subject, tmp_path, capsys):
    for name, drawn in (("small", np.ones((2, 2), bool)), ("empty", np.zeros((48, 56), bool)), ("full", None)):
        masks = tmp_path / name
        shutil.copytree(subject / "masks", masks)
        files.write_mask(np.ones((48, 56), bool) if drawn is None else drawn, masks / "1.png")
        assert evaluate(options, instance_mask_dir=masks) == 2
        messages = {"small": "is 2 x 2 pixels but its photo 1.png is 56 x 48", "empty": "is empty", "full": "is full"}
        assert messages[name] in capsys.readouterr().err
    assert not Path(options["output"][0]).exists()


def test_photos_excluded_from_training_are_not_compared_with(options, subject, tmp_path, capsys):
    segmented = tmp_path / "segmented"
    shutil.copytree(subject / "masks", segmented / "masks")

    def judge(**judged):
        """Write the manifest, with extra fields by photo number."""
        entries = []
        for number in range(3):
            photo, mask = (subject / kind / f"{number}.png" for kind in ("photos", "masks"))
            known = {"mask_digest": files.digest(mask)} | judged.get(f"of_{number}", {})
            entries.append(ManifestEntry(str(photo), files.digest(photo), **known))
        write_manifest(segmented / MANIFEST_NAME, entries)

    out, doubt = {"review": "excluded"}, {"presence": "unsure", "reason": "too red"}
    changed = {"model": options["model"][0], "instance_mask_dir": segmented, "num_images": 1, "dino_model": "none"}
    judge(of_0=out, of_1=doubt)
    (segmented / "masks" / "0.png").unlink()  # the mask of an excluded photo is not needed
    assert evaluate(options, **changed) == 0
    printed, stored = capsys.readouterr().out, read_metrics(options)
    assert stored["settings"]["photos"] == 1
    for note in ("Left out: 0.png was excluded in review.", "Left out: the subject in 1.png: unsure, too red."):
        assert note in stored["notes"] and note in printed
    judge(of_0=out, of_1=doubt | {"review": "approved"})
    assert evaluate(options, **changed, output=tmp_path / "approved") == 0
    assert json.loads((tmp_path / "approved" / "metrics.json").read_text())["settings"]["photos"] == 2
    capsys.readouterr()
    judge(of_0=out, of_1=doubt, of_2=out)
    assert evaluate(options, **changed, output=tmp_path / "none") == 2
    assert "no photo to compare with: 0.png was excluded in review; " in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_damaged_model_and_foreign_folder_are_refused(options, generators, tmp_path, capsys):
    damaged = tmp_path / "damaged"
    shutil.copytree(generators / "one", damaged)
    (damaged / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"no weights")
    assert evaluate(options, model=damaged) == 2
    assert f"the model {damaged} cannot be loaded" in capsys.readouterr().err
    output = Path(options["output"][0])
    assert not output.exists()
    output.mkdir()
    (output / "report.html").write_text("somebody's")
    assert evaluate(options) == 2
    assert "is not an evaluation's; choose another or an empty output folder" in capsys.readouterr().err
    assert [path.name for path in output.iterdir()] == ["report.html"]
