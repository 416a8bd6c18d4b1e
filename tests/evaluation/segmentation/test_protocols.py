"""Reading the benchmarks: their episodes and masks, and that other layouts are refused."""

import json
import os
import pickle
import shutil
from collections import Counter
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from PIL import Image

from persam_dreambooth.errors import UserError
from persam_dreambooth.evaluation.segmentation.annotations import read_annotations, read_object_array
from persam_dreambooth.evaluation.segmentation.davis import Davis
from persam_dreambooth.evaluation.segmentation.few_shot import Coco20i, Pascal5i
from persam_dreambooth.evaluation.segmentation.folders import FSS1000, PerMis, PerSeg
from persam_dreambooth.evaluation.segmentation.protocols import list_episodes, read_checked
from persam_dreambooth.evaluation.segmentation.sampled import Lvis92, PacoPart, PascalPart
from persam_dreambooth.images import to_mask
from persam_dreambooth.photos.coco import union_of
from tests.evaluation.segmentation import datasets
from tests.photos.test_files import swapping_profile

WRITERS = {
    PerSeg: datasets.write_perseg,
    FSS1000: datasets.write_fss,
    Lvis92: datasets.write_lvis,
    PascalPart: datasets.write_pascal,
    PacoPart: datasets.write_paco,
    Coco20i: datasets.write_coco20,
    Pascal5i: datasets.write_pascal5,
    PerMis: datasets.write_permis,
}
ALL = pytest.mark.parametrize("make", WRITERS, ids=lambda make: make.name)
SAMPLED = pytest.mark.parametrize(
    "make", [Lvis92, PascalPart, PacoPart, Coco20i, Pascal5i], ids=lambda make: make.name
)


def draw_episodes(make, tmp_path, folds=(0,), seed=0, count=None, name="episodes.json", shots=1):
    """Return a benchmark on a folder in its layout, and its episodes."""
    folder = tmp_path / "data"
    if not folder.exists():
        WRITERS[make](folder)
    benchmark = make(folder)
    return benchmark, list_episodes(benchmark, tmp_path / name, folds, seed, count, shots)


# All of them


@ALL
def test_colour_profiles_are_ignored_as_in_the_published_code(make, tmp_path):
    benchmark, episodes = draw_episodes(make, tmp_path, count=1)
    before = np.asarray(benchmark.read(episodes[0].query)[0], float)
    for path in (tmp_path / "data").rglob("*.jpg"):
        with Image.open(path) as photo:
            photo.save(path, quality=95, icc_profile=swapping_profile())
    after = np.asarray(benchmark.read(episodes[0].query)[0], float)
    assert np.abs(after - before).mean() < 5 < np.abs(after[..., ::-1] - before).mean()


@ALL
def test_empty_folder_is_refused_naming_what_is_missing(make, tmp_path):
    with pytest.raises(UserError, match=f"not laid out as {make.title}") as refusal:
        make(tmp_path)
    assert "\n" not in str(refusal.value)
    assert "docs/evaluation.md" in str(refusal.value)


@ALL
def test_parent_folder_is_refused(make, tmp_path):
    WRITERS[make](tmp_path / "above" / "below")
    with pytest.raises(UserError, match="not laid out as"):
        make(tmp_path / "above")
    make(tmp_path / "above" / "below")


@ALL
def test_every_episode_is_readable_and_has_two_different_photos(make, tmp_path):
    benchmark, episodes = draw_episodes(make, tmp_path, count=6)
    assert len(episodes) == 4 if make is PerSeg else 6
    assert len({episode.name for episode in episodes}) == len(episodes)
    for episode in episodes:
        (reference,) = episode.references
        assert reference.image != episode.query.image
        for shot in (reference, episode.query):
            image, mask = read_checked(benchmark, shot)
            assert image.mode == "RGB"
            assert 0 < to_mask(mask).mean() < 1


@ALL
def test_episodes_survive_writing_and_reading(make, tmp_path):
    benchmark, episodes = draw_episodes(make, tmp_path, count=5)
    # The file overrides the seed, so two runs use the same episodes.
    assert list_episodes(benchmark, tmp_path / "episodes.json", [0], 99, 3) == episodes
    _, same = draw_episodes(make, tmp_path, count=5, name="again.json")
    assert same == episodes


