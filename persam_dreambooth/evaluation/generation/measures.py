"""The DreamBooth paper's measures and background leakage, as functions of unit-length features.

Ruiz et al., "DreamBooth" (arXiv 2208.12242, section 4.2): DINO and CLIP-I are the mean pairwise cosine similarity
of generated and real pictures' features (ViT-S/16 DINO's class token, CLIP's image embedding), CLIP-T is the mean
cosine of a picture's and its prompt's CLIP embeddings; DIV (in the supplement) is the mean LPIPS distance of pictures
of one subject and prompt. All are "higher is better" there.
"""

import torch
from torch import Tensor


def similarity(generated: Tensor, real: Tensor) -> Tensor:
    """DINO and CLIP-I, or the leakage if applied to backgrounds: each picture's mean cosine with all real ones.

    Args:
        generated: (n, C) float32 of length 1.
        real: (m, C) float32 of length 1, m at least 1.

    Returns:
        (n,) float32 in [-1, 1]; their mean is the paper's mean over all pairs.
    """
    return (generated @ real.T).mean(1)


def likeness_among(features: Tensor) -> Tensor:
    """Mean cosine of each row with the other rows: (n, C) of length 1, n at least 2, to (n,) float32 in [-1, 1]."""
    count = len(features)
    return ((features @ features.T).sum(1) - (features * features).sum(1)) / (count - 1)


def prompt_fidelity(pictures: Tensor, prompts: Tensor) -> Tensor:
    """CLIP-T: the cosine of each picture and its own prompt.

    Args:
        pictures, prompts: (n, C) float32 of length 1, one prompt per picture.

    Returns:
        (n,) float32 in [-1, 1]. torchmetrics' CLIPScore is 100 * max(mean, 0).
    """
    return (pictures * prompts).sum(1)


def diversity(features: Tensor) -> float | None:
    """DIV with features instead of LPIPS: the mean of 1 - cosine over all pairs of one prompt's pictures.

    Args:
        features: (n, C) float32 of length 1.

    Returns:
        In [0, 2]; None for fewer than two pictures.
    """
    return None if len(features) < 2 else float(1 - likeness_among(features).mean())


def recognized(pictures: Tensor, labels: Tensor) -> Tensor:
    """Zero-shot classification (Radford et al., arXiv 2103.00020, section 3.1.2): the most similar label of each.

    Args:
        pictures: (n, C) float32 of length 1.
        labels: (k, C) float32 of length 1, the labels' text embeddings.

    Returns:
        (n,) int64, an index into the labels.
    """
    return torch.argmax(pictures @ labels.T, dim=1)
