"""Choose the device a model runs on."""

import platform

import torch

from persam_dreambooth.errors import UserError


def choose_device(wanted: torch.device | str | None) -> torch.device:
    """Return the requested device; by default the accelerator if there is one, else the CPU.

    Raises:
        UserError: this machine has no such device.
    """
    if wanted is None:
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        device = torch.device(wanted)
        torch.empty(0, device=device)
    except Exception as error:  # an unknown name, a missing driver and an index out of range raise different ones
        raise UserError(f"the device {wanted} cannot be used here; give cpu, cuda, cuda:1 or mps, or none") from error
    return device


def emulates_bfloat16(device: torch.device) -> bool:
    """Return whether a device only emulates bfloat16 (x86 without AVX512 does, 18 times slower than float32)."""
    if device.type != "cpu" or platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    return not torch.ops.mkldnn._is_mkldnn_bf16_supported()
