"""Reading other programs' folders: orientation, channels, grey levels, run lengths, and refused input."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from persam_dreambooth.errors import UserError
from persam_dreambooth.formats import CONVENTIONS, export_folder, import_folder, read_selection
from persam_dreambooth.formats.layouts import Given
from persam_dreambooth.photos import files
from persam_dreambooth.photos.manifest import MANIFEST_NAME, read_manifest
from tests.formats.albums import NAMES, annotation, write_album
from tests.kills import tree

EVERY = pytest.mark.parametrize("trainer", CONVENTIONS)
INDEXED = ["invoke", "imagefolder", "coco"]
PAIRED = ["onetrainer", "kohya", "simpletuner", "ai-toolkit", "diffusion-pipe"]


@pytest.fixture
def theirs(tmp_path):
    """Return a function that exports the album to a trainer, given its name."""

    def make(trainer):
        photos, masks = write_album(tmp_path / "album")
        export_folder(read_selection(masks, photos), CONVENTIONS[trainer], tmp_path / "theirs")
        return tmp_path / "theirs"

    return make


def write(folder, photo, mask, names=("images/dog.png", "masks/dog.png"), **options):
    """Write one photo and its mask to a trainer's two folders."""
    for picture, name in zip((photo, mask), names, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(folder / name, **options.get(name, {}))
    return folder


def imported(trainer, folder, output, **given):
    """Import a folder; return its only mask and the report."""
    report = import_folder(CONVENTIONS[trainer], Given(folder, **given), output)
    (mask,) = files.list_photos(output / "masks")
    return files.read_mask(mask), report


def refused(trainer, folder, **given):
    """Return the error of a refused import, after checking that nothing was written."""
    around = folder.parent.parent if folder.is_file() else folder.parent
    before = tree(around)
    with pytest.raises(UserError) as error:
        import_folder(CONVENTIONS[trainer], Given(folder, **given), around / "out")
    assert tree(around) == before
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


# What is read


@pytest.mark.parametrize("trainer", PAIRED)
def test_folders_with_other_names_and_photos_next_to_them_are_read(trainer, theirs, tmp_path):
    folder = theirs(trainer)
    layout = CONVENTIONS[trainer].layout
    images = (folder / layout.photos).rename(tmp_path / "10_sks dog")
    masks = images if layout.masks == layout.photos else (folder / layout.masks).rename(tmp_path / "elsewhere")
    import_folder(CONVENTIONS[trainer], Given(folder, images, masks), tmp_path / "back")
    assert len(files.list_photos(tmp_path / "back" / "masks")) == len(NAMES)


@pytest.mark.parametrize(("trainer", "keeps"), [("kohya", True), ("diffusion-pipe", True), ("ai-toolkit", False)])
def test_mask_is_aligned_with_pixels_the_trainer_reads(trainer, keeps, tmp_path):
    """A square photo, so that sizes do not tell the orientation: kohya's masks lie on the stored pixels."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    drawn = np.zeros((8, 8), np.uint8)
    drawn[0, :3] = 255
    names = ("images/dog.jpg", "masks/dog.png")
    write(tmp_path / "theirs", Image.new("RGB", (8, 8)), Image.fromarray(drawn), names, **{names[0]: {"exif": exif}})
    mask, _ = imported(trainer, tmp_path / "theirs", tmp_path / "back")
    expected = np.rot90(drawn, -1) if keeps else drawn  # 6: viewers rotate it clockwise
    np.testing.assert_array_equal(mask, expected > 0)


def test_each_trainer_reads_its_own_channel_of_coloured_mask(tmp_path):
    """Blue is dark to both; green is black to kohya and bright to OneTrainer, red is white to kohya and dark there."""
    mask = Image.fromarray(np.array([[[0, 0, 255], [0, 255, 0], [255, 0, 0], [255, 255, 255]]], np.uint8))
    write(tmp_path / "kohya", Image.new("RGB", (4, 1)), mask)
    write(tmp_path / "one", Image.new("RGB", (4, 1)), mask, ("images/dog.png", "images/dog-masklabel.png"))
    assert imported("kohya", tmp_path / "kohya", tmp_path / "a")[0].tolist() == [[False, False, True, True]]
    assert imported("onetrainer", tmp_path / "one", tmp_path / "b")[0].tolist() == [[False, True, False, True]]


def levels_of(folder):
    return files.read_picture(folder / "masks" / "dog.png")


@pytest.mark.parametrize("trainer", ["kohya", "onetrainer", "kohya-alpha", "cutout"])
def test_grey_levels_are_kept_and_counted(trainer, tmp_path):
    levels = Image.fromarray(np.array([[0, 1, 127, 128, 254, 255]], np.uint8))
    photo, name = Image.new("RGB", (6, 1), "red"), "masks/dog.png"
    if trainer == "onetrainer":
        name = "images/dog-masklabel.png"
    if trainer in ("kohya-alpha", "cutout"):
        photo.putalpha(levels)
    write(tmp_path / "theirs", photo, levels, ("images/dog.png", name))
    _, report = imported(trainer, tmp_path / "theirs", tmp_path / "back")
    assert np.asarray(levels_of(tmp_path / "back")).tolist() == [[0, 0, 127, 128, 255, 255]]
    assert (report.count, report.grey, report.empty) == (1, {"dog.png": 2}, [])
    (entry,) = read_manifest(tmp_path / "back" / MANIFEST_NAME)
    assert "2 grey pixels" in entry.warnings[0]


def test_16_bit_masks_are_read_like_8_bit_ones(tmp_path):
    levels = Image.fromarray(np.array([[0, 300, 0x7FFF, 0x8000, 0xFFFF]], np.uint16))
    write(tmp_path / "theirs", Image.new("RGB", (5, 1)), levels)
    imported("kohya", tmp_path / "theirs", tmp_path / "back")
    assert np.asarray(levels_of(tmp_path / "back")).tolist() == [[0, 0, 127, 128, 255]]


def test_empty_mask_is_named(tmp_path):
    write(tmp_path / "theirs", Image.new("RGB", (5, 1)), Image.new("L", (5, 1), 1))
    mask, report = imported("kohya", tmp_path / "theirs", tmp_path / "back")
    assert not mask.any()
    assert report.empty == ["dog.png"]


def test_transparent_pixels_keep_colours_for_training_and_are_white_in_cut_outs(tmp_path):
    photo = Image.new("RGBA", (2, 1), (200, 30, 30, 0))
    photo.putpixel((0, 0), (30, 200, 30, 255))
    (tmp_path / "theirs").mkdir()
    photo.save(tmp_path / "theirs" / "dog.webp", lossless=True, exact=True)
    for trainer, hidden in {"kohya-alpha": (200, 30, 30), "cutout": (255, 255, 255)}.items():
        imported(trainer, tmp_path / "theirs", tmp_path / trainer)
        with Image.open(tmp_path / trainer / "images" / "dog.png") as image:
            assert (image.mode, image.getpixel((0, 0)), image.getpixel((1, 0))) == ("RGB", (30, 200, 30), hidden)


# Index files


def indexed(trainer, folder, photos):
    """Write photos (name -> image of 6 x 4 pixels) with white masks and the trainer's index."""
    for name, photo in photos.items():
        write(folder, photo, Image.new("L", photo.size, 255), (f"images/{name}", f"masks/{name}.png"))
    if trainer == "coco":
        images = [{"id": id, "file_name": name, "width": 6, "height": 4} for id, name in enumerate(photos)]
        annotations = [annotation([[0, 0, 6, 0, 6, 4, 0, 4]], image=image["id"]) for image in images]
        (folder / "instances.json").write_text(json.dumps({"images": images, "annotations": annotations}))
        return folder
    layout = CONVENTIONS[trainer].layout
    path = folder / Path(layout.name).name
    lines = [{layout.photo: f"images/{name}", layout.mask: f"masks/{name}.png"} for name in photos]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.mark.parametrize("trainer", INDEXED)
def test_photo_with_unknown_suffix_becomes_opaque_png(trainer, tmp_path):
    moving = Image.new("P", (6, 4), 1)
    moving.putpalette([200, 30, 30, 30, 200, 30])
    moving.putpixel((0, 0), 0)
    moving.info["transparency"] = 0
    folder = indexed(trainer, tmp_path / "theirs", {"a.png": Image.new("RGB", (6, 4)), "b.APNG": moving})
    report = import_folder(CONVENTIONS[trainer], Given(folder), tmp_path / "back")
    photos = files.find_photos(tmp_path / "back" / "images")
    assert [photo.name for photo in photos] == ["a.png", "b.png"] and report.count == 2
    with Image.open(photos[1]) as image:
        pixels = image.getpixel((0, 0)), image.getpixel((1, 0))
        assert (image.format, image.mode, *pixels) == ("PNG", "RGB", (255, 255, 255), (30, 200, 30))
    entries = read_manifest(tmp_path / "back" / MANIFEST_NAME)
    assert [(entry.photo, entry.digest) for entry in entries] == [
        (f"images/{photo.name}", files.digest(photo)) for photo in photos
    ]


# What is refused


@pytest.mark.parametrize("trainer", INDEXED)
def test_names_that_are_skipped_here_are_listed(trainer, tmp_path):
    names = ("a.png", ".hidden.png", "c-masklabel.png", "d-condlabel.apng")
    line = refused(trainer, indexed(trainer, tmp_path / "theirs", {name: Image.new("RGB", (6, 4)) for name in names}))
    assert all(f"{name} has a name that is not read as a photo here" in line for name in names[1:])
    assert "a.png has" not in line


def test_photo_named_like_mask_is_refused_in_paired_folders_too(tmp_path):
    names = ("images/dog-masklabel.png", "masks/dog-masklabel.png")
    write(tmp_path / "theirs", Image.new("RGB", (6, 4)), Image.new("L", (6, 4), 255), names)
    assert "dog-masklabel.png has a name that is not read as a photo here" in refused("kohya", tmp_path / "theirs")


@pytest.mark.parametrize("trainer", PAIRED)
def test_missing_and_foreign_masks_are_listed(trainer, theirs):
    folder = theirs(trainer)
    layout = CONVENTIONS[trainer].layout
    for stem in ("scan", "test"):
        mask = folder / layout.masks / f"{stem}{layout.postfix}.png"
        mask.rename(mask.with_name(f"foreign {stem}{layout.postfix}.png"))
    line = refused(trainer, folder)
    assert "scan.png has no mask" in line
    assert "has no mask; " in line and "test." in line
    assert all(
        f"the mask foreign {stem}{layout.postfix}.png has no photo; remove it" in line for stem in ("scan", "test")
    )


@pytest.mark.parametrize("trainer", ["kohya-alpha", "cutout"])
def test_photos_without_alpha_channel_are_listed(trainer, theirs):
    folder = theirs(trainer)
    for name in ("scan", "test"):
        Image.new("RGB", (4, 4)).save(folder / "images" / f"{name}.png")
    line = refused(trainer, folder)
    assert "scan.png has no alpha channel" in line and "test.png has no alpha channel" in line


@pytest.mark.parametrize(("trainer", "index"), [("invoke", "data.jsonl"), ("imagefolder", "train/metadata.jsonl")])
def test_lines_that_name_missing_files_are_listed(trainer, index, theirs):
    folder = theirs(trainer)
    path = folder / index
    photo, mask = CONVENTIONS[trainer].layout.photo, CONVENTIONS[trainer].layout.mask
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    lines[0][photo], lines[1][mask] = "gone.png", "lost.png"
    del lines[2][mask], lines[3][photo]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    line = refused(trainer, folder)
    assert "gone.png does not exist" in line and "lost.png does not exist" in line
    assert "has no mask; " in line and f"line 4: it has no '{photo}'; add it" in line
    path.write_text("{")
    assert "not a JSON Lines file" in refused(trainer, folder)
    path.unlink()
    assert path.name in refused(trainer, folder)


@EVERY
def test_clashing_stems_are_listed(trainer, theirs):
    folder = theirs(trainer)
    layout = CONVENTIONS[trainer].layout
    Image.new("RGB", (4, 4)).save(folder / layout.photos / "scan.webp")
    for index, key in (("data.jsonl", "image"), ("train/metadata.jsonl", "file_name")):
        if (folder / index).exists():
            added = {key: "images/scan.webp", layout.mask: "masks/scan.png"}
            with (folder / index).open("a") as file:
                file.write(json.dumps(added) + "\n")
    if trainer == "coco":
        stored = json.loads((folder / "instances.json").read_text())
        stored["images"].append({"id": 99, "file_name": "scan.webp", "width": 4, "height": 4})
        stored["annotations"].append(stored["annotations"][0] | {"image_id": 99})
        (folder / "instances.json").write_text(json.dumps(stored))
    assert "scan.png and scan.webp have the same name" in refused(trainer, folder)


@pytest.mark.parametrize("trainer", ["kohya", "ai-toolkit", "diffusion-pipe"])
def test_two_masks_of_photo_are_listed(trainer, theirs):
    folder = theirs(trainer)
    Image.new("L", (4, 4)).save(folder / "masks" / "scan.webp")
    assert "scan.png and scan.webp are masks of the same photo; remove one" in refused(trainer, folder)


@pytest.mark.parametrize("trainer", [*PAIRED, "invoke", "imagefolder"])
def test_masks_of_wrong_size_are_listed(trainer, theirs):
    folder = theirs(trainer)
    layout = CONVENTIONS[trainer].layout
    postfix = getattr(layout, "postfix", "")
    for stem in ("scan", "test"):
        files.write_mask(np.ones((7, 77), bool), folder / layout.masks / f"{stem}{postfix}.png")
    line = refused(trainer, folder)
    assert line.count("is 77 x 7 pixels") == 2
    assert "scan" in line and "test" in line


@pytest.mark.parametrize("trainer", [*PAIRED, "kohya-alpha", "cutout"])
def test_foreign_files_are_listed_but_leftovers_of_trainers_are_not(trainer, theirs, tmp_path):
    folder = theirs(trainer)
    photos = folder / CONVENTIONS[trainer].layout.photos
    for name in ("scan.npz", ".aitk_size.json", "notes.md", "train.toml"):
        (photos / name).write_bytes(b"")
    import_folder(CONVENTIONS[trainer], Given(folder), tmp_path / "back")
    (photos / "phone.heic").write_bytes(b"")
    (photos / "nobody.txt").write_text("words")
    line = refused(trainer, folder)
    assert "phone.heic" in line and "nobody.txt is the caption of no photo; remove it" in line


def empty(folder, trainer):
    """Create a trainer's folder without photos."""
    layout = CONVENTIONS[trainer].layout
    for name in (layout.photos, layout.masks or layout.photos):
        (folder / "theirs" / name).mkdir(parents=True, exist_ok=True)
    return folder / "theirs"


@EVERY
def test_folder_without_photos_is_refused(trainer, tmp_path):
    index = getattr(CONVENTIONS[trainer].layout, "name", None)
    assert (f"has no {Path(index).name}" if index else "there is no photo") in refused(
        trainer, empty(tmp_path, trainer)
    )
    assert (Path(index).name if index else "is not a folder") in refused(trainer, tmp_path / "absent")


@EVERY
def test_output_in_trainer_s_folder_or_in_use_is_refused(trainer, theirs, tmp_path):
    folder = theirs(trainer)
    before = tree(tmp_path)
    for output, message in ((folder / "back", "not written to"), (tmp_path / "album", "not empty")):
        with pytest.raises(UserError, match=message):
            import_folder(CONVENTIONS[trainer], Given(folder), output)
    assert tree(tmp_path) == before


def test_broken_photo_is_refused(theirs):
    folder = theirs("kohya")
    (folder / "images" / "scan.png").write_bytes(b"no photo")
    assert "scan.png cannot be decoded" in refused("kohya", folder)