@ALL
def test_k_references_are_of_the_group_and_never_the_query(make, tmp_path):
    benchmark, episodes = draw_episodes(make, tmp_path, count=4, shots=2)
    for episode in episodes:
        assert len(episode.references) == 2
        assert episode.query.image not in {shot.image for shot in episode.references}
        if make is not PerMis:
            (alone,) = draw_episodes(make, tmp_path, count=4, name="one.json")[1][:1]
            assert len(alone.references) == 1
        for shot in episode.references:
            assert to_mask(read_checked(benchmark, shot)[1]).any()
    assert list_episodes(benchmark, tmp_path / "episodes.json", [0], 9, 1, 2) == episodes


def test_references_drawn_at_random_may_be_drawn_twice(tmp_path):
    _, episodes = draw_episodes(FSS1000, tmp_path, shots=5)  # three photos of each class
    assert all(len(episode.references) == 5 for episode in episodes)
    assert all(len({shot.image for shot in episode.references}) <= 2 for episode in episodes)


def test_too_many_shots_are_refused(tmp_path):
    with pytest.raises(UserError, match="--shots 3 PerSeg's objects need"):
        draw_episodes(PerSeg, tmp_path / "perseg", shots=3)
    with pytest.raises(UserError, match="--shots 3 leaves no query"):
        draw_episodes(PerMis, tmp_path / "permis", shots=3)


@pytest.mark.parametrize(
    "make", [FSS1000, Lvis92, PascalPart, PacoPart, Coco20i, Pascal5i], ids=lambda make: make.name
)
def test_different_seed_draws_different_episodes(make, tmp_path):
    _, episodes = draw_episodes(make, tmp_path)
    _, others = draw_episodes(make, tmp_path, seed=1, name="others.json")
    assert len(episodes) == len(others)
    assert episodes != others


@SAMPLED
def test_fold_is_same_alone_and_with_others(make, tmp_path):
    _, both = draw_episodes(make, tmp_path, folds=(0, 1), count=7)
    _, second = draw_episodes(make, tmp_path, folds=(1,), count=7, name="second.json")
    assert [episode for episode in both if episode.fold == 1] == second
    assert len(both) == 14


def test_missing_fold_is_refused(tmp_path):
    with pytest.raises(UserError, match="LVIS-92i has no fold 10; its folds are 0 to 9"):
        draw_episodes(Lvis92, tmp_path, folds=(3, 10))


def test_episodes_of_other_benchmark_are_refused(tmp_path):
    benchmark, _ = draw_episodes(PerSeg, tmp_path)
    path = tmp_path / "episodes.json"
    stored = json.loads(path.read_text())
    path.write_text(json.dumps(stored | {"benchmark": "fss"}))
    with pytest.raises(UserError, match="episodes of fss, not of perseg"):
        list_episodes(benchmark, path, [0], 0, None)
    for text in ("{", "[]", '{"benchmark": "perseg", "episodes": [{"name": "x"}]}'):
        path.write_text(text)
        with pytest.raises(UserError, match="damaged"):
            list_episodes(benchmark, path, [0], 0, None)


def test_mask_of_other_size_means_damaged_dataset(tmp_path):
    benchmark, episodes = draw_episodes(PerSeg, tmp_path)
    datasets.write(tmp_path / "data" / "Annotations" / "cat" / "01.png", np.eye(7, dtype=np.uint8))
    with pytest.raises(UserError, match=r"cat/01\.png.* 7 x 7 pixels but the photo is 60 x 40"):
        read_checked(benchmark, episodes[0].query)


# PerSeg


def test_perseg_has_episode_for_every_photo_but_reference(tmp_path):
    benchmark, episodes = draw_episodes(PerSeg, tmp_path)
    assert [episode.name for episode in episodes] == ["cat/01", "cat/02", "dog/01", "dog/02"]
    assert {episode.references[0].image for episode in episodes} == {"Images/cat/00.jpg", "Images/dog/00.jpg"}
    assert all(episode.group == episode.references[0].image.split("/")[1] for episode in episodes)
    # The file's own level reaches the reference: fidelity "official" reads it.
    _, mask = benchmark.read(episodes[0].references[0])
    assert np.unique(np.asarray(mask)).tolist() == [0, 128]


