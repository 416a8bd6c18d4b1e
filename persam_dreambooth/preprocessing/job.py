"""Settings of one segmentation run: the photos, the references, the model, the output folder."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from persam_dreambooth.photos.listing import folders_below, where
from persam_dreambooth.preprocessing.references import ReferenceFiles
from persam_dreambooth.segmentation import Agreement, AnyMethod, Method, TextPrompt
from persam_dreambooth.segmentation.crops import check_crops

PRESENCE_NAME = "presence.json"
"""File name of the presence rule next to a SAM."""


@dataclass(frozen=True)
class SegmentationJob:
    """One run over one folder of photos.

    Paths may be given as strings too.

    Attributes:
        images: folder of photos.
        references: one or more references of one subject; with `names`, of several subjects. Empty with `text`.
        output: folder for masks, overlays, contact sheet and manifest; with `names`, one subfolder per subject.
        sam: hub name, folder or `.pth` file of the SAM.
        method: PerSAM, INSID3 or SegGPT, with its settings.
        device: torch device; None uses an accelerator if there is one.
        dtype: of the image encoder's weights.
        batch_size: photos per forward pass of the image encoder.
        pick_reference: of several references, use only the one that segments the others best.
        names: for each reference, the name of its subject; empty for a single subject without a name.
        features: hub name or folder of a DINO: INSID3's, or another encoder for PerSAM's confidence map. None uses
            the SAM's for PerSAM, and the paper's DINOv3 for INSID3.
        features_size: side of the square that the DINO sees, in pixels; None for 64 patches.
        presence: file of a presence rule; None uses the one next to the SAM, if there is one, for PerSAM without
            `features`, `sam_size` and `crop_n_layers`.
        agreement: decide on presence by agreement with other methods instead of a rule; for PerSAM only. See
            `AgreementCheck`.
        crop_n_layers: layers of crops that are searched too, 0 to 3; see `CropSearch`.
        all_instances: masks cover every instance of the subject; needs a presence rule.
        min_region: fill holes and remove specks of fewer pixels than this in found masks; 0 changes nothing.
        draw: "mask" draws only overlays; "confidence" also draws the location confidence map of each photo.
        embedding_cache: folder that keeps image embeddings for later runs; None keeps none.
        dataloader_num_workers: worker processes that decode photos; 0 decodes in this process.
        sam_size: side in pixels of a square larger than the SAM was trained with; None for the SAM's own.
        text: a phrase. Without references, the photo where it has the highest score becomes the reference. With
            references, masks that it does not describe are rated "not found"; see `PhraseCheck`.

    Raises:
        UserError: no reference and no text, names and references differ in number, names with a text, a name cannot
            be a folder name, `all_instances` is set without a presence rule, or `agreement` with a rule or INSID3.
    """

    images: Path
    references: tuple[ReferenceFiles, ...]
    output: Path
    sam: str
    method: AnyMethod = field(default_factory=Method)
    device: str | None = None
    dtype: torch.dtype = torch.float32
    batch_size: int = 4
    pick_reference: bool = False
    names: tuple[str, ...] = ()
    features: str | None = None
    features_size: int | None = None
    presence: Path | None = None
    all_instances: bool = False
    min_region: int = 0
    draw: Literal["mask", "confidence"] = "mask"
    embedding_cache: Path | None = None
    dataloader_num_workers: int = 0
    sam_size: int | None = None
    text: TextPrompt | None = None
    agreement: Agreement | None = None
    crop_n_layers: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "sam", str(self.sam))
        for name in ("images", "output", "presence", "embedding_cache"):
            if (path := getattr(self, name)) is not None:
                object.__setattr__(self, name, Path(path))
        if not self.references and self.text is None:
            raise UserError("a segmentation needs a reference photo or a text for the subject; give one of them")
        if self.names and (self.text or any(reference.text for reference in self.references)):
            raise UserError(
                "a text describes one subject; segment several subjects one after the other, or give masks"
            )
        if self.names and len(self.names) != len(self.references):
            raise UserError(
                f"{len(self.names)} names were given for {len(self.references)} references; give one name for each"
            )
        invalid = [name for name in self.names if Path(name).name != name or name.startswith(".")]
        if invalid:
            raise UserError(f"the name {invalid[0]!r} cannot be a folder's name; use letters, digits and dashes")
        if self.min_region < 0:
            raise UserError(f"min_region {self.min_region} must be at least 0; it is a number of pixels")
        if self.agreement and (self.presence or not isinstance(self.method, Method)):
            other = "a presence rule" if self.presence else f"--method {self.method.name}"
            raise UserError(
                f"agreement compares PerSAM with other methods and cannot be used with {other}; drop one of them"
            )
        if self.crop_n_layers:
            check_crops(self.method, self.crop_n_layers)
        if self.all_instances and self.rule is None:
            raise UserError(
                "finding all instances needs a presence rule, which tells the subject from others; "
                "`persam-dreambooth evaluate presence` makes one"
            )

    @property
    def rule(self) -> Path | None:
        """The presence rule's file: the one given, or the one next to the SAM, for PerSAM on that SAM as it is."""
        beside = Path(self.sam) / PRESENCE_NAME
        changed = self.features is not None or self.sam_size is not None or self.crop_n_layers > 0
        of_sam = isinstance(self.method, Method) and not changed
        return self.presence or (beside if of_sam and not self.agreement and beside.is_file() else None)

    @property
    def drawings(self) -> tuple[Path, ...]:
        """Mask and scribble files of all references."""
        return tuple(path for reference in self.references for path in reference.drawings)

    def photos(self) -> list[Path]:
        """List the photos to segment, sorted by name; errors as for `files.find_photos`."""
        return files.find_photos(self.images, self.drawings)

    def unread(self) -> dict[Path, str]:
        """List the other files in the folder of photos, each with the reason; see `files.unread_files`."""
        return files.unread_files(self.images, (self.output, *self.drawings))

    def albums(self) -> "list[SegmentationJob]":
        """List one job per folder of photos: `images` itself and its subfolders.

        The outputs form the same tree below `output`; the review page, and training with kohya's folders, expect that.

        Raises:
            UserError: there is no such folder, or no photo in any.
        """
        if not self.images.is_dir():
            raise UserError(f"{self.images} is not a folder; give the folder that holds the photos")
        drawings, output = set(map(where, self.drawings)), where(self.output)
        albums = []
        for folder in folders_below(self.images):
            if where(folder) == output != where(self.images):
                continue
            photos = [path for path in files.list_photos(folder) if where(path) not in drawings]
            if any(not path.name.endswith(files.NO_PHOTOS) for path in photos):
                albums.append(replace(self, images=folder, output=self.output / folder.relative_to(self.images)))
        if not albums:
            raise UserError(f"no photo found in {self.images} or in folders in it; put photos there")
        return albums

    def subjects(self) -> dict[Path, tuple[ReferenceFiles, ...]]:
        """Return the references of each subject, by the subject's output folder."""
        if not self.names:
            return {self.output: self.references}
        named = list(zip(self.names, self.references, strict=True))
        return {
            self.output / name: tuple(reference for owner, reference in named if owner == name)
            for name in dict.fromkeys(self.names)
        }

    def settings(self) -> dict[str, Any]:
        """Return every setting that changes the masks, as JSON values; a run with the same settings can be resumed."""
        method = asdict(self.method)
        if not method.get("edge_padding"):  # so that runs from before this field can be resumed
            method.pop("edge_padding", None)
        agreement = asdict(self.agreement) if self.agreement else None
        if agreement and agreement["exemplar"] is None:
            del agreement["exemplar"]  # likewise
        return {
            "pick_reference": self.pick_reference,
            "references": [reference.fingerprint() for reference in self.references],
            "names": list(self.names),
            "sam": self.sam,
            "dtype": str(self.dtype).removeprefix("torch."),
            "method": method,
            "features": self.features,
            "presence": None if self.rule is None else files.digest(self.rule),
            "all_instances": self.all_instances,
            # None where it is not given: runs from before these fields have no such key, and can be resumed.
            "features_size": self.features_size,
            "sam_size": self.sam_size,
            "min_region": self.min_region or None,
            "text": asdict(self.text) if self.text else None,
            "agreement": agreement,
            "crop_n_layers": self.crop_n_layers or None,
        }
