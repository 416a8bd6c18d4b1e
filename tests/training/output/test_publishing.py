"""The model card and uploads to the hub: what is sent, what stays local, and where the token goes."""

import re
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import yaml

from persam_dreambooth.training.config import without_folders
from tests.training.local_hub import local_hub
from tests.training.runs import train

TOKEN = "hf_SECRETtoken"
LORA = ("--use_lora", "--output_kohya_format")


@pytest.fixture
def hub(monkeypatch):
    """A local hub that the hub's client uses."""
    with local_hub() as hub:
        monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", hub.url)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        yield hub


@pytest.fixture
def pushed(flags):
    """Flags of an uploaded run with absolute paths that segments its photos."""
    flags |= {"instance_mask_dir": None, "reference_image": "photos/00.png", "reference_mask": "subject.png"}
    folders = {key: Path(flags[key]).resolve() for key in ("instance_data_dir", "output_dir", "reference_mask")}
    pictures = {"validation_prompt": "a sks dog in the jungle", "num_validation_images": 1, "max_train_steps": 2}
    sam = flags["pretrained_model_name_or_path"].parent / "sam"
    return flags | folders | pictures | {"sam": sam, "mask_downsample": "max", "hub_model_id": "me/dog"}


MODEL = {"pytorch_lora_weights.safetensors", "pytorch_lora_weights_kohya.safetensors"}
SENT = MODEL | {"README.md", "training_config.yaml", "validation/step-000002-0.png"}


def test_photos_and_local_paths_are_not_uploaded(pushed, hub, tmp_path):
    text = ("--train_text_encoder",)
    assert train(pushed, *LORA, *text, "--push_to_hub", hub_token=TOKEN, checkpointing_steps=1) == 0
    assert set(hub.files) == SENT and hub.tokens == {f"Bearer {TOKEN}"}
    private = [tmp_path, pushed["pretrained_model_name_or_path"].parent, "masks.png", "manifest"]
    for content in hub.files.values():
        assert not any(str(word).encode() in content for word in private)
    for name in MODEL:
        assert hub.files[name] == (Path("output") / name).read_bytes()
    settings = yaml.safe_load(hub.files["training_config.yaml"])
    assert (settings["instance_data_dir"], settings["pretrained_model_name_or_path"]) == ("photos", "stable-diffusion")
    card = hub.files["README.md"].decode()
    assert (
        "a sks dog in the jungle" in card
        and "3; the subject covers" in card
        and "load_lora_weights('me/dog', weight_name=" in card
    )
    local = Path("output/README.md").read_text()
    assert "](masks.png)" in local and Path("output/masks.png").exists() and not Path("output/hub").exists()


def test_masks_are_uploaded_on_request(pushed, hub):
    assert train(pushed, *LORA, "--push_to_hub", "--push_masks_to_hub") == 0
    assert set(hub.files) == SENT | {"masks.png"}
    assert hub.files["masks.png"] == Path("output/masks.png").read_bytes()
    assert "](masks.png)" in hub.files["README.md"].decode()


def test_all_parts_of_pipeline_are_uploaded(flags, hub, tmp_path):
    assert train(flags, "--train_text_encoder", "--push_to_hub", hub_model_id="me/dog", max_train_steps=1) == 0
    left_out = {"manifest.jsonl", "masks.png", "metrics.jsonl"}
    every = {path.relative_to("output").as_posix() for path in Path("output").rglob("*") if path.is_file()}
    assert set(hub.files) == {name for name in every if not name.startswith("logs/")} - left_out
    private = [tmp_path, flags["pretrained_model_name_or_path"].parent]
    for name, content in hub.files.items():
        assert not any(str(word).encode() in content for word in private), name
    assert {"model_index.json", "unet/diffusion_pytorch_model.safetensors", "vae/config.json"} <= set(hub.files)


def test_token_is_in_no_file_and_no_message(pushed, hub, caplog, capfd):
    hub.refuses = True
    assert train(pushed, *LORA, "--push_to_hub", hub_token=TOKEN, checkpointing_steps=1) == 2
    printed = capfd.readouterr()
    files = [path for path in Path().rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"training_config.yaml", "README.md"}
    assert any("tfevents" in path.name for path in files)
    assert not any(TOKEN.encode() in path.read_bytes() for path in files)
    assert TOKEN not in printed.out + printed.err + caplog.text


def test_failed_upload_is_kept_in_its_own_folder(pushed, hub, capsys):
    hub.refuses = True
    assert train(pushed, *LORA, "--push_to_hub") == 2
    folder = re.search(r"`hf upload me/dog (.+)`", capsys.readouterr().err).group(1)
    assert {path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()} == SENT


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("/home/me/photos", "photos"),
        ("me/dog", "me/dog"),
        ("there/dog", "dog"),
        (3, 3),
        ("a dog " * 99, "a dog " * 99),
    ],
)
def test_only_name_of_path_is_published(tmp_path, monkeypatch, value, shown):
    monkeypatch.chdir(tmp_path)
    Path("there/dog").mkdir(parents=True)
    assert without_folders(value) == shown


@pytest.mark.parametrize("prompt", ['a "sks" dog', "a dog's sks", "a sks dog\\", "a sks|dog"])
def test_card_snippet_is_valid_python_for_any_prompt(flags, prompt):
    assert train(flags, "--use_lora", instance_prompt=prompt, max_train_steps=1, class_prompt="a | dog") == 0
    card = Path("output/README.md").read_text()
    compile(re.search(r"```python\n(.*?)```", card, re.DOTALL).group(1), "card", "exec")
    table = [line for line in card.splitlines() if line.startswith("|")]
    assert len(table) == 5 and {line.count("|") for line in table} == {3}


def test_card_names_every_subject_and_no_caption(flags):
    Path("photos/00.txt").write_text("my aunt's garden")
    entries = [
        {"instance_data_dir": "photos", "instance_mask_dir": "masks", "caption_extension": ".txt"}
        | {"instance_prompt": "a sks dog", "class_prompt": "a dog"},
        {"instance_data_dir": "more", "instance_mask_dir": "masks", "instance_prompt": "a zwx cat"},
    ]
    shutil.copytree("photos", "more")
    Path("concepts.yaml").write_text(yaml.safe_dump(entries))
    own = dict.fromkeys(("instance_data_dir", "instance_mask_dir", "instance_prompt"))
    assert train(flags | own, "--use_lora", concepts_list="concepts.yaml", max_train_steps=1) == 0
    card = Path("output/README.md").read_text()
    for line in ("on\n*a sks dog* and *a zwx cat*.", "| class prompt | *a dog* |", "| photos | 6;", "\n- lora\n"):
        assert line in card
    assert "garden" not in card and "None" not in card
