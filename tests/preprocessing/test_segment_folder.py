"""Segmenting a folder: what is written, that nothing is done twice, and what is refused."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from persam_dreambooth.errors import UserError
from persam_dreambooth.photos import files, rendering
from persam_dreambooth.photos.manifest import MANIFEST_NAME, format_line, put_line, read_manifest
from persam_dreambooth.preprocessing import SETTINGS_NAME, SegmentationJob, mask_store, mask_writer, segment_folder
from persam_dreambooth.preprocessing.mask_store import MaskStore
from persam_dreambooth.preprocessing.references import ReferenceFiles, read_references
from persam_dreambooth.segmentation import Method, PerSAM, Reference, Subject, reference_from
from tests.conftest import ROOT
from tests.scene import scene

# In sorted order: name -> (height, width) of the upright photo; None if it cannot be decoded.
SIZES = {"Grün.webp": (60, 90), "beach.PNG": (64, 64), "broken.jpg": None, "dog 1.jpg": (96, 50), "sofa.bmp": (45, 90)}
REFERENCE = "sofa.bmp"
GOOD = [name for name, size in SIZES.items() if size]


def draw_photo(height, width, seed=0):
    """Return a drawn scene as an RGB picture, and the disc's (H, W) bool mask."""
    pixels, disc = scene(height, width, seed)
    return Image.fromarray(pixels), disc


def write_album(folder):
    """Write photos of several sizes and formats, one stored sideways, one broken, and the reference's mask."""
    (folder / "photos").mkdir(parents=True)
    for seed, (name, size) in enumerate(SIZES.items()):
        path = folder / "photos" / name
        if size is None:
            path.write_bytes(b"not a picture")
            continue
        picture, disc = draw_photo(*size, seed)
        exif = Image.Exif()
        if name == "dog 1.jpg":
            exif[0x0112] = 6
            picture = picture.transpose(Image.Transpose.ROTATE_90)
        picture.save(path, exif=exif)
        if name == REFERENCE:
            Image.fromarray(disc.astype(np.uint8) * 128).save(folder / "mask.png")


@pytest.fixture(scope="module")
def models(models, tmp_path_factory):
    """The small models with a trained SAM: a random one has near ties, which the rounding of other batches decides."""
    folder = tmp_path_factory.mktemp("trained")
    shutil.copytree(models / "stable-diffusion", folder / "stable-diffusion")
    rule = shutil.ignore_patterns("presence.json")  # these tests are about masks, not about presence
    shutil.copytree(ROOT / "experiments" / "tinyworld" / "models" / "sam", folder / "sam", ignore=rule)
    return folder


@pytest.fixture(scope="module")
def finished(models, tmp_path_factory):
    """An album segmented without interruption; not to be modified."""
    folder = tmp_path_factory.mktemp("finished")
    write_album(folder)
    segment_folder(job_for(folder, models))
    return folder


@pytest.fixture
def album(tmp_path):
    """An album that is not segmented yet."""
    write_album(tmp_path)
    return tmp_path


@pytest.fixture
def segmented(finished, tmp_path):
    """A copy of the segmented album that may be modified."""
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def job_for(folder, models, **changes):
    job = SegmentationJob(
        images=folder / "photos",
        references=reference(folder / "photos" / REFERENCE, folder / "mask.png"),
        output=folder / "out",
        sam=str(models / "sam"),
        device="cpu",
        batch_size=2,
    )
    return replace(job, **changes)


def reference(image, mask):
    return (ReferenceFiles(Path(image), Path(mask)),)


def mask_path(folder, name):
    return folder / "out" / "masks" / f"{Path(name).stem}.png"


