"""Check and report the masks before the first step: how much they cover, and how much of the subject crops keep."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from persam_dreambooth import masks
from persam_dreambooth.errors import UserError, counted
from persam_dreambooth.images import above_half
from persam_dreambooth.photos import files, pairs, rendering
from persam_dreambooth.training.config import MaskConfig, TrainingConfig
from persam_dreambooth.training.data.crops import cover_mask, cut_mask, draw_crop
from persam_dreambooth.training.data.dataset import InstancePhoto, Region
from persam_dreambooth.training.data.samples import read_exclusion, read_mask
from persam_dreambooth.training.losses import kept_cells, latent_mask

MASKS_NAME = "masks.png"
SHEET_LIMIT = 24
"""Maximum number of photos on the sheet of masks."""
GREY_SHARE = 0.2
"""Share of a mask that may be grey without being reported, since blurred edges are grey."""
CROPS = 16
"""Number of random crops drawn from each photo for the checks."""


LEAST_CELLS = 32
"""A subject on fewer latent cells than this (in Stable Diffusion about 45 x 45 pixels) keeps hardly any detail."""


@dataclass(frozen=True, eq=False)
class CheckedMask:
    """The mask of one photo, as training will use it: of several, their maximum.

    Attributes:
        photo, regions: the photo's file, and its masks.
        latent: (h, w) float32 in [0, 1], the latent mask of the resized photo (with `--center_crop` of its crop),
            without its excluded cells.
        kept: share of the subject, in [0, 1], in the worst of 16 random crops (with `--center_crop` of the one crop).
        inverted: whether it seems to mark the background instead of the subject.
        empty_crops: share of those crops, in [0, 1], whose latent mask is empty.
        label: name of the photo in messages; empty is its file name.
        marked: number of pixels of the mask that are not black; of several masks, of the smallest.
        grey: share of those, in [0, 1], that are not white either.
        exclude: the exclusion mask's file.
    """

    photo: Path
    regions: Sequence[Region]
    latent: Tensor
    kept: float
    inverted: bool
    empty_crops: float = 0.0
    label: str = ""
    marked: int = masks.LEAST_PIXELS
    grey: float = 0.0
    exclude: Path | None = None

    @property
    def name(self) -> str:
        """Name of the photo in messages."""
        return self.label or self.photo.name

    @property
    def cells(self) -> float:
        """Number of latent cells that the mask covers, where partly covered cells count as their share."""
        return self.latent.sum().item()

    @property
    def coverage(self) -> float:
        """Share of the photo that the mask covers, in [0, 1]."""
        return self.latent.mean().item()


def check_masks(instances: Sequence[InstancePhoto], config: TrainingConfig, cell: int) -> list[CheckedMask]:
    """Check every mask at the training resolution and on the latent grid.

    Args:
        instances: photos and masks; those without a mask are skipped.
        config: resolution, crop, and how masks become latent masks.
        cell: side of a latent cell in pixels.

    Raises:
        UserError: a mask has another size than its photo, its latent mask is empty (it would train nothing), or it is
            tiny; the message names the photos.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # torch.manual_seed would seed the GPUs as well
        checks = [_check(instance, config, cell) for instance in instances if instance.regions]
    empty = [check.name for check in checks if check.coverage == 0 or check.empty_crops == 1]
    if empty:
        size = config.data.resolution
        raise UserError(
            f"the mask of {', '.join(empty)} is empty on the latent grid ({size} pixels, cells of {cell}; levels "
            "up to 3 of 255 are black, and excluded cells do not count); correct it or remove the photo; a thin "
            "subject is kept by a larger --resolution or --mask_dilation, or by --mask_downsample max"
        )
    tiny = [check.name for check in checks if check.marked < masks.LEAST_PIXELS]
    if tiny:
        raise UserError(
            f"the mask of {', '.join(tiny)} marks fewer than {masks.LEAST_PIXELS} pixels, too few for a subject; "
            f"{masks.BRUSH}, or remove the photo"
        )
    return checks


def _check(instance: InstancePhoto, config: TrainingConfig, cell: int) -> CheckedMask:
    regions = [_mask(instance, region.mask) for region in instance.regions]
    mask = torch.stack(regions).amax(0)
    excluded = torch.zeros_like(mask) if instance.exclude is None else _exclusion(instance, instance.exclude)
    both = [cover_mask(drawn, instance.size) for drawn in (mask, excluded)]
    shape, center = (mask.shape[0], mask.shape[1]), config.data.center_crop
    crops = [draw_crop(shape, instance.size, config.data, both[0]) for _ in range(1 if center else CROPS)]
    cuts = [[cut_mask(drawn, crop) for drawn in both] for crop in crops]
    whole = cuts[0] if center else [drawn[None].float() / 255 for drawn in both]

    def cells(drawn: Sequence[Tensor]) -> Tensor:
        return subject_cells(drawn[0][None], drawn[1][None], config.mask, cell)[0, 0]

    empty_crops = sum(not cells(cut).any() for cut in cuts) / len(cuts)
    marked = int((mask > 0).sum())
    return CheckedMask(
        instance.photo,
        instance.regions,
        cells(whole),
        min(cut[0].sum().item() for cut in cuts) / max(1.0, both[0].sum().item() / 255),
        masks.looks_inverted(above_half(mask.numpy())),
        empty_crops,
        instance.name,
        min(int((region > 0).sum()) for region in regions),
        int(((mask > 0) & (mask < 255)).sum()) / max(1, marked),
        instance.exclude,
    )


