"""Flags of all verbs with a SAM."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from persam_dreambooth.flags import Flags, flag
from persam_dreambooth.method_names import refuse_sam

if TYPE_CHECKING:  # importing torch takes seconds, and --help does not need it
    import torch

    from persam_dreambooth.segmentation import Backbone


@dataclass
class SamFlags(Flags):
    """The SAM, its device and its precision."""

    _argument_group_name: ClassVar[str] = "the SAM"

    sam: str = flag(
        "facebook/sam-vit-huge", "a SAM: hub name, folder or original .pth checkpoint; the paper uses ViT-H"
    )
    sam_size: int | None = flag(
        None,
        "side in pixels of the SAM's square input, if larger than in its training, such as 1536 for large "
        "photos; slower; measured on drawings only; works with facebook/sam-vit-base, -large and -huge; 1024 "
        "if unset",
        min=1,
    )
    device: str | None = flag(None, "cpu, cuda, cuda:1 or mps; if unset, an accelerator where available")
    dtype: Literal["float32", "bfloat16", "float16"] = flag("float32", "precision of SAM's image encoder")

    def refuse_unread(self, method: str, names: Sequence[str] = ("sam", "sam_size", "dtype")) -> None:
        """Refuse flags of the SAM, unless they have their defaults, for a method without one.

        Raises:
            UserError: one of them was given.
        """
        for name in names:
            if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                refuse_sam(method, f"--{name}")

    @property
    def torch_dtype(self) -> "torch.dtype":
        """`dtype` as a `torch.dtype`."""
        import torch

        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype

    def backbone(self) -> "Backbone":
        """Load the SAM; raises as `load_backbone`."""
        from persam_dreambooth.segmentation import load_backbone

        return load_backbone(self.sam, self.device, self.torch_dtype, self.sam_size)
