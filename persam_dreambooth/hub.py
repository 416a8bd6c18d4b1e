"""Fail fast, with one line, if a model is not cached and the Hugging Face hub cannot be reached."""

from pathlib import Path

from persam_dreambooth.errors import UserError

TIMEOUT = 10.0
"""Seconds to wait for the hub's answer."""


def check_available(name: str, what: str) -> None:
    """Refuse a hub name that is neither cached nor reachable, before a library retries for half a minute.

    Makes one request, and only if the name is no local path and nothing is cached under it.

    Args:
        name: hub name, file or folder.
        what: the model's role, for messages: "base model".

    Raises:
        UserError: the hub cannot be reached and nothing is cached under the name.
    """
    # Imported here: it takes a quarter of a second, which --help should not pay for.
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    if Path(name).exists() or _is_cached(name, Path(constants.HF_HUB_CACHE)):
        return
    try:
        validate_repo_id(name)
    except HFValidationError:
        return  # a path to nothing; the caller reports it
    reason = "HF_HUB_OFFLINE is set"
    if not constants.HF_HUB_OFFLINE:
        try:
            get_hf_file_metadata(hf_hub_url(name, "config.json"), timeout=TIMEOUT)
            return
        except HfHubHTTPError:
            return  # the hub answered, if only that there is no such file
        except Exception as error:  # each HTTP library has its own exceptions for a network that is down
            reason = type(error).__name__
    raise UserError(
        f"no {what} at {name!r}: no such folder, nothing is cached under that name, and the hub cannot be reached "
        f"({reason}); check the network, or give a folder on this machine"
    )


def _is_cached(name: str, cache: Path) -> bool:
    """Return whether any file of a model has been downloaded."""
    snapshots = cache / f"models--{name.replace('/', '--')}" / "snapshots"
    return any(path.is_file() for path in snapshots.glob("*/**/*"))