def _mask(instance: InstancePhoto, path: Path) -> Tensor:
    """Read one of a photo's masks, (H, W) uint8 from 0 to 255.

    Raises:
        UserError: it cannot be read, or has another size than its photo.
    """
    mask = read_mask(path)
    pairs.check_size(path, tuple(mask.shape), instance.photo, instance.shape[::-1])
    return mask


def _exclusion(instance: InstancePhoto, path: Path) -> Tensor:
    """Read a photo's exclusion mask, (H, W) uint8 of 0 and 255.

    Raises:
        UserError: it is a photo, or has another size than its own.
    """
    mask = read_exclusion(path, known=False)
    pairs.check_size(path, tuple(mask.shape), instance.photo, instance.shape[::-1])
    return mask


def subject_cells(mask: Tensor, excluded: Tensor | None, config: MaskConfig, cell: int) -> Tensor:
    """Return the latent masks of a batch, without the excluded cells.

    Args:
        mask: (B, 1, H, W) float32 in [0, 1].
        excluded: (B, 1, H, W) float32 of 0 and 1; None excludes nothing.
        config: how masks become latent masks.
        cell: side of a latent cell in pixels.

    Returns:
        (B, 1, h, w) float32 in [0, 1].
    """
    grid = (max(1, mask.shape[-2] // cell), max(1, mask.shape[-1] // cell))
    latent = latent_mask(mask, grid, config.mask_downsample, config.mask_dilation)
    return latent if excluded is None else latent * kept_cells(excluded, grid)


def summary(checks: Sequence[CheckedMask]) -> str:
    """Summarize the masks in a few lines for the screen; empty without masks."""
    if not checks:
        return ""
    low, high = (extreme(check.coverage for check in checks) for extreme in (min, max))
    lines = [f"masks are on: the subject covers {low:.0%} to {high:.0%} of {len(checks)} photos"]
    shown = Counter(region.phrase for check in checks for region in check.regions if region.phrase)
    if shown:
        words = ", ".join(f"{phrase!r} in {counted(number, 'photo')}" for phrase, number in sorted(shown.items()))
        lines.append(f"regions: {words}")
    grey = [f"{check.name} ({check.grey:.0%})" for check in checks if check.grey > GREY_SHARE]
    if grey:
        lines.append(f"grey levels are weights, and much of some masks is grey: {', '.join(grey)}")
    excluded = sum(check.exclude is not None for check in checks)
    if excluded:
        lines.append(f"exclusion masks: {excluded} of {len(checks)} photos have one")
    cut = [f"{check.name} ({check.kept:.0%})" for check in checks if round(check.kept, 2) < 1]
    if cut:
        lines.append(f"some crops are smaller than the subject and keep only a part of it: {', '.join(cut)}")
    empty_crops = [f"{check.name} ({check.empty_crops:.0%})" for check in checks if check.empty_crops]
    if empty_crops:
        lines.append(
            f"warning: some crops train nothing, since --mask_downsample leaves no latent cell to the subject: "
            f"{', '.join(empty_crops)}; --mask_downsample area or a --mask_dilation helps"
        )
    small = [f"{check.name} ({check.cells:.0f})" for check in checks if check.cells < LEAST_CELLS]
    if small:
        lines.append(
            f"warning: the subject covers fewer than {LEAST_CELLS} latent cells, too few for its details, in "
            f"{', '.join(small)}; take a larger --resolution, or crop these photos closer to the subject"
        )
    inverted = [check.name for check in checks if check.inverted]
    lines += masks.Looks(inverted, {check.name: check.coverage for check in checks}).warnings()
    return "\n".join(lines)


def save_sheet(checks: Sequence[CheckedMask], output: Path) -> None:
    """Write `masks.png`: each photo under each of its masks, beside the weight of each latent cell."""
    pictures = [_picture(check) for check in checks[:SHEET_LIMIT]]
    if pictures:
        captions = [f"{_title(check)}  covers {check.coverage:.0%}, crops keep {check.kept:.0%}" for check in checks]
        sheet = rendering.sheet(
            pictures, captions[: len(pictures)], columns=min(3, len(pictures)), tile=2 * rendering.TILE
        )
        files.write_picture(sheet, output / MASKS_NAME)


def _picture(check: CheckedMask) -> Image.Image:
    photo = files.read_photo(check.photo)
    overlays = [rendering.overlay(photo, files.read_mask(region.mask)) for region in check.regions]
    for overlay in overlays:
        overlay.thumbnail((rendering.TILE, rendering.TILE))  # now, so that large photos do not pile up in memory
    cells = rendering.latent_cells(check.latent.numpy(), overlays[0].size).convert("RGB")
    return rendering.joined([*overlays, cells], across=True)


def _title(check: CheckedMask) -> str:
    phrases = ", ".join(region.phrase for region in check.regions if region.phrase)
    return f"{check.name} ({phrases})" if phrases else check.name
