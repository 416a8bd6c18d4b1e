"""The operations of INSID3: from the patch features of one frozen DINOv3 to the cells of the subject.

Cuttano et al., "INSID3: Training-Free In-Context Segmentation with DINOv3" (CVPR 2026, arXiv 2603.28480). A cell is a
patch of the encoder's grid; features are matrices of unit rows, one per cell. The module `insid3` runs, in this order:

1. `positional_projection`, once per encoder: the part of the features that encodes the position in the photo.
2. `debiased`: the features without that part. The steps below compare these, except 5.
3. `prototype`: the subject's mean feature in the references.
4. `candidates`: cells similar to the prototype whose best matches in the references are the subject's.
5. `clusters`: groups of the photo's cells with similar plain features.
6. `select`: the group most like the prototype, and the groups that belong to it.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from torch import Tensor

from persam_dreambooth.segmentation.subject import Memory

POSITIONAL_SHARE = 500 / 1024
"""Share of the channels in the positional subspace: the paper's 500 components of DINOv3-L's 1024."""
FORWARD_QUANTILE = 0.9
"""If no cell is similar to the prototype, the cells above this quantile of the similarities are searched."""


def positional_projection(features: Tensor, components: int) -> Tensor:
    """Return the projection U U^T onto the subspace in which features encode position, not content.

    Args:
        features: (n, C) float32 unit rows of a blank photo, so that they differ by position only.
        components: number of left singular vectors to keep, at most C.

    Returns:
        (C, C) float32.
    """
    centred = (features - features.mean(0)).T
    basis: Tensor = torch.linalg.svd(centred, full_matrices=False).U[:, :components]
    return basis @ basis.T


def debiased(features: Tensor, projection: Tensor) -> Tensor:
    """Remove the positional subspace from (n, C) unit rows, and normalize the rows again."""
    return F.normalize(features - features @ projection, dim=-1)


def prototype(references: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the subject's (C,) unit feature: the mean over the references of each one's mean.

    Args:
        references: for each reference its (n, C) debiased features, and (n,) bool, the cells under its mask, at
            least one.
    """
    return F.normalize(torch.stack([features[inside].mean(0) for features, inside in references]).mean(0), dim=0)


def votes(features: Tensor, memory: Memory) -> Tensor:
    """Count for each of (m, C) cells the references whose most similar cell lies under the mask; (m,) int64."""
    counts = torch.zeros(len(features), dtype=torch.int64, device=features.device)
    for number in range(1, memory.references + 1):
        own = memory.labels.abs() == number
        nearest = (features @ memory.features[own].T).argmax(1)
        counts += memory.labels[own][nearest] > 0
    return counts


def candidates(features: Tensor, target: Tensor, memory: Memory) -> Tensor:
    """Return the cells that are similar to the prototype and whose best matches in the references are the subject's.

    Args:
        features: (n, C) debiased features of the photo.
        target: (C,) the prototype.
        memory: the references' cells.

    Returns:
        (n,) bool.
    """
    similarity = features @ target
    forward = similarity > 0
    if not forward.any():
        forward = similarity > similarity.quantile(FORWARD_QUANTILE)
    return forward & (votes(features, memory) >= math.ceil(memory.references / 2))


def clusters(features: Tensor, tau: float) -> Tensor:
    """Group cells by agglomerative clustering: cosine distance, average linkage, cut at distance 1 - tau.

    Takes time and memory quadratic in n: 4096 cells take about a second of one core and 0.2 GB.

    Args:
        features: (n, C) unit rows, not debiased.
        tau: mean cosine similarity below which two groups are not joined.

    Returns:
        (n,) int64 labels from 0 on.
    """
    if len(features) < 2:
        return torch.zeros(len(features), dtype=torch.int64, device=features.device)
    similarity = squareform((features @ features.T).cpu().numpy(), checks=False)  # (n (n - 1) / 2,): each pair once
    labels: NDArray[np.int32] = fcluster(linkage(1 - similarity.clip(-1, 1), "average"), 1 - tau, "distance")
    return torch.from_numpy(labels.astype(np.int64) - 1).to(features.device)


def select(
    features: Tensor, plain: Tensor, target: Tensor, candidate: Tensor, cluster: Tensor, threshold: float
) -> Tensor:
    """Choose the seed cluster and those that belong to it.

    The seed is the cluster with candidates whose mean in the debiased features is most like the prototype. A cluster k
    is kept where cross_k intra_k area_k > threshold: its cells' mean similarity to the prototype, the cosine of its
    mean and the seed's in the plain features, and the share of its cells that are candidates (1 for the seed).

    Args:
        features: (n, C) debiased unit rows.
        plain: (n, C) unit rows, not debiased.
        target: (C,) the prototype.
        candidate: (n,) bool from `candidates`, at least one of them True.
        cluster: (n,) int64 from `clusters`.
        threshold: see above.

    Returns:
        (n,) bool.
    """
    means, plain_means = (F.normalize(_mean_by(cluster, values), dim=1) for values in (features, plain))
    cross = _mean_by(cluster, (features @ target)[:, None])[:, 0]
    area = _mean_by(cluster, candidate[:, None].float())[:, 0]
    seed = (means @ target).masked_fill(area == 0, -torch.inf).argmax()
    area[seed] = 1
    intra = plain_means @ plain_means[seed]
    return (cross * intra * area > threshold)[cluster]


def _mean_by(cluster: Tensor, values: Tensor) -> Tensor:
    """Return the (K, d) means of (n, d) values over each of K clusters."""
    count = torch.bincount(cluster)
    sums = torch.zeros(len(count), values.shape[1], device=values.device).index_add_(0, cluster, values)
    return sums / count[:, None]