def snapshot(folder):
    """Return every file's content and modification time."""
    return {
        path.relative_to(folder): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def by_name(entries):
    return {Path(entry.photo).name: entry for entry in entries}


def assert_same_result(first, second):
    """Check that two folders hold the same segmentation; features may differ in the last bits between batches."""
    ours, theirs = (read_manifest(folder / "out" / MANIFEST_NAME) for folder in (first, second))
    assert len(ours) == len(theirs)
    for entry, expected in zip(ours, theirs, strict=True):
        assert replace(entry, score=None, error=None) == replace(expected, score=None, error=None)
        assert entry.score == pytest.approx(expected.score, abs=1e-4)
        assert (entry.error is None) == (expected.error is None)
    for name in GOOD:
        found, expected = (files.read_mask(mask_path(folder, name)) for folder in (first, second))
        assert np.mean(found != expected) <= 0.001


def assert_refused(job, message):
    """Check for a one-line error with `message`, and that nothing around the output changes."""
    before = snapshot(job.output.parent)
    with pytest.raises(UserError, match=message) as error:
        segment_folder(job)
    assert len(str(error.value).splitlines()) == 1
    assert snapshot(job.output.parent) == before


# What is written


def test_output_has_masks_overlays_sheet_and_manifest(finished):
    stems = [Path(name).stem for name in GOOD]
    assert {path.as_posix() for path in snapshot(finished / "out")} == {
        *(f"masks/{stem}.png" for stem in stems),
        *(f"overlays/{stem}.jpg" for stem in stems),
        ".manifest.lock",
        "contact_sheet.png",
        "manifest.jsonl",
        "segmentation.json",
        "subject.safetensors",
    }


@pytest.mark.parametrize("name", GOOD)
def test_masks_are_binary_and_of_upright_photos_size(finished, name):
    height, width = SIZES[name]
    with Image.open(mask_path(finished, name)) as mask:
        assert (mask.format, mask.mode, mask.size) == ("PNG", "L", (width, height))
        assert set(np.unique(np.asarray(mask))) == {0, 255}
    with Image.open(finished / "out" / "overlays" / f"{Path(name).stem}.jpg") as overlay:
        assert (overlay.format, overlay.size) == ("JPEG", (width, height))


def test_manifest_has_line_per_photo_sorted_by_name(finished):
    entries = read_manifest(finished / "out" / MANIFEST_NAME)
    assert [entry.photo for entry in entries] == [f"../photos/{name}" for name in SIZES]
    for name, entry in by_name(entries).items():
        assert entry.digest == files.digest(finished / "photos" / name)
        if SIZES[name] is None:
            continue
        assert (entry.height, entry.width) == SIZES[name]
        assert entry.error is None
        assert entry.mask == f"masks/{Path(name).stem}.png"
        assert entry.overlay == f"overlays/{Path(name).stem}.jpg"
        rows, columns = np.nonzero(files.read_mask(finished / "out" / entry.mask))
        assert entry.box == [columns.min(), rows.min(), columns.max(), rows.max()]


def test_broken_photo_is_recorded_and_others_are_segmented(finished):
    entries = by_name(read_manifest(finished / "out" / MANIFEST_NAME))
    broken = entries["broken.jpg"]
    assert "broken.jpg" in broken.error
    assert len(broken.error.splitlines()) == 1
    assert (broken.mask, broken.overlay, broken.width, broken.height, broken.score, broken.source) == (None,) * 6
    assert all(entries[name].error is None for name in GOOD)


def test_reference_photo_keeps_users_mask(finished):
    _, disc = draw_photo(*SIZES[REFERENCE])
    np.testing.assert_array_equal(files.read_mask(mask_path(finished, REFERENCE)), disc)
    entries = by_name(read_manifest(finished / "out" / MANIFEST_NAME))
    assert entries[REFERENCE].source == "reference"
    assert entries[REFERENCE].score is None
    assert entries[REFERENCE].points == []
    assert all(entries[name].source == "persam" for name in GOOD if name != REFERENCE)


def test_masks_equal_those_of_persam(finished, models):
    persam = PerSAM.from_pretrained(models / "sam", device="cpu")
    photos = finished / "photos"
    subject = persam.personalize(Reference(Image.open(photos / REFERENCE), Image.open(finished / "mask.png")))
    entries = by_name(read_manifest(finished / "out" / MANIFEST_NAME))
    others = [name for name in GOOD if name != REFERENCE]
    for name in others:
        found = persam.segment(Image.open(photos / name), subject)
        assert np.mean(files.read_mask(mask_path(finished, name)) != found.mask) <= 0.001
        assert entries[name].score == pytest.approx(found.score, abs=1e-4)
        assert entries[name].points == found.points.tolist()
        assert entries[name].point_labels == found.point_labels.tolist() == [1, 0]


def test_overlay_shows_mask_and_points(finished, tmp_path):
    name = "beach.PNG"
    entry = by_name(read_manifest(finished / "out" / MANIFEST_NAME))[name]
    photo, mask = files.read_photo(finished / "photos" / name), files.read_mask(mask_path(finished, name))
    expected = rendering.overlay(photo, mask, entry.points, entry.point_labels)
    files.write_picture(expected, tmp_path / "overlay.jpg")
    assert (finished / "out" / entry.overlay).read_bytes() == (tmp_path / "overlay.jpg").read_bytes()


def test_returned_entries_equal_manifest(finished, models):
    assert list(segment_folder(job_for(finished, models))) == read_manifest(finished / "out" / MANIFEST_NAME)


def test_batch_size_changes_no_mask(album, finished, models, tmp_path):
    for batch_size in (1, 4):
        folder = shutil.copytree(album / "photos", tmp_path / f"batch-{batch_size}" / "photos").parent
        shutil.copy(album / "mask.png", folder)
        segment_folder(job_for(folder, models, batch_size=batch_size))
        assert_same_result(folder, finished)


def test_reference_mask_among_photos_is_not_segmented(album, finished, models):
    inside = album / "photos" / "sofa.png"  # the reference's own name, as drawing programs suggest
    shutil.move(album / "mask.png", inside)
    segment_folder(job_for(album, models, references=reference(album / "photos" / REFERENCE, inside)))
    assert_same_result(album, finished)


def test_reference_outside_folder_is_not_segmented(album, models):
    elsewhere = shutil.move(album / "photos" / REFERENCE, album / "elsewhere.bmp")
    entries = list(segment_folder(job_for(album, models, references=reference(elsewhere, album / "mask.png"))))
    assert list(by_name(entries)) == [name for name in SIZES if name != REFERENCE]
    assert {entry.source for entry in entries if entry.mask} == {"persam"}


def test_sheet_of_large_album_shows_least_certain_photos(album, models, monkeypatch):
    monkeypatch.setattr(mask_store, "SHEET_PHOTOS", 1)
    moved = shutil.move(album / "photos" / REFERENCE, album)
    entries = list(segment_folder(job_for(album, models, references=reference(moved, album / "mask.png"))))
    least = min((entry for entry in entries if entry.error is None), key=lambda entry: entry.score)
    shown = files.read_picture(album / "out" / str(least.overlay))
    expected = rendering.sheet([shown], [f"{Path(least.photo).stem}  {min(least.score, 1):.2f}"])
    np.testing.assert_array_equal(np.asarray(Image.open(album / "out" / "contact_sheet.png")), np.asarray(expected))


# Interruptions and second runs


@pytest.mark.parametrize("at", [2, 3, 5])
def test_interrupted_run_resumes_where_it_stopped(album, finished, models, monkeypatch, at):
    written = []

    def until_ctrl_c(path, entry):
        if len(written) == at - 1:
            raise KeyboardInterrupt
        append_entry(path, entry)
        written.append(entry)

    append_entry = mask_writer.append_entry
    with monkeypatch.context() as patch:
        patch.setattr(mask_writer, "append_entry", until_ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            segment_folder(job_for(album, models))
    assert read_manifest(album / "out" / MANIFEST_NAME) == written
    kept = [album / "out" / path for entry in written for path in (entry.mask, entry.overlay) if path]
    times = {path: path.stat().st_mtime_ns for path in kept}
    segment_folder(job_for(album, models))
    assert len(kept) == 2 * sum(entry.error is None for entry in written) > 0
    assert {path: path.stat().st_mtime_ns for path in kept} == times
    assert_same_result(album, finished)


def test_stopped_run_keeps_its_masks_and_can_be_resumed(album, finished, models):
    job = job_for(album, models, batch_size=1)
    assert list(segment_folder(job, stopped=lambda: True)) == []
    entries = by_name(segment_folder(job, stopped=mask_path(album, "beach.PNG").exists))
    assert set(entries) == {"Grün.webp", "beach.PNG"} and (album / "out" / "contact_sheet.png").exists()
    before = snapshot(album / "out" / "masks")
    segment_folder(job)
    assert_same_result(album, finished)
    assert before.items() <= snapshot(album / "out" / "masks").items()


def test_run_stopped_before_taking_over_folder_loses_nothing(segmented, models):
    before = snapshot(segmented / "out")
    job = job_for(segmented, models, method=Method(fidelity="official"))
    assert set(by_name(segment_folder(job, again=True, stopped=lambda: True))) == set(SIZES)
    assert snapshot(segmented / "out") == before


def test_second_run_recreates_no_mask(segmented, models):
    before = snapshot(segmented / "out" / "masks") | snapshot(segmented / "out" / "overlays")
    segment_folder(job_for(segmented, models))
    assert snapshot(segmented / "out" / "masks") | snapshot(segmented / "out" / "overlays") == before
    assert_same_result(segmented, segmented)


def test_finished_run_needs_no_sam_and_rewrites_no_sheet(segmented, models):
    (segmented / "photos" / "broken.jpg").unlink()
    segment_folder(job_for(segmented, models))
    sheet = segmented / "out" / "contact_sheet.png"
    before = sheet.stat().st_mtime_ns
    entries = list(segment_folder(job_for(segmented, models)))
    assert list(by_name(entries)) == GOOD
    assert sheet.stat().st_mtime_ns == before


def test_only_changed_photo_is_segmented_again(segmented, finished, models):
    before = snapshot(segmented / "out" / "masks")
    draw_photo(70, 40, seed=9)[0].save(segmented / "photos" / "beach.PNG")
    entries = by_name(segment_folder(job_for(segmented, models)))
    assert (entries["beach.PNG"].height, entries["beach.PNG"].width) == (70, 40)
    assert files.read_mask(mask_path(segmented, "beach.PNG")).shape == (70, 40)
    after = snapshot(segmented / "out" / "masks")
    assert {path for path in after if after[path] != before[path]} == {Path("beach.png")}


def test_repaired_photo_gets_its_mask(segmented, models):
    draw_photo(30, 40, seed=9)[0].save(segmented / "photos" / "broken.jpg")
    entries = by_name(segment_folder(job_for(segmented, models)))
    assert entries["broken.jpg"].error is None
    assert files.read_mask(mask_path(segmented, "broken.jpg")).shape == (30, 40)


@pytest.mark.parametrize("lost", ["masks/beach.png", "overlays/beach.jpg"])
def test_deleted_mask_or_overlay_is_recreated(segmented, finished, models, lost):
    (segmented / "out" / lost).unlink()
    segment_folder(job_for(segmented, models))
    assert (segmented / "out" / lost).exists()
    assert_same_result(segmented, finished)


def test_added_photo_is_segmented(segmented, models):
    before = snapshot(segmented / "out" / "masks")
    draw_photo(40, 40, seed=9)[0].save(segmented / "photos" / "aaa.png")
    entries = list(segment_folder(job_for(segmented, models)))
    assert list(by_name(entries)) == sorted([*SIZES, "aaa.png"])
    after = snapshot(segmented / "out" / "masks")
    assert {path: content for path, content in after.items() if path != Path("aaa.png")} == before


def test_deleted_sheet_is_redrawn(segmented, finished, models):
    sheet = segmented / "out" / "contact_sheet.png"
    sheet.unlink()
    segment_folder(job_for(segmented, models))
    np.testing.assert_array_equal(
        np.asarray(Image.open(sheet)), np.asarray(Image.open(finished / "out" / "contact_sheet.png"))
    )


# What is refused


def test_different_run_on_same_output_is_refused_naming_differences(segmented, models):
    job = job_for(segmented, models)
    assert_refused(
        replace(job, references=reference(job.images / "beach.PNG", square(segmented))),
        "references differ",
    )
    shutil.copytree(models / "sam", segmented / "another-sam")
    assert_refused(replace(job, sam=str(segmented / "another-sam")), "holds another run .sam differ")
    for method in (Method(refinement=False), Method(fidelity="official")):
        assert_refused(replace(job, method=method), "holds another run .method differ")


def square(folder):
    """Write a mask for the 64 x 64 photo."""
    mask = np.zeros((64, 64), bool)
    mask[20:40, 20:40] = True
    files.write_mask(mask, folder / "square.png")
    return folder / "square.png"


def test_folder_with_other_files_is_refused_as_output(album, models):
    (album / "out").mkdir()
    (album / "out" / "thesis.txt").write_text("three years")
    assert_refused(job_for(album, models), "is not from an earlier segmentation run")
    assert_refused(job_for(album, models, output=album / "photos"), "is not from an earlier segmentation run")
    assert_refused(job_for(album, models, output=album / "mask.png"), "mask.png is a file")


def test_empty_output_folder_is_accepted(album, finished, models):
    (album / "out").mkdir()
    segment_folder(job_for(album, models))
    assert_same_result(album, finished)


def test_invalid_sam_is_refused_before_writing(album, models):
    assert_refused(job_for(album, models, sam=str(album / "absent")), "no SAM at")
    assert_refused(job_for(album, models, sam=str(models / "stable-diffusion" / "text_encoder")), "is not a SAM")
    assert not (album / "out").exists()


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((45, 90), bool), "mask.png is empty"),
        (np.ones((45, 90), bool), "mask.png is full"),
        (np.eye(90, 45, dtype=bool), "is 45 x 90 pixels but its photo sofa.bmp is 90 x 45"),
    ],
)
def test_useless_reference_mask_is_refused_before_writing(album, models, mask, message):
    files.write_mask(mask, album / "mask.png")
    assert_refused(job_for(album, models), message)
    assert not (album / "out").exists()


