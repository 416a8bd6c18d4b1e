"""Tell at once, in one line, that the hub cannot be reached and a model is not cached."""

from pathlib import Path

from persam_dreambooth.errors import UserError

TIMEOUT = 10.0
"""Seconds to wait for the hub's answer."""


def check_available(name: str, what: str) -> None:
    """Refuse a hub name that is neither cached nor within reach, before a library retries for half a minute.

    One request is made, and only where the name is no path on this machine and nothing is cached under it.

    Args:
        name: hub name, file or folder.
        what: what is wanted, for people: "base model".

    Raises:
        UserError: the hub cannot be reached and nothing is cached under the name.
    """
    # Imported here, since it takes a quarter of a second that --help does without.
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    if Path(name).exists() or _is_cached(name, Path(constants.HF_HUB_CACHE)):
        return
    try:
        validate_repo_id(name)
    except HFValidationError:
        return  # a path of nothing: the caller says so
    reason = "HF_HUB_OFFLINE is set"
    if not constants.HF_HUB_OFFLINE:
        try:
            get_hf_file_metadata(hf_hub_url(name, "config.json"), timeout=TIMEOUT)
            return
        except HfHubHTTPError:
            return  # an answer, if only that there is no such file
        except Exception as error:  # each HTTP library has its own names for a network that is down
            reason = type(error).__name__
    raise UserError(
        f"no {what} at {name!r}: no such folder, nothing is cached under that name, and the hub cannot be reached "
        f"({reason}); check the network, or give a folder on this machine"
    )


def _is_cached(name: str, cache: Path) -> bool:
    """Whether any file of a model has been downloaded."""
    snapshots = cache / f"models--{name.replace('/', '--')}" / "snapshots"
    return any(path.is_file() for path in snapshots.glob("*/**/*"))
