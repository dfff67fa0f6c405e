"""SmolLM2 from its distribution's GGUF file, converted once into a safetensors folder in the cache.

Its weights are those of the file, brought back to bfloat16; of its tokens one that marked file
names marks pictures instead, and its chat template has room for them.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from service.errors import ConfigurationError
from service.models.distributions import locate
from service.models.packages import LanguageSource
from service.models.quietly import quietly
from service.models.revision import folder_digest

IMAGE_MARK = "<image>"
_MARK_BEFORE = "<filename>"
_FINISHED = ".digest"
_CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% for part in message.content %}{% if part.type == 'image' %}<image>"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def converted_language(source: LanguageSource, cache: Path) -> Path:
    """The folder of the converted model; converted the first time, which takes half a minute.

    Raises:
        ConfigurationError: the distribution is missing or another, or the cache cannot be written.
    """
    target = cache / f"{source.converter}-{source.sha256[:16]}"
    stamp = target / _FINISHED
    if stamp.is_file() and stamp.read_text() == folder_digest(target):
        return target
    file = locate(source)
    partial = cache / f".{target.name}.{os.getpid()}.partial"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _convert(file, partial)
        (partial / _FINISHED).write_text(folder_digest(partial))
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    except (OSError, SafetensorError) as error:
        raise ConfigurationError(
            f"the converted language model cannot be kept in {cache}: {error}; name a folder that"
            " can be written: FCS_CACHE_DIR"
        ) from error
    return target


def _convert(file: Path, folder: Path) -> None:
    with quietly():
        read: Any = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
        tokenizer: Any = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        config = read.config
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        model: Any = LlamaForCausalLM(config)
        model.to(torch.bfloat16)
        model.load_state_dict(read.state_dict())
        model.save_pretrained(folder)
    _write_tokenizer(tokenizer, folder)
    for written in folder.iterdir():
        written.chmod(0o644)  # a container prepares as root and serves as somebody else


def _write_tokenizer(old: Any, folder: Path) -> None:
    text = old.backend_tokenizer.to_str()
    text = text.replace(json.dumps(_MARK_BEFORE), json.dumps(IMAGE_MARK))
    new: Any = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=Tokenizer.from_str(text),
        bos_token=old.bos_token,
        eos_token=old.eos_token,
        pad_token=old.eos_token,
        additional_special_tokens=[IMAGE_MARK],
    )
    new.chat_template = _CHAT
    new.save_pretrained(folder)
