"""The cache of the Hugging Face hub, laid out as huggingface_hub does: models by name without the network."""

import shutil
from collections.abc import Mapping
from hashlib import sha1
from pathlib import Path


def cache_model(cache: Path, name: str, branches: Mapping[str, Path]) -> None:
    """Put folders into the cache as the branches of a model.

    Args:
        cache: as HF_HUB_CACHE.
        name: the model's, "me/base".
        branches: name -> folder with the branch's files, a pipeline's.
    """
    repository = cache / f"models--{name.replace('/', '--')}"
    for branch, folder in branches.items():
        commit = sha1(branch.encode()).hexdigest()
        shutil.copytree(folder, repository / "snapshots" / commit)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / branch).write_text(commit)
        for part in folder.glob("tokenizer*"):  # what the hub has said: no such file
            missing = repository / ".no_exist" / commit / part.name / "config.json"
            missing.parent.mkdir(parents=True)
            missing.touch()