def test_perseg_names_missing_mask_or_reference(tmp_path):
    datasets.write_perseg(tmp_path)
    (tmp_path / "Annotations" / "dog" / "02.png").unlink()
    with pytest.raises(UserError, match=r"dog/02\.png"):
        list_episodes(PerSeg(tmp_path), tmp_path / "e.json", [0], 0, None)
    (tmp_path / "Images" / "cat" / "00.jpg").unlink()
    with pytest.raises(UserError, match="cat holds 2 photos"):
        list_episodes(PerSeg(tmp_path), tmp_path / "e.json", [0], 0, None)


# FSS-1000


def test_fss_has_one_episode_per_photo_of_test_classes(tmp_path):
    _, episodes = draw_episodes(FSS1000, tmp_path)
    queries = [episode.query.image for episode in episodes]
    assert queries == [f"data/{name}/{photo}.jpg" for name in ("ab_wheel", "abacus") for photo in (1, 2, 3)]
    assert all(episode.references[0].image.split("/")[1] == episode.group for episode in episodes)


# LVIS-92i


def test_lvis_deals_classes_to_ten_folds_and_drops_remainder(tmp_path):
    # 23 classes have at least two photos: 2 per fold, 3 left over. Fold 4 has the 5th and the 15th.
    _, episodes = draw_episodes(Lvis92, tmp_path, folds=(4,), count=5)
    assert [episode.group for episode in episodes] == ["5", "15", "5", "15", "5"]
    benchmark, every = draw_episodes(Lvis92, tmp_path, folds=range(10), count=2, name="all.json")
    assert sorted({int(episode.group) for episode in every}) == list(range(1, 21))
    assert len(benchmark.draw(0, Random(0), None)) == 2300


def test_lvis_joins_all_instances_of_class(tmp_path):
    benchmark, episodes = draw_episodes(Lvis92, tmp_path, count=1)
    group, photo = episodes[0].query.label
    number = int(photo[-5])
    _, mask = benchmark.read(episodes[0].query)
    expected = datasets.square(2, group, 10) | datasets.square(20, 2 * number, 10)
    np.testing.assert_array_equal(mask, expected)


# PASCAL-Part


def test_pascal_folds_are_object_categories_and_their_classes_are_parts(tmp_path):
    _, episodes = draw_episodes(PascalPart, tmp_path, folds=range(4), count=3)
    groups = {fold: {episode.group for episode in episodes if episode.fold == fold} for fold in range(4)}
    # A part without training photos is no class, nor is the aeroplane's tail.
    assert groups == {0: {"dog+HEAD"}, 1: {"bird+HEAD"}, 2: {"dog+HEAD"}, 3: {"bird+HEAD"}}


def test_pascal_has_as_many_episodes_as_listed_photos(tmp_path):
    _, episodes = draw_episodes(PascalPart, tmp_path)
    assert len(episodes) == 8  # heads and tails, 4 photos each; 2500 at most


def test_pascal_crops_to_box_of_one_object(tmp_path):
    benchmark, episodes = draw_episodes(PascalPart, tmp_path, count=20)
    # The first photo's dog without a head is never used.
    assert {shot.label[:2] for episode in episodes for shot in (episode.query, *episode.references)} == {
        ("2008_000000", 1),
        ("2008_000001", 0),
        ("2008_000002", 0),
        ("2008_000003", 0),
    }
    photo, *_ = episodes[0].query.label
    image, mask = benchmark.read(episodes[0].query)
    assert image.size == (30, 30)  # left 10, top 5, right 40, bottom 35, the last ones outside
    whole = datasets.square(8, 12, 10) | datasets.square(20, 12 + int(photo[-1]), 10)
    np.testing.assert_array_equal(mask, whole[5:35, 10:40])


# PACO-Part


def test_paco_folds_take_every_fourth_class(tmp_path):
    _, episodes = draw_episodes(PacoPart, tmp_path, folds=range(4), count=40)
    groups = {fold: {episode.group for episode in episodes if episode.fold == fold} for fold in range(4)}
    assert groups == {0: {"0", "4"}, 1: {"1", "5"}, 2: {"2", "6"}, 3: {"3"}}  # class 7 has one photo, named twice


