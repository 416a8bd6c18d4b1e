"""Preview one photo as training sees it: a crop at the training resolution with the weight of each latent cell."""

from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torchvision.transforms.v2 import functional as F

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files, rendering
from persam_dreambooth.training.config import DataConfig
from persam_dreambooth.training.data.crops import cover_mask
from persam_dreambooth.training.data.samples import FreshSamples, read_mask
from persam_dreambooth.training.losses import Downsample, latent_mask

LARGEST = 2048


@dataclass(frozen=True)
class TrainingView:
    """Settings with which training would crop and weight a photo, named like its flags.

    Attributes:
        resolution: of the crop, in pixels.
        cell: side of a latent cell in pixels: 8 for Stable Diffusion.
        center_crop: crop the centre instead of a random place.
        mask_downsample, mask_dilation: how the mask becomes a latent mask.
        seed: of the random crop.
    """

    resolution: int = 512
    cell: int = 8
    center_crop: bool = False
    mask_downsample: Downsample = "area"
    mask_dilation: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 8 <= self.resolution <= LARGEST or not 1 <= self.cell <= self.resolution:
            raise UserError(
                f"resolution must be 8 to {LARGEST} pixels and cell 1 to the resolution; choose other numbers"
            )
        if self.mask_downsample not in ("area", "nearest", "max", "min") or not 0 <= self.mask_dilation <= LARGEST:
            raise UserError(f"mask_downsample must be area, nearest, max or min, and mask_dilation 0 to {LARGEST}")

    def draw(self, photo: Path, mask: Path) -> tuple[Image.Image, str]:
        """Draw the crop, darkened where cells have no weight, beside its latent mask; also return one line of text.

        Raises:
            UserError: a file cannot be read, or the mask does not fit the photo.
        """
        picture, drawn = files.read_photo(photo), read_mask(mask)
        if tuple(drawn.shape) != (picture.height, picture.width):
            raise UserError(f"the mask of {photo.name} does not have the photo's size; correct it again")
        size = (self.resolution, self.resolution)
        read = FreshSamples(DataConfig(resolution=self.resolution, center_crop=self.center_crop))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed)
            sample = read(photo, (mask,), size)
        inside = sample["mask"]
        grid = (self.resolution // self.cell,) * 2
        latent = latent_mask(inside[None], grid, self.mask_downsample, self.mask_dilation)[0, 0]
        cells = rendering.latent_cells(latent.numpy(), size)
        seen = F.to_pil_image(sample["pixels"] * 0.5 + 0.5)
        dark = seen.point(lambda level: round(level * rendering.BACKGROUND_LIGHT))
        both = [Image.composite(seen, dark, cells), cells.convert("RGB")]
        whole = cover_mask(drawn, size).sum().item() / 255
        kept = inside.sum().item() / whole if whole else 0.0
        return rendering.joined(both, across=True), (
            f"{grid[0]} × {grid[1]} latent cells; the subject covers {latent.mean():.0%} of them; "
            f"this crop keeps {kept:.0%} of it"
        )
