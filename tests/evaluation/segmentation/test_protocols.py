"""All benchmarks: episodes are drawn once and read back, and other layouts are refused."""

import json

import numpy as np
import pytest
from PIL import Image

from persam_dreambooth.errors import UserError
from persam_dreambooth.evaluation.segmentation.few_shot import Coco20i, Pascal5i
from persam_dreambooth.evaluation.segmentation.folders import FSS1000, PerMis, PerSeg
from persam_dreambooth.evaluation.segmentation.protocols import list_episodes, read_checked
from persam_dreambooth.evaluation.segmentation.sampled import Lvis92, PacoPart, PascalPart
from persam_dreambooth.images import to_mask
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
