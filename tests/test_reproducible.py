"""Equal inputs give equal bits wherever they are in memory, which "resumed equals uninterrupted" depends on."""

import os
import subprocess
import sys

import pytest
import torch

ASK_MKL = """
import persam_dreambooth, torch
torch.ones(64, 64) @ torch.ones(64, 64)
"""


def mkl_log(**environment):
    """Return what MKL logs about its calls."""
    inherited = {name: value for name, value in os.environ.items() if name != "MKL_CBWR"}
    done = subprocess.run(
        [sys.executable, "-c", ASK_MKL],
        env=inherited | {"MKL_VERBOSE": "1"} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="this build of torch has no MKL")
def test_importing_package_makes_mkl_reproducible():
    assert "CNR:AUTO" in mkl_log()


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="this build of torch has no MKL")
def test_users_mkl_setting_is_kept():
    assert "CNR:COMPATIBLE" in mkl_log(MKL_CBWR="COMPATIBLE")


@pytest.mark.parametrize("shape", [(77, 64, 33), (5, 1000, 7), (256, 96, 256)], ids=str)
def test_product_does_not_depend_on_memory_alignment(shape):
    rows, inner, columns = shape
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(rows, inner, generator=generator), torch.randn(inner, columns, generator=generator)

    def moved(matrix, by):
        room = torch.empty(matrix.numel() + 16)[by : by + matrix.numel()].view_as(matrix)
        return room.copy_(matrix)

    expected = left @ right
    for by in range(16):
        assert torch.equal(moved(left, by) @ moved(right, by), expected), f"moved by {4 * by} bytes"
