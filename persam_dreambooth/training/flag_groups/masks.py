"""Flags for the source of the masks and their weight in the loss."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from persam_dreambooth.errors import UserError
from persam_dreambooth.flags import Flags, flag
from persam_dreambooth.method_names import PERSAM, SEGGPT, MethodName, refuse_sam, refuse_seggpt, refuse_size_alone


@dataclass
class MaskConfig(Flags):
    """Source of the masks and their weight in the loss."""

    _argument_group_name: ClassVar[str] = "masks"

    masked_loss: bool = flag(True, "take the loss over the subject only; --no_masked_loss is plain DreamBooth")
    instance_mask_dir: str | None = flag(
        None, "folder of masks named like the photos, or the --output of `persam-dreambooth segment`"
    )
    region_mask_dir: str | None = flag(
        None,
        "instead of --instance_mask_dir, for several subjects in the same photos: a folder with a subfolder "
        "of masks for each subject, named by its words in the prompts, such as 'sks dog'; `persam-dreambooth "
        "segment --subject_name` writes such a folder",
    )
    reference_image: str | None = flag(
        None,
        "instead of masks: the photo whose mask you have; the subject is found in the other photos before training",
    )
    reference_mask: str | None = flag(
        None, "the mask of --reference_image: the subject painted on black, in the photo's size"
    )
    sam: str = flag("facebook/sam-vit-huge", "the SAM that finds the subject: hub name, folder or .pth checkpoint")
    segmentation_method: MethodName = flag(
        PERSAM, "how the subject is found with --reference_image; see `persam-dreambooth segment --help`"
    )
    segmentation_features: str | None = flag(
        None, "with --reference_image: a DINOv3 or DINOv2 that locates the subject, as --features of `segment`"
    )
    segmentation_features_size: int | None = flag(
        None, "side in pixels of the square that --segmentation_features sees; 64 of its patches if unset", min=1
    )
    segmentation_seggpt: str | None = flag(
        None, "with --segmentation_method seggpt: the SegGPT, as --seggpt of `segment`; BAAI/seggpt-vit-large if unset"
    )
    exclude_mask_dir: str | None = flag(
        None,
        "folder of masks, named like the photos, that mark what no term of the loss may train on (a hand, a "
        "watermark); if unset, files <photo>-exclude.png next to the photos' masks",
    )
    unmasked_probability: float = flag(
        0.0,
        "share of the steps that are trained without masks, on whole photos; which ones depends on --seed and the "
        "step's number",
        min=0,
        max=1,
    )
    uncertain_photo_weight: float = flag(
        0.0,
        "loss weight of photos in which segmentation is unsure of the subject or did not find it: 0 leaves them "
        "out, 1 trains on them as on the others",
        min=0,
        max=1,
        old_names=["doubtful_photo_weight"],
    )
    mask_downsample: Literal["area", "nearest", "max", "min"] = flag(
        "area",
        "mask value of a latent cell: area: the mean over its pixels; nearest: the centre pixel; max: the largest; "
        "min: the smallest",
    )
    mask_dilation: int = flag(0, "dilate the mask by this many pixels of the crop before it is downsampled", min=0)
    mask_normalization: Literal["sample", "batch", "none"] = flag(
        "sample",
        "divide the loss by the mask's size in each photo (sample), in the whole batch (batch), or not at all (none)",
    )
    background_weight: float = flag(0.0, "weight of the loss outside the mask; the paper's is 0", min=0, max=1)
    background_prior_weight: float = flag(
        0.0,
        "weight of a loss that keeps the prediction outside the mask close to the base model's for --class_prompt; "
        "the paper's is 0",
        min=0,
    )
    cache_background_prior: int | None = flag(
        None,
        "with --cache_latents: train each cached version of a photo on this many fixed draws of noise and "
        "timestep only, and keep the base model's predictions for them; once all are computed, the background "
        "prior costs almost nothing",
        min=1,
    )
    attention_loss_weight: float = flag(
        0.0,
        "all families but Krea 2 and Lumina 2: weight of Break-A-Scene's attention loss, which pulls "
        "the attention to the identifier, or to the words of each folder of --region_mask_dir, towards its "
        "mask; its paper uses 0.01",
        min=0,
    )
    identifier: str | None = flag(
        None,
        "with --attention_loss_weight: the word in the prompts that names the subject, such as sks; not with "
        "--region_mask_dir, whose folders name the subjects",
    )

    def __post_init__(self) -> None:
        if not self.masked_loss and (self.instance_mask_dir or self.region_mask_dir or self.reference_image):
            given = "--region_mask_dir" if self.region_mask_dir else "--instance_mask_dir and --reference_image"
            raise UserError(f"--no_masked_loss uses no masks; drop {given}")
        super().__post_init__()
        if not self.masked_loss and self.attention_loss_weight > 0:
            raise UserError(
                f"--attention_loss_weight {self.attention_loss_weight:g} needs masks, which are what attention is "
                "compared with; drop it, or drop --no_masked_loss and give masks"
            )
        if not self.masked_loss and (self.exclude_mask_dir or self.unmasked_probability):
            name = "--exclude_mask_dir" if self.exclude_mask_dir else "--unmasked_probability"
            raise UserError(f"{name} is about masks, which --no_masked_loss does not use; drop one of the two")
        if not self.masked_loss and self.background_prior_weight > 0:
            raise UserError(
                f"--background_prior_weight {self.background_prior_weight:g} needs masks, without which nothing is "
                "background; drop it, or drop --no_masked_loss and give masks"
            )

        refuse_size_alone(
            self.segmentation_method, self.segmentation_features, self.segmentation_features_size, "segmentation_"
        )
        if self.segmentation_method == SEGGPT and self.segmentation_features:
            raise UserError("--segmentation_features is not read by SegGPT; drop it, or give --segmentation_seggpt")
        refuse_seggpt(self.segmentation_method, segmentation_seggpt=self.segmentation_seggpt)

    def refuse_idle_sam(self) -> None:
        """Refuse `--sam` if the method does not use it; to be called if nothing else of the run needs a SAM.

        Raises:
            UserError: one was given.
        """
        if self.sam != _default(self, "sam"):
            refuse_sam(self.segmentation_method, "--sam", "--segmentation_method")

    def refuse_segmentation(self) -> None:
        """Refuse the flags for making masks from a reference, to be called if no subject has a reference.

        Raises:
            UserError: one of them was given.
        """
        for name in (
            "segmentation_method",
            "segmentation_features",
            "segmentation_features_size",
            "segmentation_seggpt",
        ):
            if getattr(self, name) != _default(self, name):
                raise UserError(
                    f"--{name} is about masks that are made from --reference_image; give that with --reference_mask, "
                    f"or drop --{name}"
                )

    def check_source(self, columns: Sequence[str]) -> None:
        """Raise a UserError unless masks come from one place.

        Args:
            columns: the flags that were given and take masks from a data set.
        """
        if bool(self.reference_image) != bool(self.reference_mask):
            raise UserError("--reference_image and --reference_mask belong together; give both or neither")
        if not self.masked_loss and columns:
            raise UserError(f"--no_masked_loss uses no masks; drop {columns[0]}")
        sources = {
            "--instance_mask_dir": self.instance_mask_dir,
            "--region_mask_dir": self.region_mask_dir,
            "--reference_image": self.reference_image,
            **dict.fromkeys(columns, True),
        }
        given = [name for name, value in sources.items() if value]
        if self.masked_loss and len(given) > 1:
            raise UserError(f"masks come from one place, and {' and '.join(given)} were given; keep one of them")
        if self.masked_loss and not given:
            raise UserError(
                "masks are needed: give --instance_mask_dir, or --reference_image with --reference_mask, or "
                "--no_masked_loss for plain DreamBooth"
            )


def _default(group: Flags, name: str) -> Any:
    return type(group).__dataclass_fields__[name].default  # type: ignore[attr-defined]  # its subclasses are dataclasses
