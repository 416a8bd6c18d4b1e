"""PerSeg, FSS-1000 and PerMIS: their episodes and masks, and what is refused."""

import numpy as np
import pytest

from persam_dreambooth.errors import UserError
from persam_dreambooth.evaluation.segmentation.folders import FSS1000, PerMis, PerSeg
from persam_dreambooth.evaluation.segmentation.protocols import list_episodes
from tests.evaluation.segmentation import datasets
from tests.evaluation.segmentation.test_protocols import draw_episodes


def test_too_many_shots_are_refused(tmp_path):
    with pytest.raises(UserError, match="--shots 3 PerSeg's objects need"):
        draw_episodes(PerSeg, tmp_path / "perseg", shots=3)
    with pytest.raises(UserError, match="--shots 3 leaves no query"):
        draw_episodes(PerMis, tmp_path / "permis", shots=3)


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


def test_fss_has_one_episode_per_photo_of_test_classes(tmp_path):
    _, episodes = draw_episodes(FSS1000, tmp_path)
    queries = [episode.query.image for episode in episodes]
    assert queries == [f"data/{name}/{photo}.jpg" for name in ("ab_wheel", "abacus") for photo in (1, 2, 3)]
    assert all(episode.references[0].image.split("/")[1] == episode.group for episode in episodes)


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


def test_permis_with_other_content_is_refused(tmp_path):
    benchmark, episodes = draw_episodes(PerMis, tmp_path)
    path = tmp_path / "data" / "0" / "masks.npz.npy"
    for content in ([{}] * 3, [1, 2, 3], [{1: np.zeros(3, bool)}] * 3):
        array = np.empty(3, dtype=object)
        array[:] = content
        np.save(path, array, allow_pickle=True)
        with pytest.raises(UserError, match="make it again"):
            benchmark.read(episodes[0].query)
