"""Which precisions this processor can be tested in."""

import pytest
import torch


def _bfloat16_attends() -> bool:
    """Torch's bfloat16 attention fails where `ATEN_CPU_CAPABILITY` hides the AVX512 of a processor with AMX."""
    tokens = torch.randn(1, 2, 64, 32, dtype=torch.bfloat16)
    try:
        torch.nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)
    except RuntimeError as error:
        return "avx512" not in str(error)
    return True


needs_bfloat16 = pytest.mark.skipif(
    not _bfloat16_attends(), reason="torch has no bfloat16 attention under this ATEN_CPU_CAPABILITY on this processor"
)
