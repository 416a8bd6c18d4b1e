"""Flags of `evaluate BENCHMARK`: the data, the method and the episodes."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from persam_dreambooth.cli.sam_flags import SamFlags
from persam_dreambooth.errors import UserError, counted
from persam_dreambooth.flags import Flags, flag
from persam_dreambooth.method_names import (
    INSID3,
    MOST_CROP_LAYERS,
    PERSAM,
    PERSAM_F,
    SEGGPT,
    SEGGPT_MODEL,
    WITHOUT_SAM,
    MethodName,
    refuse_seggpt,
    refuse_size_alone,
)

if TYPE_CHECKING:  # importing torch takes seconds, and --help does not need it
    from persam_dreambooth.segmentation import AnyMethod, OneShotSegmenter

TABLES = ("4", "5", "6")
"""The paper's tables with ablations."""


@dataclass
class EvaluateFlags(Flags):
    """Flags of `evaluate BENCHMARK`."""

    data: str | None = flag(None, "the benchmark's folder; docs/evaluation.md shows its layout")
    output: str | None = flag(None, "folder for results.json, results.csv, worst.png, masks/ and episodes.json")
    method: MethodName = flag(PERSAM, "as for `segment`; not for ablate")
    features: str | None = flag(
        None, "as for `segment`: the DINO of insid3 and insid3-sam, or for the confidence map of persam and persam-f"
    )
    features_size: int | None = flag(
        None, "side in pixels of the square that the --features model sees; 64 of its patches if unset", min=1
    )
    crop_n_layers: int = flag(0, "as for `segment`: also search crops of each photo", min=0, max=MOST_CROP_LAYERS)
    fidelity: Literal["corrected", "official", "paper"] = flag(
        "corrected",
        "corrected: official with its faults fixed; official: as the authors' code; paper: as the paper prints it, so "
        "that persam-f is guided like persam",
    )
    seggpt: str = flag(SEGGPT_MODEL, "--method seggpt only: as for `segment`")
    ensemble: Literal["feature", "spatial"] = flag(
        "feature", "--method seggpt with --shots above 1: how the references are combined, as for `segment`"
    )
    reference: Literal["mask", "box"] = flag(
        "mask",
        "what each reference is given as: its mask, or only the box around it, from which the SAM makes the mask (for "
        "seggpt, the filled box is the mask)",
    )
    memory: str | None = flag(
        None,
        "davis only: instead of --method, the learned memory of this SAM 2 or EdgeTAM video model (hub name or "
        "folder), given the first frame's masks; --sam is not used",
    )
    folds: list[str] = flag([], "the folds to score, counted from 0; all of them if unset")
    episodes: int | None = flag(None, "episodes per fold, for a quick look; the protocol's number if unset", min=1)
    shots: int = flag(1, "reference photos per query (k-shot segmentation); the method learns from all of them", min=1)
    seed: int = flag(0, "seed of the episodes, which are saved in episodes.json")
    tables: list[str] = flag([], "ablate only: which of the paper's tables 4, 5 and 6; all three if unset")
    steps: int = flag(1000, "ablate only: steps of each fit in table 5", min=1)
    encoder: str | None = flag(
        None, "presence only: a CLIP or DINO, hub name or folder, that measures how alike two subjects look"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(("data", "output"))
        if not all(fold.isdecimal() for fold in self.folds):
            raise UserError(f"--folds {' '.join(self.folds)} must be numbers, counted from 0")
        if self.memory and (self.method != PERSAM or self.features or self.fidelity != "corrected"):
            raise UserError("--memory follows the objects without --method, --features and --fidelity; leave them out")
        refuse_size_alone(self.method, self.features, self.features_size)
        if self.method == SEGGPT and (self.features or self.fidelity != "corrected"):
            raise UserError(
                "--method seggpt takes neither --features (its model is --seggpt) nor --fidelity; leave them out"
            )
        if self.method == SEGGPT and self.crop_n_layers:
            raise UserError("--crop_n_layers has no effect on --method seggpt; leave it out")
        refuse_seggpt(self.method, seggpt=self.seggpt != SEGGPT_MODEL, ensemble=self.ensemble != "feature")
        if self.ensemble != "feature" and self.shots < 2:
            raise UserError("--ensemble combines several references; give --shots 2 or more, or leave it out")
        if self.reference == "box" and self.method == INSID3:
            raise UserError("--reference box has no effect on insid3, which has no SAM to make masks; try insid3-sam")
        unknown = [table for table in self.tables if table not in TABLES]
        if unknown:
            raise UserError(f"--tables {unknown[0]} is unknown; choose among {', '.join(TABLES)}")

    def chosen_method(self) -> "AnyMethod":
        """Return the method with its settings.

        Raises:
            UserError: INSID3 does not have this fidelity.
        """
        from persam_dreambooth.segmentation.method import METHODS, Method, SegGptMethod

        if self.method == SEGGPT:
            return SegGptMethod(self.seggpt, self.ensemble)
        if self.method == PERSAM_F:  # with fidelity "paper" another method, not only other rules
            return Method.persam_f(self.fidelity)
        chosen = METHODS[self.method]
        assert not isinstance(chosen, SegGptMethod)
        return replace(chosen, fidelity=self.fidelity)

    def models(self, sam: str) -> str:
        """Return the names of the method's models, for the line above the table."""
        if self.memory:
            return f"memory of {self.memory}"
        crops = counted(self.crop_n_layers, "layer of crops", "layers of crops") if self.crop_n_layers else ""
        located = ", ".join(filter(None, (f"features {self.features}" if self.features else "", crops)))
        if self.method == SEGGPT:
            return f"SegGPT {self.seggpt}"
        if self.method in WITHOUT_SAM:
            return located or "the method's own model"
        return ", ".join(filter(None, (f"SAM {sam}", located)))

    def segmenter(self, sam: SamFlags) -> "OneShotSegmenter":
        """Load the method; errors as in `load_segmenter`."""
        from persam_dreambooth.segmentation import load_segmenter

        method = self.chosen_method()
        return load_segmenter(
            method,
            sam.sam,
            self.features,
            self.features_size,
            sam.device,
            sam.torch_dtype,
            sam_size=sam.sam_size,
            crop_n_layers=self.crop_n_layers,
        )

    def settings(self, question: str, sam: SamFlags, **more: Any) -> dict[str, Any]:
        """Return the settings that identify this run."""
        drawn = {"folds": self.folds, "episodes": self.episodes, "shots": self.shots, "seed": self.seed}
        located = {name: value for name in ("features", "features_size") if (value := getattr(self, name)) is not None}
        if self.reference != "mask":  # so that runs from before this flag, and the next one, can be resumed
            located["reference"] = self.reference
        if sam.sam_size:
            located["sam_size"] = sam.sam_size
        if self.crop_n_layers:
            located["crop_n_layers"] = self.crop_n_layers
        return {"evaluation": question, "sam": sam.sam, "dtype": sam.dtype} | located | more | drawn
