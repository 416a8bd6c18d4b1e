"""Read YAML from users: plain values only, from regular files, in bounded time and memory."""

from pathlib import Path
from typing import Any

import yaml

from persam_dreambooth.errors import UserError
from persam_dreambooth.text_files import read_bounded

MAX_DEPTH = 20


class _Refused(ValueError):
    """The file is YAML, but uses something that is not allowed here."""


class _PlainLoader(yaml.SafeLoader):
    """`SafeLoader` without aliases, which let a few hundred bytes stand for gigabytes, and without deep nesting."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose one value with everything inside it."""
        if self.check_event(yaml.AliasEvent):
            raise _Refused("aliases such as *name are not allowed; write the value out")
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _Refused(f"its values are nested more than {MAX_DEPTH} deep")
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


def read_yaml(path: Path, what: str) -> Any:
    """Return the value of a YAML (or JSON) file: dictionaries, lists, strings, numbers, booleans, dates and None.

    Args:
        path: a regular file of at most 4 MiB, in UTF-8.
        what: the file's role, for messages: "config".

    Raises:
        UserError: there is no such file, it is a device or a pipe, it is too large, it is not YAML, or it has
            aliases or deep nesting.
    """
    try:
        return yaml.load(read_bounded(path).decode("utf-8"), Loader=_PlainLoader)
    except FileNotFoundError as error:
        raise UserError(f"no {what} at {path}; check the path") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split()) if not isinstance(error, OSError) else error.strerror
        raise UserError(f"the {what} {path} is not readable YAML ({reason}); correct it") from error
