"""Check the settings of generation before a pipeline is loaded."""

from persam_dreambooth.errors import UserError


def check_drawing(num_images: int, num_inference_steps: int, height: int | None, width: int | None) -> None:
    """Check numbers and sizes.

    Raises:
        UserError: a number below 1, only one of height and width, or a size that is not a multiple of 8.
    """
    for name, number in (("num_images", num_images), ("num_inference_steps", num_inference_steps)):
        if number < 1:
            raise UserError(f"--{name} {number} must be at least 1")
    if (height is None) != (width is None):
        raise UserError("--height and --width belong together; give both or neither")
    if any(side is not None and (side < 8 or side % 8) for side in (height, width)):
        raise UserError(f"--height {height} and --width {width} must be multiples of 8")