def test_missing_input_is_refused_by_its_path(album, models):
    absent, photo = album / "absent.png", album / "photos" / REFERENCE
    for changes in (
        {"images": absent},
        {"references": reference(absent, album / "mask.png")},
        {"references": reference(photo, absent)},
        {"references": (ReferenceFiles(photo, scribble=absent),)},
    ):
        assert_refused(job_for(album, models, **changes), "absent.png")
        assert not (album / "out").exists()


# Other references


def test_multiple_references_keep_their_masks_and_are_pooled(album, models):
    pixels, disc = scene(64, 64, seed=1)
    assert np.array_equal(pixels, np.asarray(files.read_photo(album / "photos" / "beach.PNG")))
    files.write_mask(disc, album / "second.png")
    both = reference(album / "photos" / REFERENCE, album / "mask.png")
    both += reference(album / "photos" / "beach.PNG", album / "second.png")
    entries = by_name(segment_folder(job_for(album, models, references=both)))
    assert {name for name, entry in entries.items() if entry.source == "reference"} == {REFERENCE, "beach.PNG"}
    np.testing.assert_array_equal(files.read_mask(mask_path(album, "beach.PNG")), disc)
    pooled = Subject.load(album / "out" / "subject.safetensors")
    persam = PerSAM.from_pretrained(str(models / "sam"), device="cpu")
    references = [made.convert(persam) for made in read_references(both)]
    expected = persam.personalize(references)
    torch.testing.assert_close(pooled.target_embedding, expected.target_embedding)
    (album / "out").rename(album / "pooled")
    segment_folder(job_for(album, models, references=both, pick_reference=True))
    picked = Subject.load(album / "out" / "subject.safetensors")
    alone = [persam.personalize(reference) for reference in references]
    assert any(torch.equal(picked.target_embedding, subject.target_embedding) for subject in alone)


