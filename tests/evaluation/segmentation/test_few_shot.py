"""COCO-20i and PASCAL-5i: their folds, their masks and void pixels, and what is refused."""

from random import Random

import numpy as np
import pytest

from persam_dreambooth.errors import UserError
from persam_dreambooth.evaluation.segmentation.few_shot import Coco20i, Pascal5i
from tests.evaluation.segmentation import datasets
from tests.evaluation.segmentation.test_protocols import draw_episodes


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
