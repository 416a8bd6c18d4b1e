"""The two layouts without an index file: masks paired with photos by name, or stored in the photos' alpha channel."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from persam_dreambooth.errors import UserError
from persam_dreambooth.formats.masked_photos import (
    CAPTION,
    Channel,
    ListedPhoto,
    MaskedPhoto,
    clashes,
    foreign,
    read_caption,
    read_levels,
    unused,
    write_caption,
    write_photo,
)
from persam_dreambooth.images import upright
from persam_dreambooth.photos import files


@dataclass(frozen=True)
class Given:
    """Location of a trainer's data.

    Attributes:
        folder: holds the folders or the index that the convention names; or the index file itself.
        images, masks: folders of photos and masks, if they have other names.
        category: the subject's, in a COCO file with several.
    """

    folder: Path
    images: Path | None = None
    masks: Path | None = None
    category: str | None = None


class Layout(Protocol):
    """The way in which a trainer's folder pairs photos with masks."""

    @property
    def photos(self) -> str:
        """Name of the subfolder with the photos."""
        ...

    @property
    def masks(self) -> str | None:
        """Name of the subfolder with the masks; None if masks are not files."""
        ...

    def add(self, masked: MaskedPhoto, folder: Path) -> dict[str, Any]:
        """Write one photo and its mask; return its line of the index, empty if there is no index."""
        ...

    def close(self, lines: list[dict[str, Any]], folder: Path) -> None:
        """Write the index."""
        ...

    def find(self, given: Given) -> tuple[list[ListedPhoto], list[str]]:
        """Find the photos with their masks, and describe each problem of the folder in a few words."""
        ...


@dataclass(frozen=True)
class Folders:
    """Photos in one folder, masks in another or the same, distinguished by their names.

    Attributes:
        photos, masks: names of the folders.
        postfix: what is appended to the photo's stem to get the mask's.
        reserved: endings that the stem of a photo may not have.
        whole_name: whether a mask also has its photo's suffix, so that both are PNG.
        channel: which channel of a mask the trainer reads.
        turns: whether the trainer rotates photos and masks by their own EXIF; otherwise the mask lies on the
            stored pixels.
    """

    photos: str = "images"
    masks: str = "masks"
    postfix: str = ""
    reserved: tuple[str, ...] = ()
    whole_name: bool = False
    channel: Channel = "red"
    turns: bool = False

    def mask_name(self, photo: Path) -> str:
        """Return the name of a photo's mask.

        Raises:
            UserError: the photo's own name is that of a mask.
        """
        if photo.stem.endswith(self.reserved or ("\0",)):
            raise UserError(f"{photo.name} has a name that the trainer reserves for masks; rename it")
        return f"{photo.stem}{self.postfix}.png"

    def add(self, masked: MaskedPhoto, folder: Path) -> dict[str, Any]:
        """Write photo, mask and caption."""
        photo = write_photo(masked, folder / self.photos, self.whole_name)
        files.write_mask(masked.levels, unused(folder / self.masks / self.mask_name(photo)))
        write_caption(masked.caption, photo)
        return {}

    def close(self, lines: list[dict[str, Any]], folder: Path) -> None:
        """There is no index."""

    def find(self, given: Given) -> tuple[list[ListedPhoto], list[str]]:
        """Pair photos and masks by name."""
        images = given.images or _inside(given.folder, self.photos)
        masks = given.masks or (images if self.masks == self.photos else _inside(given.folder, self.masks))
        for path in (images, masks):
            if not path.is_dir():
                raise UserError(f"{path} is not a folder; give the folders of the trainer's photos and masks")
        if images.resolve() == masks.resolve() and not self.postfix:
            raise UserError(f"photos and masks would both be read from {images}; give --images and --masks")
        photos = [path for path in files.list_photos(images) if not path.stem.endswith(self.reserved or ("\0",))]
        candidates = [path for path in files.list_photos(masks) if path.stem.endswith(self.postfix)]
        problems = clashes(photos) + foreign(images, photos) + (foreign(masks) if images != masks else [])
        by_key: dict[str, Path] = {}
        for path in candidates:
            key = path.name if self.whole_name else path.stem.removesuffix(self.postfix)
            if key in by_key:
                problems.append(f"{by_key[key].name} and {path.name} are masks of the same photo; remove one")
            by_key[key] = path
        items = []
        for photo in photos:
            mask = by_key.pop(photo.name if self.whole_name else photo.stem, None)
            if mask is None:
                problems.append(f"{photo.name} has no mask; add one, or remove the photo")
                continue
            levels = partial(read_levels, mask, self.channel, None if self.turns else photo)
            items.append(ListedPhoto(photo, levels, read_caption(photo.with_suffix(CAPTION))))
        return items, problems + [f"the mask {path.name} has no photo; remove it" for path in by_key.values()]


@dataclass(frozen=True)
class Alpha:
    """RGBA PNGs that are opaque where the subject is.

    Attributes:
        photos: name of the folder.
        background: whether transparent areas keep their colours, as training needs; otherwise they are erased.
    """

    photos: str = "images"
    background: bool = True
    masks: None = None

    def add(self, masked: MaskedPhoto, folder: Path) -> dict[str, Any]:
        """Write the photo with its mask as alpha channel, and the caption."""
        picture = masked.image.copy()
        alpha = Image.fromarray(masked.levels)
        if not self.background:
            picture = Image.composite(picture, Image.new("RGB", picture.size), alpha)
        picture.putalpha(alpha)
        photo = unused(folder / self.photos / f"{masked.photo.stem}.png")
        files.write_picture(picture, photo)
        write_caption(masked.caption, photo)
        return {}

    def close(self, lines: list[dict[str, Any]], folder: Path) -> None:
        """There is no index."""

    def find(self, given: Given) -> tuple[list[ListedPhoto], list[str]]:
        """Find all pictures, each of which must have an alpha channel."""
        images = given.images or _inside(given.folder, self.photos)
        photos = files.list_photos(images)
        read_photo: Callable[[Path], Image.Image] = _opaque if self.background else files.read_photo
        items = [
            ListedPhoto(
                photo, partial(_alpha, photo), read_caption(photo.with_suffix(CAPTION)), partial(read_photo, photo)
            )
            for photo in photos
        ]
        return items, clashes(photos) + foreign(images, photos)


def _alpha(photo: Path) -> Image.Image:
    picture = files.read_picture(photo)
    if not picture.has_transparency_data:
        raise UserError(f"{photo.name} has no alpha channel, which would be its mask; add one, or remove the photo")
    return upright(picture).convert("RGBA").getchannel("A")


def _opaque(photo: Path) -> Image.Image:
    """Read a photo with the colours below its transparency, which `read_photo` would turn white."""
    return upright(files.read_picture(photo)).convert("RGBA").convert("RGB")


def _inside(folder: Path, name: str) -> Path:
    """Return the subfolder of that name, or the folder itself if the user gave the subfolder."""
    inside = folder / name
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give the folder that holds the trainer's photos and masks")
    return inside if inside.is_dir() else folder
