"""Reading of the authors' checkpoint files: damaged ones are refused, code in a file never runs."""

import pickle

import pytest
import torch

from persam_dreambooth.errors import UserError
from persam_dreambooth.segmentation import load_backbone
from persam_dreambooth.segmentation.backbones.published import read_published, renamed
from random_models import random_sam
from tests.parity import recorded_sam
from tests.segmentation.test_backbones import refusal_of


class RunsCode:
    """A malicious object in a checkpoint: unpickling it would create a file."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return open, (str(self.trace), "w")


def test_missing_checkpoint_is_refused(tmp_path):
    assert "no SAM checkpoint at" in refusal_of(tmp_path / "sam_vit_h.pth")
    (tmp_path / "folder.pth").mkdir()
    assert "no SAM checkpoint at" in refusal_of(tmp_path / "folder.pth")


@pytest.mark.parametrize("how", ["zip", "legacy", "bare pickle"])
@pytest.mark.parametrize("suffix", [".pth", ".pt"])
def test_checkpoint_with_code_is_refused_and_code_does_not_run(tmp_path, how, suffix):
    trace, file = tmp_path / "the-code-ran", tmp_path / f"sam{suffix}"
    state = {"image_encoder.pos_embed": torch.zeros(1, 64, 64, 768), "extra": RunsCode(trace)}
    if how == "bare pickle":
        file.write_bytes(pickle.dumps(state, protocol=2))
    else:
        torch.save(state, file, _use_new_zipfile_serialization=how == "zip")
    assert "can run code" in refusal_of(file)
    assert not trace.exists()
    # The payload is real: an unsafe load runs it.
    if how == "bare pickle":
        pickle.loads(file.read_bytes())
        assert trace.exists()


def test_truncated_checkpoint_is_refused(tmp_path):
    file, whole = tmp_path / "sam.pth", recorded_sam.WEIGHTS.read_bytes()
    for length in (0, 3, 100, len(whole) // 2, len(whole) - 10):
        file.write_bytes(whole[:length])
        assert str(file) in refusal_of(file)


@pytest.mark.parametrize(
    "content", [b"<html>404 Not Found</html>", b"PK\x03\x04" + bytes(100), bytes(1000)], ids=["page", "zip", "zeros"]
)
def test_unrelated_file_is_refused(tmp_path, content):
    (tmp_path / "sam.pth").write_bytes(content)
    assert str(tmp_path / "sam.pth") in refusal_of(tmp_path / "sam.pth")


@pytest.mark.parametrize("length", [1, 5000])
def test_truncated_legacy_checkpoint_is_refused(tmp_path, length):
    torch.save(random_sam().state_dict(), tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "a.pth").write_bytes((tmp_path / "a.pth").read_bytes()[:length])
    with pytest.raises(UserError):
        load_backbone(tmp_path / "a.pth", device="cpu")


@pytest.mark.parametrize("content", [b"U\xf2\xd4}" + bytes(range(128, 256)) * 3, b"h\x11\xbb=\xb5", b"b\xa0\xad"])
def test_garbage_is_refused(tmp_path, content):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(UserError):
        load_backbone(tmp_path / "a.pth", device="cpu")


def test_state_is_read_bare_or_under_the_key_model(tmp_path):
    state, file = {"weight": torch.arange(3.0)}, tmp_path / "a.pth"
    for saved in (state, {"model": state, "epoch": 3}):
        torch.save(saved, file)
        read = read_published(file)
        assert list(read) == ["weight"] and torch.equal(read["weight"], state["weight"])
    torch.save({"model": torch.ones(1)}, file)  # a weight of that name is no state dict
    assert torch.equal(read_published(file)["model"], torch.ones(1))


def test_messages_name_the_kind_of_model(tmp_path):
    with pytest.raises(UserError, match="no SegGPT checkpoint at"):
        read_published(tmp_path / "none.pth", "SegGPT")
    (tmp_path / "code.pth").write_bytes(pickle.dumps(RunsCode(tmp_path / "trace"), protocol=2))
    with pytest.raises(UserError, match="use the original SegGPT checkpoint"):
        read_published(tmp_path / "code.pth", "SegGPT")
    assert not (tmp_path / "trace").exists()


def test_rules_are_applied_to_every_name_in_their_order():
    state = {"blocks.0.attn.w": torch.zeros(1), "blocks.1.attn.w": torch.ones(1), "neck": torch.ones(2)}
    rules = ((r"^blocks\.(\d)", r"layers.\1"), (r"^layers\.1\.", "last."), (r"\.attn\.", "."))
    found = renamed(state, rules)
    assert list(found) == ["layers.0.w", "last.w", "neck"]
    assert all(found[new] is state[old] for new, old in zip(found, state, strict=True))
    assert renamed(state, ()) == state
