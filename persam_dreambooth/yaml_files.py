"""Read YAML that a user gave: plain values only, from a regular file, in bounded time and memory."""

from pathlib import Path
from typing import Any

import yaml

from persam_dreambooth.errors import UserError
from persam_dreambooth.text_files import read_bounded

MAX_DEPTH = 20


class _Refused(ValueError):
    """The file is YAML, and not of the kind that is read here."""


class _PlainLoader(yaml.SafeLoader):
    """`SafeLoader` without aliases, which let a few hundred bytes stand for gigabytes, and without deep nesting."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Build one value, with everything inside it."""
        if self.check_event(yaml.AliasEvent):
            raise _Refused("aliases such as *name are not read; write the value out")
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _Refused(f"its values are nested more than {MAX_DEPTH} deep")
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


def read_yaml(path: Path, what: str) -> Any:
    """Return what a YAML (or JSON) file says: dictionaries, lists, strings, numbers, booleans, dates and None.

    Args:
        path: of a regular file of at most 4 MiB, in UTF-8.
        what: the file's role, for messages: "config".

    Raises:
        UserError: there is no such file, it is a device or a pipe, it is too large, it is no YAML, or it has
            aliases or deep nesting.
    """
    try:
        return yaml.load(read_bounded(path).decode("utf-8"), Loader=_PlainLoader)
    except FileNotFoundError as error:
        raise UserError(f"no {what} at {path}; check the path") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split()) if not isinstance(error, OSError) else error.strerror
        raise UserError(f"the {what} {path} is no readable YAML ({reason}); correct it") from error
