"""Models of the Hugging Face hub: told by their ids, fetched at a commit."""

import re
from pathlib import Path

from service.errors import ConfigurationError

_HUB_ID = re.compile(r"^\w[\w.-]*/\w[\w.-]*$")
_HUB_FILES = ["*.json", "*.safetensors"]


def is_hub_id(reference: str) -> bool:
    """Whether it could be a hub model's, as `owner/name`."""
    return _HUB_ID.match(reference) is not None and not Path(reference).exists()


def download(reference: str, commit: str | None) -> tuple[Path, str]:
    """Folder and commit of a hub model, at that commit or its newest.

    Raises:
        ConfigurationError: it cannot be fetched.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        path = Path(snapshot_download(reference, revision=commit, allow_patterns=_HUB_FILES))
    except (OSError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        first = str(error).strip().splitlines()[0]
        raise ConfigurationError(
            f"cannot fetch {reference!r} from the model hub ({first}); a local folder works too"
        ) from error
    return path, path.name  # a snapshot folder is named by its commit
