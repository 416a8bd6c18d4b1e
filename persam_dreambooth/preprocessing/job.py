"""What is to be segmented, by what, and where the result goes."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files
from persam_dreambooth.preprocessing.references import ReferenceFiles
from persam_dreambooth.segmentation import Method

PRESENCE_NAME = "presence.json"
"""The presence rule that lies beside a SAM."""


@dataclass(frozen=True)
class SegmentationJob:
    """One run over one folder of photos.

    Paths may be given as strings too.

    Attributes:
        images: folder of photos.
        references: the one-shot pair, or several of one subject; with `names`, of several.
        output: folder for masks, overlays, contact sheet and manifest; with `names` it has such a folder for each.
        sam: hub name, folder or `.pth` path.
        method: fidelity and techniques of PerSAM.
        device: None takes an accelerator where there is one.
        dtype: of the image encoder.
        batch_size: photos the encoder sees at once.
        pick_reference: of several references use the one that finds the others' subject best.
        names: whose reference each is, one a reference; empty for one subject without a name.
        features: another encoder for the confidence map, hub name or folder.
        presence: file of a presence rule; None takes the one beside the SAM, if there is one.
        all_instances: a mask covers every instance of the subject; needs a presence rule.
        embedding_cache: folder in which encoded photos are kept.
        dataloader_num_workers: processes that decode photos; 0 decodes in this one.
    """

    images: Path
    references: tuple[ReferenceFiles, ...]
    output: Path
    sam: str
    method: Method = field(default_factory=Method)
    device: str | None = None
    dtype: torch.dtype = torch.float32
    batch_size: int = 4
    pick_reference: bool = False
    names: tuple[str, ...] = ()
    features: str | None = None
    presence: Path | None = None
    all_instances: bool = False
    embedding_cache: Path | None = None
    dataloader_num_workers: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "sam", str(self.sam))
        for name in ("images", "output", "presence", "embedding_cache"):
            if (path := getattr(self, name)) is not None:
                object.__setattr__(self, name, Path(path))
        if self.names and len(self.names) != len(self.references):
            raise UserError(
                f"{len(self.names)} names and {len(self.references)} references were given; a reference needs one each"
            )
        odd = [name for name in self.names if Path(name).name != name or name.startswith(".")]
        if odd:
            raise UserError(f"the name {odd[0]!r} is no folder's name; use letters, digits and dashes")
        if self.all_instances and self.rule is None:
            raise UserError(
                "finding all instances needs a presence rule, which tells the subject from others; "
                "`persam-dreambooth evaluate presence` makes one"
            )

    @property
    def rule(self) -> Path | None:
        """The presence rule's file: the one given, or the one beside the SAM."""
        beside = Path(self.sam) / PRESENCE_NAME
        return self.presence or (beside if self.features is None and beside.is_file() else None)

    def subjects(self) -> dict[Path, tuple[ReferenceFiles, ...]]:
        """Each subject's own output folder, and its references."""
        if not self.names:
            return {self.output: self.references}
        named = list(zip(self.names, self.references, strict=True))
        return {
            self.output / name: tuple(one for owner, one in named if owner == name)
            for name in dict.fromkeys(self.names)
        }

    def unread(self) -> dict[Path, str]:
        """What of the folder of photos is not read; see `files.unread_files`."""
        return files.unread_files(
            self.images, (self.output, *(path for one in self.references for path in one.drawings))
        )

    def settings(self) -> dict[str, Any]:
        """What makes this run this run: with other settings the masks would be others."""
        method = asdict(self.method)
        if not self.method.edge_padding:  # runs from before this field are to be gone on with
            del method["edge_padding"]
        return {
            "pick_reference": self.pick_reference,
            "references": [one.fingerprint() for one in self.references],
            "names": list(self.names),
            "sam": self.sam,
            "dtype": str(self.dtype).removeprefix("torch."),
            "method": method,
            "features": self.features,
            "presence": None if self.rule is None else files.digest(self.rule),
            "all_instances": self.all_instances,
        }
