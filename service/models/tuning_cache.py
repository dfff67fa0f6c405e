"""The arrangement measured for a model on this machine, kept in the cache: one small JSON file.

A file that is broken, or about anything else, counts as absent and is written anew.
"""

import hashlib
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.models.arrangement import Space
from service.types import Arrangement, DtypeName, MemoryFormat

_Count = Annotated[int, Field(ge=1)]
Circumstances = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Kept:
    """What was chosen; the median milliseconds a sample, and what there is to say of it."""

    arrangement: Arrangement
    ms_per_sample: float
    note: str


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Arrangement(_Strict):
    dtype: DtypeName
    memory_format: MemoryFormat
    batch_size: _Count
    lanes: _Count
    threads: _Count


class _File(_Strict):
    measured_for: Circumstances
    arrangement: _Arrangement
    ms_per_sample: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    note: str


class TuningCache:
    """The file of one model under one set of circumstances.

    Args:
        folder: of all such files; made when the first is written.
        circumstances: JSON values; all that the choice depends on. Their digest names the file.
        space: a choice outside of it is of no use.
    """

    def __init__(self, folder: Path, circumstances: Circumstances, space: Space) -> None:
        text = json.dumps(circumstances, sort_keys=True)
        self.path = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"
        self._circumstances = json.loads(text)
        self._space = space

    def read(self) -> Kept | None:
        """What was kept; None where there is nothing of use."""
        try:
            found = _File.model_validate_json(self.path.read_bytes())
        except (OSError, ValidationError):
            return None
        arrangement = Arrangement(**found.arrangement.model_dump())
        if found.measured_for != self._circumstances or arrangement not in self._space:
            return None
        return Kept(arrangement, found.ms_per_sample, found.note)

    def keep(self, chosen: Kept) -> Kept:
        """Write it, whole or not at all; of two processes at once the first is kept by both.

        Returns:
            What is kept now.

        Raises:
            OSError: the folder cannot be written.
        """
        a = chosen.arrangement
        content = _File(
            measured_for=self._circumstances,
            arrangement=_Arrangement(
                dtype=a.dtype,
                memory_format=a.memory_format,
                batch_size=a.batch_size,
                lanes=a.lanes,
                threads=a.threads,
            ),
            ms_per_sample=chosen.ms_per_sample,
            note=chosen.note,
        )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(f".{secrets.token_hex(8)}.partial")
        try:
            partial.write_text(content.model_dump_json(indent=2) + "\n", encoding="utf-8")
            partial.chmod(0o644)  # a container prepares as root and serves as somebody else
            try:
                os.link(partial, self.path)  # unlike a rename it never replaces the other's
            except OSError:  # the other's, a broken file, or a file system without links
                if (other := self.read()) is not None:
                    return other
                partial.replace(self.path)
        finally:
            partial.unlink(missing_ok=True)
        return chosen
