"""INSID3's operations on the features of cells, each by itself."""

import math

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from persam_dreambooth.segmentation import insid3_steps
from persam_dreambooth.segmentation.subject import Memory


def rows(count, width=6, seed=0):
    """Draw random unit vectors, (count, width)."""
    return F.normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_cell_needs_votes_of_half_of_references():
    features = torch.eye(4)
    # Cell 0 lies under the masks of references 1 and 2 of 3, cell 1 under one of them, cell 2 under none.
    labels = torch.tensor([1, -1, -1, -1, 2, -2, -2, -2, -3, 3, -3, -3], dtype=torch.int16)
    memory = Memory(features.repeat(3, 1), labels)
    assert memory.references == 3
    assert insid3_steps.votes(features, memory).tolist() == [2, 1, 0, 0]
    target = F.normalize(torch.tensor([1.0, 1.0, 1.0, -1.0]), dim=0)
    assert insid3_steps.candidates(features, target, memory).tolist() == [True, False, False, False]


@given(st.integers(2, 40), st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_selection_is_union_of_clusters(count, seed):
    features, plain, (target,) = rows(count, seed=seed), rows(count, seed=seed + 1), rows(1, seed=seed + 2)
    cluster = insid3_steps.clusters(plain, 0.6)
    candidate = features @ target > 0
    candidate[0] = True
    chosen = insid3_steps.select(features, plain, target, candidate, cluster, -1.0)
    for number in cluster.unique():
        assert chosen[cluster == number].unique().numel() == 1
    # The lowest threshold selects every cell, the highest none.
    assert chosen.all()
    assert not insid3_steps.select(features, plain, target, candidate, cluster, 0.999999).any()


def test_cluster_without_candidate_is_left_out():
    features = torch.tensor([[1.0, 0.0], [0.995, 0.1], [0.6, 0.8], [0.59, 0.81]])
    features = F.normalize(features, dim=1)
    cluster = torch.tensor([0, 0, 1, 1])
    target = features[0]
    found = insid3_steps.select(features, features, target, torch.tensor([True, False, False, False]), cluster, 0.6)
    assert found.tolist() == [True, True, False, False]  # the seed's share counts as 1
    found = insid3_steps.select(features, features, target, torch.tensor([True, True, True, True]), cluster, 0.2)
    assert found.tolist() == [True, True, True, True]


@given(st.integers(2, 12), st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_debiased_features_are_unit_rows_beside_the_positional_subspace(components, seed):
    blank, features = rows(20, 16, seed), rows(5, 16, seed + 1)
    projection = insid3_steps.positional_projection(blank, components)
    assert torch.linalg.matrix_rank(projection) == components
    torch.testing.assert_close(projection @ projection, projection, atol=1e-4, rtol=0)
    found = insid3_steps.debiased(features, projection)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(5))
    torch.testing.assert_close(found @ projection, torch.zeros(5, 16), atol=1e-4, rtol=0)


def test_positional_subspace_holds_the_directions_of_most_spread():
    """Cells that differ in the first channel most and in the second less, around a common mean in the third."""
    spread = torch.tensor([[2.0, 1.0], [-2.0, 1.0], [2.0, -1.0], [-2.0, -1.0]])
    cells = torch.cat([spread, torch.full((4, 1), 9.0)], dim=1)
    for components, diagonal in ((1, [1.0, 0, 0]), (2, [1.0, 1, 0])):
        projection = insid3_steps.positional_projection(cells, components)
        torch.testing.assert_close(projection, torch.diag(torch.tensor(diagonal)), atol=1e-5, rtol=0)


def test_prototype_counts_each_reference_once_whatever_its_cells():
    first = torch.tensor([[1.0, 0, 0]] * 9 + [[0, 0, 1.0]]), torch.tensor([True] * 9 + [False])
    second = torch.tensor([[0, 1.0, 0]]), torch.tensor([True])
    expected = torch.tensor([1.0, 1, 0]) / 2**0.5
    torch.testing.assert_close(insid3_steps.prototype([first, second]), expected)


def test_without_a_similar_cell_the_least_unlike_ones_are_candidates():
    angles = torch.linspace(0.6 * math.pi, math.pi, 20)  # all of them on the other side of the target
    features = torch.stack([angles.cos(), angles.sin()], dim=1)
    target, known = torch.tensor([1.0, 0.0]), torch.tensor([[0.0, 1.0], [0.0, -1.0]])
    memory = Memory(known, torch.tensor([1, -1], dtype=torch.int16))
    found = insid3_steps.candidates(features, target, memory)
    assert found.nonzero().flatten().tolist() == [0, 1]  # above the 90 % quantile of 20
    assert not insid3_steps.candidates(features, target, Memory(known, -memory.labels)).any()


def test_clusters_are_cut_at_mean_similarity_tau():
    """Two pairs: inside a pair the cosine is 0.8, between the pairs 0."""
    cells = torch.tensor([[1.0, 0, 0, 0], [0.8, 0.6, 0, 0], [0, 0, 1.0, 0], [0, 0, 0.8, 0.6]])
    partition = [insid3_steps.clusters(cells, tau).tolist() for tau in (0.81, 0.79)]
    assert sorted(partition[0]) == [0, 1, 2, 3]
    assert partition[1][0] == partition[1][1] != partition[1][2] == partition[1][3]
    angles = torch.tensor([0.0, 0.64, 1.36])  # cosines 0.8 and 0.75 of neighbours, 0.21 of the outer two
    chain = insid3_steps.clusters(torch.stack([angles.cos(), angles.sin()], dim=1), 0.6).tolist()
    assert chain[0] == chain[1] != chain[2]
    assert insid3_steps.clusters(cells[:1], 0.6).tolist() == [0]
    assert insid3_steps.clusters(cells[:0], 0.6).tolist() == []
