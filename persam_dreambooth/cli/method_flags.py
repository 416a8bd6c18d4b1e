"""Flags that choose and set the one-shot method: PerSAM, PerSAM-F, INSID3, INSID3 with SAM, SegGPT."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from persam_dreambooth.errors import UserError
from persam_dreambooth.flags import Flags, flag
from persam_dreambooth.method_names import (
    INSID3,
    INSID3_SAM,
    MOST_CROP_LAYERS,
    PERSAM,
    PERSAM_F,
    SEGGPT,
    SEGGPT_MODEL,
    MethodName,
    refuse_size_alone,
)

if TYPE_CHECKING:  # importing torch takes seconds, and --help does not need it
    from persam_dreambooth.segmentation import AnyMethod, FeatureEncoder

READ_BY = {
    "features": (PERSAM, PERSAM_F, INSID3, INSID3_SAM),
    "features_size": (PERSAM, PERSAM_F, INSID3, INSID3_SAM),
    "crop_n_layers": (PERSAM, PERSAM_F, INSID3, INSID3_SAM),
    "fidelity": (PERSAM, PERSAM_F, INSID3, INSID3_SAM),
    "alpha": (PERSAM, PERSAM_F),
    "refinement": (PERSAM, PERSAM_F),
    "negative_prior": (PERSAM,),
    "guided_attention": (PERSAM,),
    "semantic_prompting": (PERSAM,),
    "edge_padding": (PERSAM, PERSAM_F),
    "tau": (INSID3, INSID3_SAM),
    "merge_threshold": (INSID3, INSID3_SAM),
    "agreement": (INSID3_SAM,),
    "seggpt": (SEGGPT,),
    "ensemble": (SEGGPT,),
}
"""Flags that only some methods read; the others refuse them."""


@dataclass
class MethodFlags(Flags):
    """The one-shot method and its settings."""

    _argument_group_name: ClassVar[str] = "the method"

    method: MethodName = flag(
        PERSAM,
        "start with persam, which needs only a SAM. If its masks lie on look-alikes, add --features. If they "
        "cover only a part of the subject, or too much: persam-f, which fits two weights on the reference in "
        "about a second. If they still lie on something else: insid3-sam (a DINOv3 finds the subject, the SAM "
        "outlines it). Without a SAM: insid3 (a DINOv3 alone, with coarse outlines), or seggpt (for "
        "comparison)",
    )
    features: str | None = flag(
        None,
        "a DINOv3 or DINOv2, hub name or folder, that locates the subject; it tells individuals apart better "
        "than a SAM does, which helps if photos also show others of the subject's kind. If unset, persam and "
        "persam-f use the SAM alone, insid3 and insid3-sam facebook/dinov3-vitl16-pretrain-lvd1689m",
    )
    features_size: int | None = flag(
        None, "side in pixels of the square that the --features model sees; 64 of its patches if unset", min=1
    )
    crop_n_layers: int = flag(
        0,
        "all but seggpt: also search overlapping crops of each photo, 4 with 1, 20 with 2, 84 with 3, and keep the "
        "most similar mask; for small subjects and crowds, best with a DINO; 1 takes five times as long as 0",
        min=0,
        max=MOST_CROP_LAYERS,
    )
    fidelity: Literal["corrected", "official", "paper"] = flag(
        "corrected",
        "corrected: official with its faults fixed; official: as the authors' code; paper: as the paper prints it, so "
        "that persam-f is guided like persam (persam and persam-f only)",
    )
    alpha: float = flag(1.0, "persam and persam-f: weight of the attention bias in equation 8, with --fidelity paper")
    refinement: bool = flag(True, "persam and persam-f: cascaded post-refinement, two further decoder passes")
    negative_prior: bool = flag(True, "persam only: prompt with the least similar point as background")
    guided_attention: bool = flag(True, "persam only: target-guided attention")
    semantic_prompting: bool = flag(True, "persam only: target-semantic prompting")
    edge_padding: float = flag(
        0.0,
        "persam and persam-f, with --fidelity corrected: extend the photo on each side by this share of its "
        "longer side, such as 0.06, by repeating its edge pixels; improves masks of subjects that the edge "
        "cuts off, and makes those of whole subjects slightly worse",
    )
    tau: float = flag(
        0.6, "insid3 and insid3-sam: minimum mean cosine similarity at which groups of patches are joined"
    )
    merge_threshold: float = flag(
        0.2, "insid3 and insid3-sam: similarity to the subject above which a group of patches belongs to it"
    )
    agreement: float = flag(
        0.0, "insid3-sam only: IoU with INSID3's mask below which the SAM's mask is dropped", min=0, max=1
    )
    seggpt: str = flag(
        SEGGPT_MODEL, "seggpt only: the SegGPT: hub name, folder or its authors' .pth file; or a Painter's .pth file"
    )
    ensemble: Literal["feature", "spatial"] = flag(
        "feature",
        "seggpt with several references: feature: average over them in every layer, as the authors' code "
        "does; spatial: show them as one image, which takes no more time than one reference",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, methods in READ_BY.items():
            default = type(self).__dataclass_fields__[name].default
            if self.method not in methods and getattr(self, name) != default:
                given = f"no_{name}" if default is True else name
                raise UserError(
                    f"--{given} is not read by --method {self.method}, only by {' and '.join(methods)}; leave it out"
                )
        refuse_size_alone(self.method, self.features, self.features_size)

    def refuse_unused(self, references: int, embedding_cache: str | None) -> None:
        """Refuse a cache that SegGPT does not use, and an ensemble of a single reference.

        Args:
            references: number of references that a subject is learned from.
            embedding_cache: value of that flag.

        Raises:
            UserError: a cache with SegGPT, or an ensemble of less than two references.
        """
        if embedding_cache and self.method == SEGGPT:
            raise UserError(
                "--embedding_cache has no effect on --method seggpt, which encodes each photo with the subject; "
                "leave it out"
            )
        if self.ensemble != "feature" and references < 2:
            raise UserError(
                "--ensemble combines several references of one subject; give and use several, or leave it out"
            )

    def feature_encoder(self, device: str | None) -> "FeatureEncoder | None":
        """Load the DINO that the method locates with; None for SegGPT, and for PerSAM on its SAM's own features."""
        from persam_dreambooth.segmentation import FeatureEncoder
        from persam_dreambooth.segmentation.loading import DINO

        name = self.features or (DINO if self.method in (INSID3, INSID3_SAM) else None)
        return FeatureEncoder.from_pretrained(name, self.features_size, device) if name else None

    def chosen_method(self) -> "AnyMethod":
        """Return the method with its settings."""
        from persam_dreambooth.segmentation import Insid3Method, Method, SegGptMethod

        if self.method == SEGGPT:
            return SegGptMethod(self.seggpt, self.ensemble)
        if self.method in (INSID3, INSID3_SAM):
            return Insid3Method(
                self.fidelity, self.tau, self.merge_threshold, self.method == INSID3_SAM, self.agreement
            )
        if self.method == PERSAM_F:
            return Method.persam_f(self.fidelity, self.refinement, self.edge_padding, self.alpha)
        return Method(
            fidelity=self.fidelity,
            negative_prior=self.negative_prior,
            refinement=self.refinement,
            guided_attention=self.guided_attention,
            semantic_prompting=self.semantic_prompting,
            alpha=self.alpha,
            edge_padding=self.edge_padding,
        )
