"""The rows of the comparison: the same encoder with and without its purifier and mapper."""

from collections.abc import Iterator

from service.models.loaded import LoadedModel
from service.models.pipeline import Parts


def variants(model: LoadedModel) -> Iterator[tuple[str, LoadedModel]]:
    """FS, and FS with each of the model's own parts; a mapper is told apart as it was trained."""
    whole = model.pipeline
    rows = {
        "FS": Parts(whole.encoder),
        "FS+Mapper": Parts(whole.encoder, None, whole.mapper),
        "FS+Purifier": Parts(whole.encoder, whole.purifier, None),
        "FS+PSM": Parts(whole.encoder, whole.purifier, whole.mapper),
    }
    seen: list[Parts] = []
    for name, parts in rows.items():
        if parts in seen:
            continue
        seen.append(parts)
        yield name, model.around(parts)
