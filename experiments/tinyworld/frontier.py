"""Gain and cost of masks along the whole frontier: every way of training is judged at six lengths.

    python experiments/tinyworld/frontier.py --output frontier --cast reported --lora_rank 4

Every subject's photos have something in common beside the subject (`confounds.py`): one background, or one companion.
Each run uses the real trainer, and the images of its checkpoints are judged. It writes `results.json`, `table.md`,
`frontier.png` and sheets for a blind comparison. Interrupted, the command resumes after the last finished run.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

from tqdm import tqdm

from albums import save_album
from arms import CLASS_IMAGES, Recipe
from confounds import CONFOUNDS, Subject, choosing, reported
from dreambooth import prepare
from frontier_run import BASE, LENGTHS, ORACLE, Job, prepared, run

RATE = 1.8e-4
"""Learning rate of the arms for which none is given."""
INFERENCE_STEPS = 12
"""Sampling steps of each image; most of a run's time is generation, and more steps change little at this size."""
CASTS = {"choosing": choosing, "reported": reported}


def jobs(cast: Sequence[Subject], flags: argparse.Namespace, recipe: Recipe) -> list[Job]:
    """Return all runs: the base model once; the oracle and each confound's arms for every seed."""
    asked = [("", BASE, 0), *[("", ORACLE, seed) for seed in range(flags.seeds)]]
    asked += [(name, arm, seed) for seed in range(flags.seeds) for name in flags.confounds for arm in flags.arms]
    rates: dict[str, list[float]] = {}
    for arm, rate in flags.learning_rate:
        rates.setdefault(arm, []).append(rate)
    default = rates.get("", [RATE])[-1:]
    steps = {"": LENGTHS[-1], **dict(flags.steps)}

    def settings(arm: str, rate: float) -> Recipe:
        return replace(recipe, learning_rate=rate, steps=steps.get(arm, steps[""]))

    return [
        Job(subject, confound, arm, seed, settings(arm, rate), flags.output)
        for confound, arm, seed in asked
        for rate in rates.get(arm, default)
        for subject in cast
    ]


def read_flags() -> tuple[argparse.Namespace, Recipe]:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("frontier"), help="folder for everything")
    parser.add_argument("--cast", choices=list(CASTS), default="reported", help="whose numbers (reported)")
    parser.add_argument("--confounds", nargs="+", choices=list(CONFOUNDS), default=list(CONFOUNDS), help="(all)")
    parser.add_argument("--arms", nargs="+", default=["a", "b", "c"], help="letters of the arms (a b c)")
    parser.add_argument("--seeds", type=int, default=2, help="how many seeds (2)")
    parser.add_argument("--subjects", type=int, default=None, help="only the cast's first N")
    parser.add_argument("--workers", type=int, default=2, help="runs at once (2)")
    parser.add_argument("--lora_rank", type=int, default=0, help="0 trains all weights of the denoiser (0)")
    parser.add_argument(
        "--learning_rate",
        nargs="+",
        type=read_rate,
        default=[],
        help=f"of all arms ({RATE:g}), or of each: with 0.002 a=0.001 a=0.004, a has two others and a row for each",
    )
    parser.add_argument(
        "--steps",
        nargs="+",
        type=read_steps,
        default=[],
        help="the longest training of all arms (800), or of each: with 200 a=400, only a trains longer",
    )
    parser.add_argument("--pictures", type=int, default=1, help="a prompt with a scene (1), four times that without")
    flags = parser.parse_args()
    recipe = Recipe(lora_rank=flags.lora_rank, pictures=flags.pictures, inference_steps=INFERENCE_STEPS)
    return flags, recipe


def read_rate(words: str) -> tuple[str, float]:
    """Read "0.001", the rate of all arms, or "a=0.001", that of one; returns the arm's letter, or "", and the rate."""
    arm, _, rate = words.rpartition("=")
    return arm, float(rate)


def read_steps(words: str) -> tuple[str, int]:
    """Read "200", the longest of all arms, or "a=400", that of one; returns the arm's letter, or "", and it."""
    arm, _, steps = words.rpartition("=")
    if int(steps) not in LENGTHS:
        raise argparse.ArgumentTypeError(f"{steps} is none of {', '.join(map(str, LENGTHS))}")
    return arm, int(steps)


def main() -> None:
    """Do the missing runs, then write the report."""
    flags, recipe = read_flags()
    cast = CASTS[flags.cast]()[: flags.subjects]
    asked = jobs(cast, flags, recipe)
    albums = {prepared(job): job for job in asked}
    for folder, job in tqdm(albums.items(), "preparing photos"):
        if job.confound:
            prepare(job.album(), folder, recipe, CLASS_IMAGES if any("+p" in arm for arm in flags.arms) else 0, True)
        elif job.arm == ORACLE and not (folder / "photos").exists():
            save_album(job.album(), folder)
    missing = [job for job in asked if not job.is_done()]
    with get_context("spawn").Pool(flags.workers, maxtasksperchild=8) as pool:
        for _ in tqdm(pool.imap_unordered(run, missing), "runs", len(missing)):
            pass
    from frontier_report import write_report  # the runs do not need the judges

    print(write_report(flags.output, [job for job in asked if job.is_done()]))


if __name__ == "__main__":
    main()
