"""Evaluation prompts: DreamBench's, or the user's own, one per line.

`a {unique_token} {class_token} [in the jungle]`: the placeholders are filled in, the brackets mark the scene.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from persam_dreambooth.errors import UserError
from persam_dreambooth.text_files import read_lines

DREAMBENCH: Final = Path(__file__).parent / "prompts.yaml"
EXAMPLES: Final = {"unique_token": "sks", "class_token": "dog"}
"""The placeholders with example values."""


@dataclass(frozen=True)
class Prompt:
    """One prompt, filled in.

    Attributes:
        text: the model's prompt: "a sks dog in the jungle".
        plain: the same without the unique token, which is meaningless to CLIP: "a dog in the jungle".
        scene: the part that names the scene, "in the jungle"; None if there is none.
    """

    text: str
    plain: str
    scene: str | None


def read_prompts(which: str, unique_token: str | None, class_token: str | None) -> list[Prompt]:
    """Read prompts, without duplicates, in the file's order.

    Args:
        which: "objects" or "live" for DreamBench's 25, "scenes" for five of them, else the path of a UTF-8 text file
            with one prompt per line; empty lines and lines that begin with # are skipped.
        unique_token, class_token: values of the placeholders.

    Raises:
        UserError: no such file or no prompt in it, unbalanced brackets, an unknown placeholder, or one without a
            value.
    """
    sets: dict[str, list[str]] = yaml.safe_load(DREAMBENCH.read_text(encoding="utf-8"))
    lines = sets[which] if which in sets else _lines(Path(which), list(sets))
    tokens = {"unique_token": unique_token, "class_token": class_token}
    return list(dict.fromkeys(_fill(line, tokens) for line in lines))


def scenes(prompts: Sequence[Prompt]) -> list[str]:
    """Return the scenes that prompts name, without duplicates."""
    return list(dict.fromkeys(prompt.scene for prompt in prompts if prompt.scene))


def _lines(path: Path, known: list[str]) -> list[str]:
    if not path.exists():
        raise UserError(
            f"--prompts {path} is neither {' nor '.join(known)} nor a file; give a file with one prompt per line"
        )
    found = [line for line in read_lines(path, "prompts file") if line and not line.startswith("#")]
    if not found:
        raise UserError(f"no prompt in {path}; write one per line")
    return found


def _fill(line: str, tokens: dict[str, str | None]) -> Prompt:
    for name in re.findall(r"\{([^{}]*)\}", line):
        if name not in tokens:
            known = " and ".join(f"{{{token}}}" for token in tokens)
            raise UserError(f"the prompt {line!r} has the placeholder {{{name}}}; supported are {known}")
        if not tokens[name]:
            raise UserError(f"the prompt {line!r} needs --{name}; give one, such as {EXAMPLES[name]}")
    scene = re.fullmatch(r"[^\[\]]*(?:\[([^\[\]]*)\])?[^\[\]]*", line)
    if scene is None or "{" in re.sub(r"\{[^{}]*\}", "", line):
        raise UserError(f"the prompt {line!r} has unbalanced brackets; [ ] marks the scene, once per prompt")
    plain = _words(line, tokens | {"unique_token": ""})
    return Prompt(_words(line, tokens), plain, _words(scene[1] or "", tokens) or None)


def _words(line: str, tokens: dict[str, str | None]) -> str:
    """Fill in the placeholders, remove brackets and collapse whitespace."""
    for name, word in tokens.items():
        line = line.replace(f"{{{name}}}", word or "")
    return " ".join(line.replace("[", "").replace("]", "").split())
