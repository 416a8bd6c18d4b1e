"""Devices, checksums of weights, and tensors kept on disk or in memory."""

import pytest
import torch
from safetensors import safe_open
from torch import nn

from persam_dreambooth.errors import UserError
from persam_dreambooth.torch_utils import (
    TensorCache,
    choose_device,
    emulates_bfloat16,
    save_beside,
    weights_checksum,
)


def test_device_that_is_not_here_is_refused():
    assert choose_device("cpu") == choose_device(torch.device("cpu")) == torch.device("cpu")
    assert choose_device(None).type in ("cpu", str(torch.accelerator.current_accelerator()).partition(":")[0])
    for wanted in ("banana", f"cuda:{torch.cuda.device_count()}"):
        with pytest.raises(UserError, match=f"the device {wanted} cannot be used here; give cpu"):
            choose_device(wanted)
    assert not emulates_bfloat16(torch.device("meta"))


def filled(*numbers):
    """A model of layers with these weights, exact in half precision."""
    model = nn.ModuleDict({f"layer{place}": nn.Linear(2, 2, bias=False) for place in range(len(numbers))})
    for part, number in zip(model.values(), numbers, strict=True):
        nn.init.constant_(part.weight, number)
    return model


def test_checksum_depends_on_the_weights_alone():
    first = weights_checksum(filled(1.5, 2.0))
    assert len(first) == 8 and int(first, 16) >= 0
    assert weights_checksum(filled(2.0, 1.5)) == weights_checksum(filled(1.5, 2.0, 1.5)) == first
    assert weights_checksum(filled(1.5, 2.0).to(torch.bfloat16)) == first
    renamed = nn.Sequential(*filled(1.5, 2.0).values())
    assert weights_checksum(renamed) == first != weights_checksum(filled(1.5, 2.5))


@pytest.mark.parametrize("on_disk", [True, False])
def test_tensors_come_back_bit_identical(on_disk, tmp_path):
    cache = TensorCache(tmp_path if on_disk else None)
    tensors = {"a": torch.randn(3, 4).to(torch.bfloat16).T, "b": torch.tensor([float("nan"), -0.0])}
    assert cache.get("ab12") is None
    cache.put("ab12", tensors)
    found = cache.get("ab12")
    assert found.keys() == tensors.keys() and cache.get("ab13") is None
    assert torch.equal(found["a"], tensors["a"])
    assert torch.equal(found["b"].view(torch.int32), tensors["b"].view(torch.int32))
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")] == [
        "ab/ab12.safetensors"
    ] * on_disk


def test_damaged_file_counts_as_missing(tmp_path):
    cache = TensorCache(tmp_path)
    cache.put("ab12", {"a": torch.zeros(9)})
    path = tmp_path / "ab" / "ab12.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    assert cache.get("ab12") is None
    cache.put("ab12", {"a": torch.ones(1)})
    assert torch.equal(cache.get("ab12")["a"], torch.ones(1))


def test_file_has_its_words_and_replaces_another_whole(tmp_path, file_limit):
    path = tmp_path / "a.safetensors"
    save_beside({"a": torch.ones(2)}, path, {"made": "here"})
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"made": "here"} and torch.equal(file.get_tensor("a"), torch.ones(2))
    before = path.read_bytes()
    file_limit(100)
    with pytest.raises(OSError, match=r"cannot be written|File too large|No space left"):
        save_beside({"a": torch.ones(1000)}, path)
    file_limit(2**40)  # pytest writes too
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [before]
