"""Settings of PerSAM, PerSAM-F, INSID3 and SegGPT."""

from dataclasses import dataclass
from typing import Final, Literal, Self, TypeAlias

from persam_dreambooth.errors import UserError
from persam_dreambooth.method_names import INSID3, INSID3_SAM, PERSAM, PERSAM_F, SEGGPT, SEGGPT_MODEL, MethodName
from persam_dreambooth.segmentation.fidelity import FIDELITIES, Corrected, Fidelity

MOST_PADDING: Final = 0.5
"""Largest edge padding; with it the photo fills half of the model's square along its longer side."""


@dataclass(frozen=True)
class Method:
    """Variant of PerSAM: its fidelity to the official code and the techniques it uses.

    Attributes:
        fidelity: "official" reproduces the authors' code number for number; "corrected" is the same
            on square photos with PerSeg's masks, and fixes its errors on all others; "paper" follows
            the equations as printed.
        negative_prior: add the negative point of equation 7.
        refinement: run the two further decoder passes of cascaded post-refinement.
        guided_attention: use target-guided attention, equation 8.
        semantic_prompting: use target-semantic prompting, equations 9 and 10.
        alpha: factor of equation 8; used by fidelity "paper" only.
        mask_weights: use PerSAM-F's two learned weights, equation 11, on the masks of the first decoder pass.
        edge_padding: width of the border that replicates the photo's edge for SAM, as a share of the photo's
            longer side; helps subjects that are cut off by the edge; fidelity "corrected" only.
    """

    fidelity: Fidelity = "corrected"
    negative_prior: bool = True
    refinement: bool = True
    guided_attention: bool = True
    semantic_prompting: bool = True
    alpha: float = 1.0
    mask_weights: bool = False
    edge_padding: float = 0.0

    @classmethod
    def persam_f(
        cls,
        fidelity: Fidelity = "corrected",
        refinement: bool = True,
        edge_padding: float = 0.0,
        alpha: float = 1.0,
    ) -> Self:
        """Return PerSAM-F: with fidelity "paper" PerSAM plus mask weights, as the paper prints it (table 4).

        The other fidelities follow the released code: mask weights, one positive point, no guidance.
        """
        printed = fidelity == "paper"
        return cls(
            fidelity=fidelity,
            negative_prior=printed,
            refinement=refinement,
            guided_attention=printed,
            semantic_prompting=printed,
            alpha=alpha,
            mask_weights=True,
            edge_padding=edge_padding,
        )

    @property
    def name(self) -> MethodName:
        """The name of PerSAM or PerSAM-F on the command line."""
        return PERSAM_F if self.mask_weights else PERSAM

    @property
    def is_released_f(self) -> bool:
        """Whether this is PerSAM-F without guidance, as its authors released it.

        That code differs from PerSAM in two further details: its target feature is the midpoint of mean and maximum,
        and both refinement passes are prompted with a box.
        """
        return self.mask_weights and not (self.guided_attention or self.semantic_prompting)

    @property
    def rules(self) -> Corrected:
        """The rules of its fidelity."""
        return FIDELITIES[self.fidelity]

    def __post_init__(self) -> None:
        if self.fidelity not in FIDELITIES:
            raise UserError(f"fidelity {self.fidelity!r} is unknown; choose one of {', '.join(FIDELITIES)}")
        if self.alpha != 1 and self.fidelity != "paper":
            raise UserError(f"alpha is used by fidelity 'paper' only, not by {self.fidelity!r}; leave it at 1")
        if not 0 <= self.edge_padding <= MOST_PADDING:
            raise UserError(
                f"edge_padding {self.edge_padding} must lie between 0 and {MOST_PADDING}, a share of the photo's "
                "longer side; try 0.06 for subjects that are cut off by the edge"
            )
        if self.edge_padding and self.fidelity != "corrected":
            raise UserError(
                f"edge_padding is used by fidelity 'corrected' only, not by {self.fidelity!r}; leave it at 0"
            )


@dataclass(frozen=True)
class Insid3Method:
    """Settings of INSID3; the defaults are the paper's.

    Attributes:
        fidelity: "official" squeezes photos into the encoder's square, as the authors' code does; "corrected" keeps
            their aspect and pads them, and counts a reference cell as the subject's if the mask covers more than half
            of it.
        tau: minimum mean cosine similarity at which groups of cells are joined to one cluster, in (0, 1).
        merge_threshold: product of similarities above which a cluster belongs to the subject, in (-1, 1).
        with_sam: let a SAM draw the outline; see `Insid3Sam`.
        agreement: with `with_sam`, the IoU with INSID3's mask, in [0, 1], below which SAM's mask is dropped. 0, the
            default, keeps SAM's masks unless they are empty: higher values gave worse masks in tinyworld.
        svd_components: dimensions of the positional subspace, below the encoder's channels; None for the paper's
            share of them.
    """

    fidelity: Fidelity = "corrected"
    tau: float = 0.6
    merge_threshold: float = 0.2
    with_sam: bool = False
    agreement: float = 0.0
    svd_components: int | None = None

    @property
    def name(self) -> MethodName:
        """The method's name on the command line."""
        return INSID3_SAM if self.with_sam else INSID3

    def __post_init__(self) -> None:
        if self.fidelity not in ("corrected", "official"):
            raise UserError(f"INSID3 has no fidelity {self.fidelity!r}; choose corrected or official")
        if not 0 < self.tau < 1:
            raise UserError(f"tau {self.tau} must lie between 0 and 1; the paper uses 0.6")
        if not -1 < self.merge_threshold < 1:
            raise UserError(f"merge_threshold {self.merge_threshold} must lie between -1 and 1; the paper uses 0.2")
        if not 0 <= self.agreement <= 1:
            raise UserError(f"agreement {self.agreement} must lie between 0 and 1; it is an IoU, try 0.5")
        if self.svd_components is not None and self.svd_components < 1:
            raise UserError(
                f"svd_components {self.svd_components} must be at least 1; leave it out for the paper's share"
            )


@dataclass(frozen=True)
class SegGptMethod:
    """Settings of SegGPT.

    Attributes:
        model: hub name, folder or `.pth` file that `load_segmenter` loads.
        ensemble: how several examples are combined. "feature" averages the photo's features over the examples in every
            layer, as the authors' code does; "spatial" tiles the examples in one picture, as only the paper describes,
            which costs no more than one example.
        memory_frames: in a video, the number of previous frames that are examples too, 0 or more.
    """

    model: str = SEGGPT_MODEL
    ensemble: Literal["feature", "spatial"] = "feature"
    memory_frames: int = 8

    @property
    def name(self) -> MethodName:
        """The method's name on the command line."""
        return SEGGPT

    def __post_init__(self) -> None:
        if self.ensemble not in ("feature", "spatial"):
            raise UserError(f"SegGPT has no ensemble {self.ensemble!r}; choose feature or spatial")
        if self.memory_frames < 0:
            raise UserError(f"memory_frames {self.memory_frames} must be at least 0; it is a number of frames")


AnyMethod: TypeAlias = Method | Insid3Method | SegGptMethod
"""The settings of any method."""

METHODS: Final[dict[MethodName, AnyMethod]] = {
    PERSAM: Method(),
    PERSAM_F: Method.persam_f(),
    INSID3: Insid3Method(),
    INSID3_SAM: Insid3Method(with_sam=True),
    SEGGPT: SegGptMethod(),
}
"""Each method with its default settings, by its name on the command line."""
