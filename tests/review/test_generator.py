"""Pictures at the page's request."""

import pytest

from persam_dreambooth.errors import UserError
from persam_dreambooth.review.generator import Generator


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        (("  ", 1, 0), "no prompt"),
        (("a dog", 0, 0), "1 to 16 images"),
        (("a dog", 99, 0), "1 to 16 images"),
        (("a dog", 1, 2**63), "must lie in"),
    ],
)
def test_invalid_request_is_refused(tmp_path, order, reason):
    with pytest.raises(UserError, match=reason):
        Generator("cpu").start(tmp_path, *order, num_inference_steps=1)