def test_box_reference_gets_sams_mask_of_box(album, models):
    photo = album / "photos" / REFERENCE
    boxed = (ReferenceFiles(photo, box=(10, 5, 80, 40)),)
    entries = by_name(segment_folder(job_for(album, models, references=boxed)))
    persam = PerSAM.from_pretrained(str(models / "sam"), device="cpu")
    made = reference_from(persam, files.read_photo(photo), box=(10, 5, 80, 40)).foreground
    assert entries[REFERENCE].source == "reference"
    np.testing.assert_array_equal(files.read_mask(mask_path(album, REFERENCE)), made)
    assert_refused(job_for(album, models), "references differ")


def test_folder_of_only_broken_photos_is_refused_with_reason(album, models):
    moved = shutil.move(album / "photos" / REFERENCE, album)
    for name in GOOD:
        if name != REFERENCE:
            os.truncate(album / "photos" / name, 20)
    with pytest.raises(UserError, match="none of the 4 photos") as error:
        segment_folder(job_for(album, models, references=reference(moved, album / "mask.png")))
    assert "Grün.webp" in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_run_killed_twice_within_line_is_resumed(segmented, models):
    """Nothing is appended to a partial line, even if it ends within a character."""
    manifest = segmented / "out" / MANIFEST_NAME
    whole = manifest.read_bytes()
    first = whole.split(b"\n")[0]
    for cut in (first[: first.index("ü".encode()) + 1], first + b"\n" + whole.split(b"\n")[1][:20]):
        manifest.write_bytes(cut)
        segment_folder(job_for(segmented, models))
        assert [entry.photo for entry in read_manifest(manifest)] == [f"../photos/{name}" for name in SIZES]


