"""LVIS-92i, PASCAL-Part and PACO-Part: their folds, their masks and crops, and what is refused."""

from collections import Counter
from dataclasses import replace
from random import Random

import numpy as np
import pytest

from persam_dreambooth.errors import UserError
from persam_dreambooth.evaluation.segmentation.sampled import Lvis92, PacoPart, PascalPart
from tests.evaluation.segmentation import datasets
from tests.evaluation.segmentation.test_protocols import draw_episodes


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
