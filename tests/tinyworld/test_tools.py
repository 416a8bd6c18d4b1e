"""Tools of tinyworld's scripts: resumable training, helpful loading errors, and measures."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import SamModel

import fitting
import models
from albums import albums
from corpus import CROWDED, load_corpus
from fitting import fit
from loading import check, load
from measures import colour_maps, fidelity, interval, measure
from models import tokenizer
from persam_dreambooth.errors import UserError
from recipes import SCENES
from subjects import COLOURS, Identity
from tests.forks import Fork
from train_sam import ask, label_tables


class Killed(Exception):
    """Simulates a power cut."""


def trained(state, stop_at=None):
    torch.manual_seed(0)
    model = nn.Linear(3, 2)

    def loss_of(step):
        if step == stop_at:
            raise Killed
        inputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
        return model(inputs).square().mean()

    fit(model, loss_of, 9, 4, 1e-2, state)
    return model


def test_interrupted_training_ends_with_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "SAVE_EVERY", 2)
    whole = trained(tmp_path / "whole.pt")
    with pytest.raises(Killed):
        trained(tmp_path / "halves.pt", stop_at=5)
    resumed = trained(tmp_path / "halves.pt")
    assert all(torch.equal(*pair) for pair in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_missing_or_damaged_model_names_rebuild_command(tmp_path, monkeypatch):
    folder = tmp_path / "sam"
    monkeypatch.setattr("loading.MAKERS", {folder: "train_sam"})
    with pytest.raises(UserError, match=r"holds no model; rebuild it: python experiments/tinyworld/train_sam.py"):
        check(folder)
    folder.mkdir()
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"cannot be loaded \(.*\); rebuild it: .*train_sam.py"):
        load(SamModel, folder)
    (folder / "config.json").write_text(SamModel.config_class().to_json_string())
    (folder / "model.safetensors").write_bytes(b"not a tensor")
    with pytest.raises(UserError, match=r"rebuild it: .*train_sam.py"):
        load(SamModel, folder)


def test_demo_without_models_prints_one_line_and_writes_nothing(tmp_path):
    code = f"import models, pathlib, sys\nsys.argv[1:] = ['--output', {str(tmp_path / 'demo')!r}]\n"
    code += "models.SAM = pathlib.Path('gone/sam')\nimport demo\ndemo.main()"
    done = Fork(exec, code, {"__name__": "__main__"})
    errors = done.communicate(timeout=120)[1].decode()
    assert done.returncode == 2
    assert errors.strip().splitlines()[-1].startswith("error: gone/sam holds no model; rebuild it")
    assert not (tmp_path / "demo").exists()


def test_every_caption_word_is_one_token():
    bpe = tokenizer()
    caption = "a zwx purple and teal checked backpack with a ribbon and a cat with a flag in the jungle"
    assert bpe.tokenize(caption) == [word + "</w>" for word in caption.split()]
    assert bpe.tokenize("xylophone") and bpe.unk_token_id not in bpe("xylophone").input_ids[1:-1]
    assert len(bpe(caption).input_ids) <= models.TEXT_LENGTH


def test_training_prompts_match_levels_under_their_point(tmp_path):
    corpus = load_corpus(tmp_path, "crowds", 6, seed=1, crowd=CROWDED)
    parts, owners = label_tables(corpus)
    labels = torch.from_numpy(corpus.labels).long()
    prompts = ask(labels, parts, owners, np.random.default_rng(0))
    sub_part, part, whole = prompts.levels.unbind(1)
    assert (sub_part <= part).all() and (part <= whole).all()
    for number, ((x, y), (away_x, away_y)) in enumerate(prompts.points[:, 0].tolist()):
        assert sub_part[number, int(y), int(x)] == 1
        assert whole[number, int(away_y), int(away_x)] == 0
    left, top, right, bottom = prompts.boxes[:, 0].unbind(1)
    rows, columns = prompts.target.any(2).float(), prompts.target.any(1).float()
    assert ((rows.argmax(1) - top).abs() < 4).all() and ((64 - rows.flip(1).argmax(1) - bottom).abs() < 4).all()
    assert ((columns.argmax(1) - left).abs() < 4).all() and ((64 - columns.flip(1).argmax(1) - right).abs() < 4).all()


def test_colours_are_distinct_in_lab():
    who = Identity("dog", "pink", "teal", "plain", "none")
    for name, rgb in COLOURS.items():
        flat = torch.tensor(rgb).float().view(3, 1, 1).expand(3, 4, 4) / 127.5 - 1
        main, second = colour_maps(flat, who)
        assert main.all() == main.any() == (name == "pink")
        assert second.all() == second.any() == (name == "teal")
        dim, _ = colour_maps((flat + 1) * 0.8 - 1, who)
        assert dim.all() == (name == "pink")


def test_fidelity_is_one_for_subject_and_lower_for_others():
    album = albums()[4]
    photos = measure([picture.image for picture in album.pictures], album.identity)
    true = tuple(np.mean([photo.colours for photo in photos], axis=0))
    own = np.mean([fidelity(photo, album.identity, true)["fidelity"] for photo in photos])
    stranger = measure([picture.image for picture in albums()[1].pictures], album.identity)
    other = np.mean([fidelity(photo, album.identity, true)["fidelity"] for photo in stranger])
    assert own > 0.75 and other < 0.5
    assert all(photo.scene in SCENES and 0 <= photo.bleeding <= 1 for photo in photos)


def test_bleeding_measures_subject_colour_outside_subject():
    album = albums()[0]
    picture = album.pictures[0]
    tinted = np.array(picture.image)
    outside = ~picture.mask()
    tinted[outside] = (0.3 * tinted[outside] + 0.7 * np.array(COLOURS["pink"])).astype(np.uint8)
    clean, bled = measure([picture.image, Image.fromarray(tinted)], album.identity)
    assert clean.bleeding < 0.05 and bled.bleeding > 0.5


def test_interval_contains_mean_and_narrows():
    values = list(np.random.default_rng(0).random(20))
    mean, low, high = interval(values)
    assert mean == pytest.approx(np.mean(values)) and low < mean < high
    _, tight_low, tight_high = interval(values * 20)
    assert tight_high - tight_low < (high - low) / 2
