"""The flags that tinyworld's training scripts share."""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch

from corpus import ALONE, Corpus, Crowd, load_corpus

WORK = Path(__file__).parent / "work"


@dataclass(frozen=True)
class TrainingFlags:
    """The flags of a training script."""

    steps: int
    batch_size: int
    learning_rate: float
    seed: int
    device: torch.device
    work: Path
    compile: bool
    go_on: bool

    def corpus(
        self, name: str, count: int, seed: int, crowd: Crowd = ALONE, held_out: bool = False, mirrored: float = 0.5
    ) -> Corpus:
        """Call `corpus.load_corpus` in this run's work folder."""
        return load_corpus(self.work, name, count, seed, held_out, crowd, mirrored=mirrored)

    def state(self, name: str) -> Path:
        """Return the file that an interrupted training resumes from."""
        return self.work / f"{name}-seed{self.seed}.pt"

    def first_step(self, name: str) -> int:
        """Return the first step of a training: 0, or the step at which it was interrupted."""
        state = self.state(name)
        return int(torch.load(state, weights_only=True, map_location="cpu")["step"]) if state.exists() else 0


def read_flags(doc: str | None, steps: int, batch_size: int, learning_rate: float) -> TrainingFlags:
    """Read the command line; the defaults are those of the committed weights."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=steps, help=f"optimizer steps ({steps})")
    parser.add_argument("--batch_size", type=int, default=batch_size, help=f"samples per step ({batch_size})")
    parser.add_argument(
        "--learning_rate", type=float, default=learning_rate, help=f"AdamW's learning rate ({learning_rate})"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, order and noise (0)")
    parser.add_argument("--device", default=None, help="cpu or cuda; by default a GPU where there is one")
    parser.add_argument(
        "--work", type=Path, default=WORK, help="folder of drawn pictures and of the state to resume from (work/)"
    )
    parser.add_argument("--compile", action="store_true", help="use torch.compile in the scripts that support it")
    parser.add_argument(
        "--go_on",
        action="store_true",
        help="continue from the weights in models/, in scripts that can (train_clip, train_sam, train_unet)",
    )
    given = parser.parse_args()
    device = torch.device(given.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    del given.device
    return TrainingFlags(device=device, **vars(given))