def test_paco_crops_to_box_of_one_object(tmp_path):
    benchmark, episodes = draw_episodes(PacoPart, tmp_path, count=30)
    owners = Counter(episode.query.label[2] % 100 for episode in episodes)
    assert set(owners) == {0, 1}
    for episode in episodes:
        _, group, owner = episode.query.label
        image, mask = benchmark.read(episode.query)
        assert image.size == (30, 30)
        left = 30 * (owner % 100)
        expected = datasets.square(8 + group, left + 3, 10)[5:35, left : left + 30]
        np.testing.assert_array_equal(mask, expected)


def test_paco_refuses_episodes_of_other_dataset(tmp_path):
    benchmark, episodes = draw_episodes(PacoPart, tmp_path, count=1)
    stranger = replace(episodes[0].query, label=(0, 0, 12345))
    with pytest.raises(UserError, match="object 12345"):
        benchmark.read(stranger)


# COCO-20i, PASCAL-5i, PerMIS


def test_coco_fold_has_every_fourth_class(tmp_path):
    benchmark, episodes = draw_episodes(Coco20i, tmp_path, folds=range(4), count=40)
    groups = {fold: {episode.group for episode in episodes if episode.fold == fold} for fold in range(4)}
    assert groups == {0: {"1", "5"}, 1: {"2"}, 2: {"3"}, 3: {"4"}}  # class 9, also of fold 0, has one photo
    assert len(benchmark.draw(0, Random(0), None)) == 1000
    for episode in episodes:
        number, group = int(episode.query.image[-5]), int(episode.group)
        expected = np.zeros((40, 60), bool)
        expected[2 * group + number : 30, 10 * group : 10 * group + 8] = True
        np.testing.assert_array_equal(benchmark.read(episode.query)[1], expected)
        assert benchmark.void(episode.query) is None


def test_pascal5_cycles_through_its_list_and_has_void_pixels(tmp_path):
    benchmark, episodes = draw_episodes(Pascal5i, tmp_path, count=10)
    listed = [(f"2007_{photo:06d}", group) for photo in range(4) for group in (1, 2)]
    assert [episode.query.label for episode in episodes] == [*listed, *listed[:2]]
    assert len(benchmark.draw(1, Random(0), None)) == 1000
    for episode in episodes:
        assert all(shot.label[1] == int(episode.group) for shot in episode.references)
    ring = datasets.square(4, 4, 16) & ~datasets.square(6, 6, 12)
    np.testing.assert_array_equal(benchmark.void(episodes[0].query), ring)
    np.testing.assert_array_equal(benchmark.read(episodes[0].query)[1], datasets.square(6, 6, 12))


def test_pascal5_refuses_other_lists(tmp_path):
    datasets.write_pascal5(tmp_path)
    (tmp_path / "splits" / "pascal" / "val" / "fold0.txt").write_text("2007_000000\n")
    with pytest.raises(UserError, match="lines unlike 2007_000033__01"):
        Pascal5i(tmp_path).draw(0, Random(0), None)


def test_permis_finds_first_object_of_first_frame_in_the_other_two(tmp_path):
    benchmark, episodes = draw_episodes(PerMis, tmp_path)
    assert [episode.name for episode in episodes] == ["0/1", "0/2", "17/1", "17/2", "4/1", "4/2"]
    assert {episode.group for episode in episodes} == {"PerMIS"}
    for episode in episodes:
        (reference,) = episode.references
        assert reference.image == f"{episode.name[:-2]}/0.jpg"
        frame = int(episode.name[-1])
        np.testing.assert_array_equal(benchmark.read(reference)[1], datasets.square(5, 5, 12))
        np.testing.assert_array_equal(benchmark.read(episode.query)[1], datasets.square(5, 5 + 4 * frame, 12))


