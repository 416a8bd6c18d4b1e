"""Which device a model runs on."""

import platform

import torch

from persam_dreambooth.errors import UserError


def choose_device(wanted: torch.device | str | None) -> torch.device:
    """The wanted device; where none is named, the accelerator if there is one, else the CPU.

    Raises:
        UserError: there is no such device here.
    """
    if wanted is None:
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        device = torch.device(wanted)
        torch.empty(0, device=device)
    except Exception as error:  # an unknown word, a missing driver and a number too high are told in different ways
        raise UserError(f"the device {wanted} cannot be used here; name cpu, cuda, cuda:1 or mps, or none") from error
    return device


def emulates_bfloat16(device: torch.device) -> bool:
    """Whether a device only emulates bfloat16, as x86 processors without AVX512 do: 18 times slower than float32."""
    if device.type != "cpu" or platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    return not torch.ops.mkldnn._is_mkldnn_bf16_supported()