@pytest.mark.parametrize("content", ["{", "[]", "[1]", "null"])
def test_damaged_settings_are_refused(segmented, models, content):
    (segmented / "out" / SETTINGS_NAME).write_text(content)
    with pytest.raises(UserError):
        segment_folder(job_for(segmented, models))


def test_two_links_to_one_photo_are_two_photos(album, models):
    (album / "photos" / "link.PNG").symlink_to(album / "photos" / "beach.PNG")
    for _ in range(2):
        entries = list(segment_folder(job_for(album, models)))
        masks = {Path(entry.photo).name: entry.mask for entry in entries}
        assert (masks["beach.PNG"], masks["link.PNG"]) == ("masks/beach.png", "masks/link.png")


def test_removed_photo_is_removed_from_sheet(segmented, models):
    sheet = segmented / "out" / "contact_sheet.png"
    before = sheet.read_bytes()
    (segmented / "photos" / "beach.PNG").unlink()
    segment_folder(job_for(segmented, models))
    assert sheet.read_bytes() != before


def test_files_of_removed_photo_are_deleted(segmented, models):
    (segmented / "photos" / "beach.PNG").unlink()
    segment_folder(job_for(segmented, models))
    assert not (segmented / "out" / "masks" / "beach.png").exists()
    assert not (segmented / "out" / "overlays" / "beach.jpg").exists()