class Marking:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_permis_runs_no_code_of_its_files(tmp_path):
    path = tmp_path / "masks.npz.npy"
    np.save(path, np.array([{1: Marking(str(tmp_path / "ran"))}] * 3, dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="more than annotations"):
        read_object_array(path)
    assert not (tmp_path / "ran").exists()
    np.save(path, np.zeros(3))
    with pytest.raises(UserError, match="array of float64"):
        read_object_array(path)


def test_permis_with_other_content_is_refused(tmp_path):
    benchmark, episodes = draw_episodes(PerMis, tmp_path)
    path = tmp_path / "data" / "0" / "masks.npz.npy"
    for content in ([{}] * 3, [1, 2, 3], [{1: np.zeros(3, bool)}] * 3):
        array = np.empty(3, dtype=object)
        array[:] = content
        np.save(path, array, allow_pickle=True)
        with pytest.raises(UserError, match="make it again"):
            benchmark.read(episodes[0].query)


# COCO's masks and pickles


def test_all_mask_encodings_decode_to_same_mask():
    mask = datasets.square(7, 11, 9)
    # Run lengths go down the columns, background first.
    changes = np.flatnonzero(np.diff(np.concatenate([[0], mask.T.ravel(), [0]]))).tolist()
    runs = np.diff([0, *changes, mask.size]).tolist()
    unpacked = {"size": list(mask.shape), "counts": runs}
    for way in (datasets.polygon(7, 11, 9), datasets.packed(mask), unpacked, mask.astype(np.uint8)):
        np.testing.assert_array_equal(union_of([way], *mask.shape), mask)
    np.testing.assert_array_equal(union_of([], *mask.shape), np.zeros_like(mask))


@pytest.mark.parametrize(
    "broken", ["a string", {"counts": "x"}, datasets.packed(np.ones((3, 4), bool)), np.ones((3, 4))]
)
def test_invalid_mask_is_refused(broken):
    with pytest.raises(UserError):
        union_of([broken], 40, 60)


class Program:
    def __reduce__(self):
        return os.system, ("touch pickled-program-ran",)


def test_code_in_pickle_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "lvis_val.pkl"
    path.write_bytes(pickle.dumps({1: Program()}))
    with pytest.raises(UserError, match="more than annotations"):
        read_annotations(path)
    assert not (tmp_path / "pickled-program-ran").exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_annotations_of_every_pickle_protocol_are_read(tmp_path, protocol):
    path, mask = tmp_path / "a.pkl", np.eye(5, dtype=np.uint8)
    stored = {1: {"counts": b"\x01\xff", "array": mask, "number": np.int64(3), "box": [1.5, 2]}}
    path.write_bytes(pickle.dumps(stored, protocol=protocol))
    read = read_annotations(path)[1]
    np.testing.assert_array_equal(read["array"], mask)
    assert (read["counts"], read["number"], read["box"]) == (b"\x01\xff", 3, [1.5, 2])


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps([1, 2])], ids=["empty", "text", "list"])
def test_invalid_annotation_file_is_refused(tmp_path, content):
    path = tmp_path / "a.pkl"
    path.write_bytes(content)
    with pytest.raises(UserError, match="download it again"):
        read_annotations(path)


# DAVIS


def test_davis_names_its_videos_and_reads_palette_numbers(tmp_path):
    davis = Davis(datasets.write_davis(tmp_path))
    assert davis.videos == ["bear", "bike"]
    labels = davis.labels("bear", davis.frames("bear")[0])
    assert np.unique(labels).tolist() == [0, 1, 2, 255]
    assert (labels == 1).sum() == 100


@pytest.mark.parametrize("missing", ["ImageSets", "JPEGImages", "Annotations"])
def test_davis_without_one_of_its_folders_is_refused(tmp_path, missing):
    datasets.write_davis(tmp_path)
    shutil.rmtree(tmp_path / missing)
    with pytest.raises(UserError, match=f"not laid out as DAVIS 2017 val: no {missing}"):
        Davis(tmp_path)


def test_davis_refuses_annotations_in_colours(tmp_path):
    davis = Davis(datasets.write_davis(tmp_path))
    datasets.write(tmp_path / "Annotations" / "480p" / "bear" / "00001.png", np.zeros((40, 60, 3), np.uint8))
    with pytest.raises(UserError, match="mode RGB"):
        davis.labels("bear", davis.frames("bear")[1])
