"""Index files: JSON Lines and COCO annotations, those of other programs and our own."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as tools

from persam_dreambooth.errors import UserError
from persam_dreambooth.formats.indexes import Coco, JsonLines
from persam_dreambooth.formats.layouts import Given
from persam_dreambooth.formats.masked_photos import MaskedPhoto
from persam_dreambooth.photos import files
from tests.formats.albums import annotation
from tests.formats.test_import import imported, refused


def coco(folder, annotations, categories=({"id": 7, "name": "dog"},), size=(6, 4)):
    """Write a COCO file of one photo as other programs do, with the photo beside it."""
    folder.mkdir()
    Image.new("RGB", size).save(folder / "a.jpg")
    image = {"id": 11, "file_name": "a.jpg", "width": size[0], "height": size[1]}
    whole = {"images": [image], "annotations": list(annotations), "categories": list(categories)}
    (folder / "custom.json").write_text(json.dumps(whole))
    return folder / "custom.json"


DRAWN = np.array([[0, 0, 0, 0, 0, 0], [0, 1, 1, 0, 0, 0], [0, 1, 1, 1, 0, 1], [0, 0, 0, 0, 0, 1]], bool)


def run_lengths(mask):
    """Encode a mask uncompressed: run lengths, column by column, background first."""
    flat = mask.T.ravel().astype(int)
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges, flat.size]).tolist()
    return {"size": list(mask.shape), "counts": counts if flat[0] == 0 else [0, *counts]}


@pytest.mark.parametrize("packed", [True, False])
def test_both_kinds_of_run_lengths_are_read_and_masks_are_united(packed, tmp_path):
    parts = [DRAWN & (np.arange(6) < 4), DRAWN & (np.arange(6) >= 4)]
    if packed:
        encoded = [tools.encode(np.asfortranarray(part.astype(np.uint8))) for part in parts]
        encoded = [runs | {"counts": runs["counts"].decode()} for runs in encoded]
    else:
        encoded = [run_lengths(part) for part in parts]
    path = coco(tmp_path / "theirs", [annotation(runs) for runs in encoded])
    mask, _ = imported("coco", path, tmp_path / "back")
    np.testing.assert_array_equal(mask, DRAWN)


def test_polygons_are_read(tmp_path):
    path = coco(tmp_path / "theirs", [annotation([[1, 1, 4, 1, 4, 3, 1, 3]])])
    mask, _ = imported("coco", path, tmp_path / "back")
    assert mask[1:3, 1:4].all() and mask.sum() == 6


def test_subject_is_chosen_among_several_categories(tmp_path):
    names = [{"id": 7, "name": "dog"}, {"id": 8, "name": "sofa"}]
    both = [annotation(run_lengths(DRAWN)), annotation(run_lengths(~DRAWN), category=8)]
    path = coco(tmp_path / "theirs", both, names)
    assert "dog, sofa" in refused("coco", path)
    assert "--category" in refused("coco", path, category="cat")
    np.testing.assert_array_equal(imported("coco", path, tmp_path / "a", category="dog")[0], DRAWN)
    np.testing.assert_array_equal(imported("coco", path, tmp_path / "b", category="sofa")[0], ~DRAWN)


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        ([], "a.jpg has no mask; annotate it, or remove"),
        (
            [annotation(run_lengths(DRAWN)), annotation(run_lengths(DRAWN), image=99)],
            "image 99, which is not listed; add it",
        ),
        ([annotation(run_lengths(DRAWN[:3]))], "annotation 1, of a.jpg: a mask of (3, 6)"),
        (
            [annotation("nonsense")],
            "annotation 1, of a.jpg: a mask is polygons, a run-length encoding or an array, not str; export it again",
        ),
        ([annotation({"size": [4, 6], "counts": [[]]})], "annotation 1, of a.jpg: a run-length encoding's counts"),
    ],
)
def test_invalid_annotations_are_refused(annotations, message, tmp_path):
    assert message in refused("coco", coco(tmp_path / "theirs", annotations))


@pytest.mark.parametrize("text", ["[]", "{}", "no JSON", '{"images": [], "annotations": [3]}'])
def test_file_that_is_not_coco_is_refused(text, tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "instances.json").write_text(text)
    assert "not a COCO file" in refused("coco", tmp_path / "theirs")


@pytest.fixture
def pair(tmp_path):
    """A photo, its mask of three levels, and its caption, as an export writes them."""
    path = tmp_path / "Hündin.png"
    Image.new("RGB", (6, 4), "red").save(path)
    levels = np.zeros((4, 6), np.uint8)
    levels[1:3], levels[3] = 255, 90
    return MaskedPhoto(path, files.read_photo(path), levels, "a sks dog,\nümläute")


@pytest.mark.parametrize("layout", [JsonLines("train/index.jsonl", "file", "where"), Coco()], ids=["lines", "coco"])
def test_what_is_written_is_found_again(layout, pair, tmp_path):
    folder = tmp_path / "theirs"
    layout.close([layout.add(pair, folder)], folder)
    (found,), problems = layout.find(Given(folder))
    assert (problems, found.photo.read_bytes(), found.caption) == ([], pair.photo.read_bytes(), pair.caption)
    levels = np.asarray(found.read_levels())
    expected = pair.levels if isinstance(layout, JsonLines) else pair.mask * np.uint8(255)  # COCO has no grey
    np.testing.assert_array_equal(levels, expected)
    assert found.photo.relative_to(folder).parent.as_posix() == layout.photos


def test_annotation_measures_its_mask(pair, tmp_path):
    line = Coco().add(pair, tmp_path / "theirs")
    assert (line["area"], line["bbox"]) == (12, [0.0, 1.0, 6.0, 2.0])
    Coco().close([line, {"image": {"file_name": "b.png"}}], tmp_path / "theirs")
    stored = json.loads((tmp_path / "theirs" / "instances.json").read_text())
    assert [(each["id"], each.get("image_id")) for each in stored["annotations"]] == [(1, 1), (2, 2)]
    assert stored["images"][0] == {"id": 1, "file_name": "Hündin.png", "width": 6, "height": 4}


def test_every_wrong_line_is_listed_with_its_number(pair, tmp_path):
    layout, folder = JsonLines("index.jsonl", "file", "where"), tmp_path / "theirs"
    good = layout.add(pair, folder)
    wrong = [[], {"file": "absent.png"}, {"file": good["file"]}, good | {"text": 3}, good]
    layout.close([good, *wrong], folder)
    found, problems = layout.find(Given(folder))
    assert len(found) == 2
    starts = ["line 2: it has no 'file'", "line 3: ", "line 4: Hündin.png has no mask; add its 'where'"]
    starts += ["line 5: the 'text' of Hündin.png is not text", "Hündin.png is listed twice"]
    assert all(problem.startswith(start) for problem, start in zip(problems, starts, strict=True))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": [{"id": 1}]}, "image 1 has no valid file_name"),
        ({"images": [{"id": 1, "file_name": "a.jpg"}] * 2}, "2 images have the id 1"),
        (
            {"annotations": [{"id": [], "image_id": 11, "category_id": []}]},
            "annotation number 1 has no valid category_id",
        ),
        ({"categories": ["dog"]}, "category number 1 is not an object"),
        ({"annotations": {}}, "is not a COCO file of images and annotations"),
    ],
)
def test_tables_without_what_they_need_are_refused(changes, words, tmp_path):
    path = coco(tmp_path / "theirs", [annotation(run_lengths(DRAWN))])
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(UserError, match=words):
        Coco().find(Given(path))


def test_size_in_the_file_is_that_of_the_photo(tmp_path):
    path = coco(tmp_path / "theirs", [annotation(run_lengths(DRAWN))])
    stored = json.loads(path.read_text())
    stored["images"][0] |= {"width": 60, "height": 40}
    path.write_text(json.dumps(stored))
    (found,), _ = Coco().find(Given(path))
    with pytest.raises(UserError, match=r"a\.jpg is 6 x 4 pixels, its entry says 60 x 40"):
        found.read_levels()
