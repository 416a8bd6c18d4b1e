"""Segment an album: seconds per photo compared with the official code, the cache, memory by number of photos.

    python benchmarks/album.py
    python benchmarks/album.py --official path/to/Personalize-SAM     # needs opencv-python and matplotlib

The SAM is MobileSAM's architecture with random weights, which both programs read from the same file; the photos are
synthetic, 1024 pixels. Each command runs in its own process on few photos and on many, in turn; the difference gives
the time per photo. The official script also draws its figures; ours also writes masks, overlays and the contact sheet.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image

from persam_dreambooth.photos import files
from persam_dreambooth.segmentation.backbones.mobile_sam import build_mobile_sam
from persam_dreambooth.segmentation.backbones.published import renamed

FEW = 2
SIDE = 1024
PUBLISHED = (
    (r"trunk\.head\.fc\.", "trunk.head."),
    (r"trunk\.head\.norm\.", "trunk.norm_head."),
    (r"(trunk\..*)\.conv\.", r"\1.c."),
    *((rf"trunk\.stages\.{stage}\.downsample", f"trunk.layers.{stage - 1}.downsample") for stage in (1, 2, 3)),
    (r"trunk\.stages", "trunk.layers"),
    (r"patch_embed\.conv1", "patch_embed.seq.0"),
    (r"patch_embed\.conv2", "patch_embed.seq.2"),
    (r"image_encoder\.trunk\.", "image_encoder."),
)
"""Names of our MobileSAM's weights to those of the published file: the inverse of `mobile_sam.RENAMED`."""
Command = Callable[[int, int], list[str]]
"""Maps the number of photos and the number of the round to a command."""


def draw_album(folder: Path, count: int, side: int = SIDE) -> None:
    """Draw photos in PerSeg's layout, `Images/thing/NN.jpg`, and two masks of 00, a disc and a square."""
    y, x = np.mgrid[:side, :side] / side - 0.5
    for number in range(count):
        random = np.random.default_rng(number)
        disc = (x - random.uniform(-0.2, 0.2)) ** 2 + (y - random.uniform(-0.2, 0.2)) ** 2 < 0.05
        levels = random.integers(0, 80, (side, side, 3)) + 150 * disc[..., None]
        files.write_picture(Image.fromarray(levels.astype(np.uint8)), folder / "Images/thing" / f"{number:02}.jpg")
        if number == 0:
            files.write_mask(disc, folder / "Annotations/thing/00.png")
            files.write_mask((abs(x) < 0.2) & (abs(y) < 0.2), folder / "Annotations/square.png")


def save_random_sam(path: Path, scripts: Path | None) -> None:
    """Save a random `mobile_sam.pt`, made by the official code's class if that is given, since it reads no other."""
    path.parent.mkdir()
    torch.manual_seed(0)
    if scripts is None:
        torch.save(renamed(build_mobile_sam().state_dict(), PUBLISHED), path)
        return
    sys.path.insert(0, str(scripts))
    from per_segment_anything import sam_model_registry

    torch.save(sam_model_registry["vit_t"](checkpoint=None).state_dict(), path)


def ours(folder: Path, mask: str, output: str, *flags: str) -> Command:
    """Return our commands."""

    def command(count: int, number: int) -> list[str]:
        album = folder / str(count)
        photos = album / "Images/thing"
        words = [
            "--images",
            photos,
            "--reference",
            photos / "00.jpg",
            "--reference_mask",
            album / "Annotations" / mask,
        ]
        words += ["--output", folder / f"{output}-{count}-{number}", "--sam", folder / "weights/mobile_sam.pt", *flags]
        # {} becomes album and round, so that each has its own cache, empty at first.
        words = [str(word).format(f"{count}-{number}") for word in words]
        words += ["--device", "cpu", "--batch_size", "1"]  # larger batches do not help on one core
        return [sys.executable, "-m", "persam_dreambooth.cli", "segment", *words]

    return command


def official(folder: Path, scripts: Path) -> Command:
    """Return commands of the official `persam.py`, run in `folder`, where it looks for its weights."""

    def command(count: int, number: int) -> list[str]:
        return [sys.executable, str(scripts / "persam.py"), "--data", str(folder / str(count)), "--sam_type", "vit_t"]

    return command


def run(command: list[str], folder: Path, scripts: Path | None = None) -> tuple[float, float]:
    """Run a command; return its seconds and its peak memory in MiB."""
    paths = [str(Path(__file__).parents[1]), *([str(scripts)] if scripts else []), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "MPLBACKEND": "agg"}
    start = time.perf_counter()
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as child:
        said = child.stderr.read() if child.stderr else b""
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(said.decode()[-2000:])
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def seconds_a_photo(command: Command, folder: Path, photos: int, number: int, scripts: Path | None = None) -> float:
    """Return the time of one more photo."""
    few, _ = run(command(FEW, number), folder, scripts)
    many, _ = run(command(photos, number), folder, scripts)
    return (many - few) / (photos - FEW)


def memory_by_photos(folder: Path, counts: tuple[int, int]) -> list[float]:
    """Return the peak memory in MiB for albums of `counts` small photos and a small SAM."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
    from random_models import random_sam

    random_sam().save_pretrained(folder / "small")
    peaks = []
    for count in counts:
        draw_album(folder / str(count), count, 64)
        command = ours(folder, "thing/00.png", "small-out")(count, 0)
        command[command.index("--sam") + 1] = str(folder / "small")
        peaks.append(run(command, folder)[1])
    return peaks


def main() -> None:
    """Time all commands in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official", type=Path, help="a checkout of the official code; left out if unset")
    parser.add_argument("--photos", type=int, default=12, help="photos of the album that is timed (12)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is timed (3)")
    parser.add_argument("--many", type=int, default=4000, help="photos of the album whose memory is measured (4000)")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_random_sam(folder / "weights/mobile_sam.pt", flags.official)
        for count in (FEW, flags.photos):
            draw_album(folder / str(count), count)
        commands: dict[str, Command] = {
            "ours": ours(folder, "thing/00.png", "ours"),
            "ours, and filling a cache": ours(folder, "thing/00.png", "first", "--embedding_cache", "cache-{}"),
            "ours, another subject from the cache": ours(
                folder, "square.png", "second", "--embedding_cache", "cache-{}"
            ),
            "ours, an album that is done already": ours(folder, "thing/00.png", "ours"),
        }
        if flags.official:
            commands = {"official": official(folder, flags.official.resolve())} | commands
        seconds: dict[str, list[float]] = {title: [] for title in commands}
        for number in range(flags.rounds):
            for title, command in commands.items():
                seconds[title].append(seconds_a_photo(command, folder, flags.photos, number, flags.official))
        print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
        print("| | seconds a photo | ratio |\n| --- | ---: | ---: |")
        first = median(next(iter(seconds.values())))
        for title, values in seconds.items():
            print(f"| {title} | {median(values):.2f} | {median(values) / first:.2f} |")
        few, many = memory_by_photos(folder, (flags.many // 10, flags.many))
        growth = (many - few) * 1024 / (flags.many - flags.many // 10)
        print(
            f"\npeak memory: {few:.0f} MiB for {flags.many // 10} small photos, {many:.0f} MiB for {flags.many}: ",
            end="",
        )
        print(f"{growth:.1f} KiB a photo")


if __name__ == "__main__":
    main()
