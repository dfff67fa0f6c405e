"""Text towers: label -> unit direction in the joint space of a CLIP-like model.

What each family wants is what its users do: CLIP takes the projected end-of-text token (Radford et
al. 2021), SigLIP the pooled text padded to its full length (Zhai et al. 2023), as it was trained.
"""

import json
import logging
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future as ConcurrentFuture
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from transformers import (
    AutoTokenizer,
    CLIPTextModelWithProjection,
    Siglip2TextModel,
    SiglipTextModel,
)

from service.errors import ConfigurationError, invalid, shown
from service.models.quietly import quietly

_log = logging.getLogger(__name__)
_CACHED = 10_000
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


class _Family(NamedTuple):
    architecture: Any
    output: str
    pad: bool  # to the full length; else the causal mask makes padding needless


_FAMILIES = {
    "clip": _Family(CLIPTextModelWithProjection, "text_embeds", False),
    "siglip": _Family(SiglipTextModel, "pooler_output", True),
    "siglip2": _Family(Siglip2TextModel, "pooler_output", True),
}


class TextTower:
    """One model's text side, in float32 on the CPU; results are cached.

    Args:
        family: key of the known families.
        model: its text model.
        tokenizer: of the same folder.
        length: most tokens of one text, special ones included.
    """

    def __init__(self, family: str, model: Any, tokenizer: Any, length: int) -> None:
        self._family = _FAMILIES[family]
        self._model = model.eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._length = length
        self._cache: OrderedDict[str, NDArray[np.float32]] = OrderedDict()
        # One worker with one torch thread: texts must not take the cores from the device's lanes.
        self._worker = ThreadPoolExecutor(
            1, "fcs-text", initializer=torch.set_num_threads, initargs=(1,)
        )

    def encode_later(
        self, texts: Sequence[str], params: Sequence[str]
    ) -> "ConcurrentFuture[NDArray[np.float32]]":
        """`encode` on the tower's own thread."""
        return self._worker.submit(self.encode, texts, params)

    def encode(self, texts: Sequence[str], params: Sequence[str]) -> NDArray[np.float32]:
        """Unit directions [C, d] of whole texts, each one computed alone.

        Args:
            texts: label and template already put together.
            params: the request field of each, for its error.

        Raises:
            ServiceError: invalid, for a text with too many tokens.
        """
        return np.stack([self._one(text, p) for text, p in zip(texts, params, strict=True)])

    def _one(self, text: str, param: str) -> NDArray[np.float32]:
        if (known := self._cache.get(text)) is not None:
            self._cache.move_to_end(text)
            return known
        tokens = len(self._tokenizer(text, verbose=False)["input_ids"])
        if tokens > self._length:
            raise invalid(
                f"{shown(text)} has {tokens} tokens; this model reads at most {self._length}", param
            )
        padding = {"padding": "max_length", "max_length": self._length} if self._family.pad else {}
        given = self._tokenizer(text, return_tensors="pt", **padding)
        ids = given["input_ids"]
        with torch.inference_mode():
            # SigLIP was trained without a mask: padding is part of what it reads.
            mask = {} if self._family.pad else {"attention_mask": torch.ones_like(ids)}
            output = getattr(self._model(input_ids=ids, **mask), self._family.output)[0].double()
        norm = float(output.norm())
        if not (np.isfinite(norm) and norm > 0):
            raise invalid(f"{shown(text)} has no direction in this model", param)
        direction: NDArray[np.float32] = (output / norm).float().numpy()
        self._cache[text] = direction
        if len(self._cache) > _CACHED:
            self._cache.popitem(last=False)
        return direction


def load_text_tower(folder: Path) -> TextTower | None:
    """The text tower in a Hugging Face folder; None where there is none.

    Raises:
        ConfigurationError: a tokenizer or text weights that are there but cannot be read.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    family = config.get("model_type")
    if family not in _FAMILIES or "text_config" not in config:
        return None
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        return None
    try:
        with quietly():
            model, report = _FAMILIES[family].architecture.from_pretrained(
                folder,
                use_safetensors=True,
                local_files_only=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise ConfigurationError(f"cannot load the text tower of {folder}: {error}") from error
    if missing := sorted(report["missing_keys"]):
        _log.warning("%s has no text tower: %s is missing, no text labels", folder, missing[0])
        return None
    length = int(model.config.max_position_embeddings)
    return TextTower(family, model, tokenizer, length)