def test_manifest_paths_resolve_links(album, models):
    (album / "real" / "deep").mkdir(parents=True)
    (album / "link").symlink_to(album / "real" / "deep")
    entries = list(segment_folder(job_for(album, models, output=album / "link" / "out")))
    assert all((album / "link" / "out" / entry.photo).exists() for entry in entries)


def decide(folder, name, **changes):
    """Record a person's decision about a photo, as the review page does."""
    path = folder / "out" / MANIFEST_NAME
    entry = by_name(read_manifest(path))[name]
    put_line(path, name, format_line(replace(entry, **changes)))


def test_new_reference_keeps_reviewed_photos_and_segments_others_again(segmented, models):
    decide(segmented, "beach.PNG", source="corrected")
    decide(segmented, "dog 1.jpg", review="approved")
    before = snapshot(segmented / "out" / "masks")
    height, width = SIZES["Grün.webp"]
    job = job_for(
        segmented, models, references=(ReferenceFiles(segmented / "photos" / "Grün.webp", box=(5, 5, width, height)),)
    )
    assert_refused(job, "another run")
    entries = by_name(segment_folder(job, again=True))
    after = snapshot(segmented / "out" / "masks")
    kept = {Path("beach.png"), Path("dog 1.png"), Path("sofa.png")}  # the last is the first run's reference
    assert {name for name in before if before[name] == after[name]} == kept
    assert entries["beach.PNG"].source == "corrected" and entries["dog 1.jpg"].review == "approved"
    assert entries["Grün.webp"].source == "reference"
    assert_refused(job_for(segmented, models), "another run")
    again = snapshot(segmented / "out" / "masks")
    segment_folder(job)
    assert snapshot(segmented / "out" / "masks") == again


