"""Segmentation split over processes: each photo once, the same masks as one process, also when resumed."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from persam_dreambooth.photos import files
from persam_dreambooth.photos.manifest import MANIFEST_NAME, append_entry, read_manifest, write_manifest
from persam_dreambooth.preprocessing.mask_store import SUBJECT_NAME
from tests.forks import fork_ranks
from tests.preprocessing import counted_segmentation
from tests.scene import scene

PHOTOS = 7
EVERY_OTHER = ("00", "02", "04", "06")
ROOT = Path(__file__).parents[2]
SAM = ROOT / "experiments" / "tinyworld" / "models" / "sam"
"""A trained SAM: random ones have near ties, which the rounding of other batches and thread counts decides."""


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    folder = tmp_path_factory.mktemp("album")
    for number in range(PHOTOS):
        pixels, disc = scene(60, 90, number)
        files.write_picture(Image.fromarray(pixels), folder / "photos" / f"{number:02}.png")
        if number == 0:
            files.write_mask(disc, folder / "mask.png")
    (folder / "photos" / "broken.jpg").write_bytes(b"not a picture")
    return folder


LAUNCHERS = {
    1: ["accelerate.commands.launch", "--cpu", "--num_processes", "1"],
    2: ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
}


def segment(album, output, notes, *flags, processes=1, launched=False):
    """Run the command in one or more processes, forked or by a launcher; return the photos that each segmented."""
    notes.mkdir(parents=True)
    words = ["--images", album / "photos", "--reference", album / "photos" / "00.png"]
    words += ["--reference_mask", album / "mask.png", "--output", output, "--sam", SAM, "--device", "cpu"]
    words = list(map(str, [*words, *flags]))
    if launched:
        command = [sys.executable, "-m", *LAUNCHERS[processes], "-m", counted_segmentation.__name__, *words]
        environment = os.environ | {"NOTES": str(notes)}
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        printed = done.stdout
    else:
        printed = fork_ranks(processes, counted_segmentation.segment, words, NOTES=str(notes))
    return printed, [sorted(path.read_text().split()) for path in sorted(notes.iterdir())]


def masks(output):
    return {path.name: files.read_mask(path) for path in sorted((output / "masks").iterdir())}


def assert_same_masks(output, other_output):
    ours, theirs = masks(output), masks(other_output)
    assert list(ours) == list(theirs)
    for name in ours:  # in another batch a photo's features may differ in the last bits
        assert np.mean(ours[name] != theirs[name]) <= 0.001


@pytest.fixture(scope="module")
def single(album, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    _, (segmented,) = segment(album, folder / "out", folder / "notes", launched=True)
    assert len(segmented) == PHOTOS
    return folder / "out"


def test_two_processes_equal_one_without_repeating_photos(album, single, tmp_path):
    printed, shares = segment(album, tmp_path / "out", tmp_path / "notes", processes=2, launched=True)
    assert len(shares) == 2
    assert all(len(share) >= PHOTOS // 2 for share in shares)
    assert sorted(shares[0] + shares[1]) == [f"{number:02}.png" for number in range(PHOTOS)]
    assert_same_masks(tmp_path / "out", single)
    assert printed.count("masks in") == 1
    ours, theirs = (read_manifest(out / MANIFEST_NAME) for out in (tmp_path / "out", single))
    assert [(entry.digest, entry.mask, entry.error is None) for entry in ours] == [
        (entry.digest, entry.mask, entry.error is None) for entry in theirs
    ]
    assert not list((tmp_path / "out").glob("manifest.*.jsonl"))


def test_finished_work_of_killed_process_is_kept(album, single, tmp_path):
    """Two killed processes left journals: the first of two photos, the second of one and a half."""
    out = tmp_path / "out"
    segment(album, out, tmp_path / "first", processes=2)
    kept = {"00.png": "", "02.png": "", "01.png": ".1"}
    entries = {Path(entry.photo).name: entry for entry in read_manifest(out / MANIFEST_NAME)}
    (out / MANIFEST_NAME).unlink()
    for name, journal in kept.items():
        append_entry(out / f"manifest{journal}.jsonl", entries[name])
    with (out / "manifest.1.jsonl").open("a") as journal:
        journal.write('{"photo": "../photos/03.p')
    _, shares = segment(album, out, tmp_path / "second", processes=2)
    again = sorted(name for share in shares for name in share)
    assert again == [f"{number:02}.png" for number in range(3, PHOTOS)]
    assert_same_masks(out, single)
    assert len(read_manifest(out / MANIFEST_NAME)) == PHOTOS + 1


def test_new_run_takes_over_folder_and_shares_what_is_left(album, single, tmp_path):
    """A person approved every other photo; then `--again` runs with another reference."""
    out = shutil.copytree(single, tmp_path / "out")
    (tmp_path / "photos").symlink_to(album / "photos")  # so that the manifest's relative paths work from the copy
    entries = [
        replace(entry, photo=f"../photos/{Path(entry.photo).name}") for entry in read_manifest(out / MANIFEST_NAME)
    ]
    approved = [
        replace(entry, review="approved") if Path(entry.photo).stem in EVERY_OTHER else entry for entry in entries
    ]
    write_manifest(out / MANIFEST_NAME, approved)
    disc = files.read_mask(album / "mask.png")
    disc[: len(disc) // 2] = False
    files.write_mask(disc, tmp_path / "lower.png")
    shutil.copy(album / "photos" / "00.png", tmp_path / "other.png")
    lines = ["--images", tmp_path / "photos", "--reference", tmp_path / "other.png", "--again"]
    flags = [*lines, "--reference_mask", tmp_path / "lower.png"]
    before = (out / SUBJECT_NAME).read_bytes()
    _, shares = segment(album, out, tmp_path / "notes", *flags, processes=2)
    assert shares == [["01.png", "05.png"], ["03.png"]]
    assert (out / SUBJECT_NAME).read_bytes() != before


def test_decoding_workers_and_cache_change_no_mask(album, single, tmp_path):
    flags = ["--dataloader_num_workers", 2, "--embedding_cache", tmp_path / "cache"]
    segment(album, tmp_path / "one", tmp_path / "first", *flags)
    assert_same_masks(tmp_path / "one", single)
    cached = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.safetensors")}
    assert len(cached) == PHOTOS
    segment(album, tmp_path / "two", tmp_path / "second", *flags)
    assert_same_masks(tmp_path / "two", single)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.safetensors")} == cached
