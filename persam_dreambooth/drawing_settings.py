"""Which settings of a drawing no pipeline can use; known before one is loaded."""

from persam_dreambooth.errors import UserError


def check_drawing(num_images: int, num_inference_steps: int, height: int | None, width: int | None) -> None:
    """Refuse numbers below 1, and sizes that are not given in full or no multiples of 8.

    Raises:
        UserError: one of these.
    """
    for name, number in (("num_images", num_images), ("num_inference_steps", num_inference_steps)):
        if number < 1:
            raise UserError(f"--{name} {number} must be at least 1")
    if (height is None) != (width is None):
        raise UserError("--height and --width belong together; give both or neither")
    if any(side is not None and (side < 8 or side % 8) for side in (height, width)):
        raise UserError(f"--height {height} and --width {width} must be multiples of 8")
