"""Time and memory of INSID3's own operations at the paper's size: 4096 cells with 1024 channels, without the encoder.

    python benchmarks/insid3.py

The features are random: 40 groups of cells, like the regions of a photo. One thread is used, and its processor time is
printed, which other programs on the same machine change less than the time on the clock.
"""

import resource
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from persam_dreambooth.segmentation import insid3_steps as steps
from persam_dreambooth.segmentation.subject import Memory

CELLS, CHANNELS, GROUPS, TIMES = 4096, 1024, 40, 5


def timed(name: str, operation: Callable[[], Any]) -> Any:
    """Print the shortest processor time of an operation and the process's peak memory so far; return its result."""
    seconds = []
    for _ in range(TIMES):
        started = time.process_time()
        result = operation()
        seconds.append(time.process_time() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"| {name} | {min(seconds):.2f} s | {peak:.2f} GiB |")
    return result


def main() -> None:
    """Measure and print a table."""
    torch.set_num_threads(1)
    random = torch.Generator().manual_seed(0)
    group = torch.randint(GROUPS, (CELLS,), generator=random)
    centres = torch.randn(GROUPS, CHANNELS, generator=random)
    plain = F.normalize(centres[group] + 0.7 * torch.randn(CELLS, CHANNELS, generator=random), dim=1)
    print("| operation | processor time | peak memory of the process |\n| --- | ---: | ---: |")
    projection = timed("positional subspace (once)", lambda: steps.positional_projection(plain, CHANNELS // 2))
    features = timed("debias", lambda: steps.debiased(plain, projection))
    inside = group == 0
    target = steps.prototype([(features, inside)])
    memory = Memory(features, torch.where(inside, 1, -1).short())
    candidate = timed("candidates, one reference", lambda: steps.candidates(features, target, memory))
    cluster = timed("clusters", lambda: steps.clusters(plain, 0.6))
    timed("seed and selection", lambda: steps.select(features, plain, target, candidate, cluster, 0.2))
    print(f"{cluster.max() + 1} clusters")


if __name__ == "__main__":
    main()