def test_mask_names_its_method_and_older_manifests_are_read(album, models):
    """Manifests once said "persam" for every method; their masks are neither redone nor taken for a person's."""
    job = job_for(album, models, method=Method.persam_f())
    assert {entry.source for entry in segment_folder(job) if entry.mask} == {"reference", "persam-f"}
    path = album / "out" / MANIFEST_NAME
    path.write_text(path.read_text(encoding="utf-8").replace('"persam-f"', '"persam"'), encoding="utf-8")
    before = snapshot(album / "out" / "masks")
    entries = by_name(segment_folder(job))
    assert snapshot(album / "out" / "masks") == before
    assert not entries["beach.PNG"].reviewed


def test_manifest_from_before_reviews_is_read(segmented, models):
    path = segmented / "out" / MANIFEST_NAME
    path.write_text(path.read_text(encoding="utf-8").replace(', "review": null', ""), encoding="utf-8")
    assert all(entry.review is None and not entry.excluded for entry in read_manifest(path))
    before = snapshot(segmented / "out" / "masks")
    segment_folder(job_for(segmented, models))
    assert snapshot(segmented / "out" / "masks") == before


# Reviewed photos
# ---------------


def remove_upper_half(segmented, name):
    """Correct a mask by removing its upper half; return its bytes."""
    path = mask_path(segmented, name)
    mask = files.read_mask(path)
    mask[: len(mask) // 2] = False
    files.write_mask(mask, path)
    decide(segmented, name, source="corrected", mask_digest=files.digest(path))
    return path.read_bytes()


def test_corrected_mask_is_kept_without_its_overlay(segmented, models):
    kept = remove_upper_half(segmented, "beach.PNG")
    (segmented / "out" / "overlays" / "beach.jpg").unlink()
    entries = by_name(segment_folder(job_for(segmented, models)))
    assert mask_path(segmented, "beach.PNG").read_bytes() == kept and entries["beach.PNG"].source == "corrected"
    assert (segmented / "out" / "overlays" / "beach.jpg").exists()


def test_corrected_mask_and_verdict_are_kept_when_photo_is_saved_again(segmented, models):
    kept = remove_upper_half(segmented, "beach.PNG")
    decide(segmented, "Grün.webp", review="excluded")
    for name in ("beach.PNG", "Grün.webp"):
        photo = segmented / "photos" / name
        Image.open(photo).save(photo, **({"pnginfo": None, "compress_level": 1} if "PNG" in name else {"quality": 70}))
    entries = by_name(segment_folder(job_for(segmented, models)))
    assert mask_path(segmented, "beach.PNG").read_bytes() == kept and entries["beach.PNG"].source == "corrected"
    assert entries["Grün.webp"].excluded
    for name in ("beach.PNG", "Grün.webp"):
        assert entries[name].digest == files.digest(segmented / "photos" / name)


def test_corrected_mask_is_kept_when_photos_are_moved(segmented, models):
    kept = remove_upper_half(segmented, "beach.PNG")
    (segmented / "photos").rename(segmented / "moved")
    references = reference(segmented / "moved" / REFERENCE, segmented / "mask.png")
    entries = by_name(segment_folder(job_for(segmented, models, images=segmented / "moved", references=references)))
    assert mask_path(segmented, "beach.PNG").read_bytes() == kept
    assert entries["beach.PNG"].source == "corrected" and entries["beach.PNG"].photo == "../moved/beach.PNG"


def test_mask_that_no_longer_fits_is_replaced_with_warning(segmented, models, caplog):
    kept = remove_upper_half(segmented, "beach.PNG")
    draw_photo(80, 70)[0].save(segmented / "photos" / "beach.PNG")
    entries = by_name(segment_folder(job_for(segmented, models)))
    assert mask_path(segmented, "beach.PNG").read_bytes() != kept and entries["beach.PNG"].source == "persam"
    assert "beach.PNG was made on a photo of another size" in caplog.text


def test_reviewed_photos_are_read_once_to_check_for_changes(segmented, models, monkeypatch):
    remove_upper_half(segmented, "beach.PNG")
    decide(segmented, "Grün.webp", review="approved")
    read, digest = [], files.digest
    monkeypatch.setattr(files, "digest", lambda path: read.append(path.name) or digest(path))
    before = snapshot(segmented / "out" / "masks")
    segment_folder(job_for(segmented, models))
    assert [read.count(name) for name in ("beach.PNG", "Grün.webp", "dog 1.jpg")] == [1, 1, 1]
    assert snapshot(segmented / "out" / "masks") == before


def test_approved_mask_needs_no_instances(segmented):
    decide(segmented, "beach.PNG", review="approved")
    photos = [segmented / "photos" / name for name in ("beach.PNG", "dog 1.jpg")]
    assert MaskStore(segmented / "out").unfinished(photos) == []
    assert MaskStore(segmented / "out", with_instances=True).unfinished(photos) == photos[1:]


@pytest.mark.parametrize("changes", [{"sam": "no such sam"}, {"presence": Path("no-rule.json")}])
def test_invalid_again_run_loses_nothing(segmented, models, changes):
    before = snapshot(segmented / "out")
    with pytest.raises(UserError):
        segment_folder(job_for(segmented, models, **changes), again=True)
    (segmented / "out" / ".manifest.lock").unlink(missing_ok=True)
    after = snapshot(segmented / "out")
    assert {name: after[name][0] for name in after} == {name: before[name][0] for name in after}


def test_again_refuses_folder_without_segmentation(album, models):
    (album / "out" / "masks").mkdir(parents=True)
    (album / "out" / "masks" / "beach.png").write_bytes(b"mine")
    with pytest.raises(UserError, match="exists and is not from an earlier segmentation run"):
        segment_folder(job_for(album, models), again=True)
    assert (album / "out" / "masks" / "beach.png").read_bytes() == b"mine"


def test_again_keeps_imported_masks(segmented, models):
    decide(segmented, "beach.PNG", source="given", score=None)
    (segmented / "out" / SETTINGS_NAME).unlink()  # as after `import`
    kept = mask_path(segmented, "beach.PNG").stat().st_mtime_ns
    entries = by_name(segment_folder(job_for(segmented, models), again=True))
    assert mask_path(segmented, "beach.PNG").stat().st_mtime_ns == kept and entries["beach.PNG"].source == "given"


def test_again_uses_new_reference_mask(segmented, models):
    mask = files.read_mask(segmented / "mask.png")
    mask[: len(mask) // 2] = False
    files.write_mask(mask, segmented / "better.png")
    references = reference(segmented / "photos" / REFERENCE, segmented / "better.png")
    segment_folder(job_for(segmented, models, references=references), again=True)
    np.testing.assert_array_equal(files.read_mask(mask_path(segmented, REFERENCE)), mask)


def test_again_deletes_files_of_removed_photos(segmented, models):
    (segmented / "photos" / "Grün.webp").unlink()
    job = job_for(segmented, models, method=Method(fidelity="official"))
    segment_folder(job, again=True)
    assert not mask_path(segmented, "Grün.webp").exists()


def test_mask_drawn_and_undone_during_run_is_left_to_next(segmented, models, monkeypatch):
    """A person's mask is newer than the run, and its manifest line is undone."""
    for name in ("beach.PNG", "dog 1.jpg"):
        put_line(segmented / "out" / MANIFEST_NAME, name, None)
    read = []
    monkeypatch.setattr(mask_writer.MaskWriter, "_was_reviewed", lambda self, photo: read.append(photo) or True)
    assert set(by_name(segment_folder(job_for(segmented, models)))) == set(SIZES) - {"beach.PNG", "dog 1.jpg"}
    assert [photo.name for photo in read] == ["beach.PNG", "dog 1.jpg"]
    monkeypatch.undo()
    assert set(by_name(segment_folder(job_for(segmented, models)))) == set(SIZES)
