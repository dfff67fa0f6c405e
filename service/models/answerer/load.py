"""A Hugging Face folder of an image-text-to-text model -> its family, and what writes its prompts.

Safetensors only, and every weight present, as everywhere (`service.models.families`).
"""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer

from service.errors import ConfigurationError
from service.models.answerer.family import Family
from service.models.answerer.idefics import Idefics
from service.models.answerer.llava import Llava, LlavaNext
from service.models.answerer.paligemma import PaliGemma
from service.models.quietly import quietly

FAMILIES: dict[str, type[Family]] = {
    "llava": Llava,
    "llava_next": LlavaNext,
    "idefics3": Idefics,
    "smolvlm": Idefics,
    "paligemma": PaliGemma,
}


def family_of(folder: Path) -> tuple[type[Family], Any] | None:
    """The family of a folder and its configuration; None where no language model is in it.

    Raises:
        ConfigurationError: no readable configuration.
    """
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"{folder} holds no readable model config.json: {error}"
        ) from error
    family = FAMILIES.get(config.model_type)
    return None if family is None else (family, config)


def load_family(folder: Path) -> Family:
    """The whole model in a folder, in the precision that it was saved in.

    Raises:
        ConfigurationError: another kind of model, no safetensors, or weights missing.
    """
    found = family_of(folder)
    if found is None:
        raise ConfigurationError(f"{folder} holds no language model that sees")
    try:
        with quietly():
            architecture: Any = AutoModelForImageTextToText
            model, report = architecture.from_pretrained(
                folder,
                use_safetensors=True,
                local_files_only=True,
                dtype="auto",
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ConfigurationError(f"cannot load {folder}: {error}") from error
    if missing := sorted(report["missing_keys"]):
        raise ConfigurationError(
            f"{folder} lacks {len(missing)} weights, the first is {missing[0]!r}: they would be"
            " random"
        )
    family, _ = found
    return family(model.eval().requires_grad_(False))


def load_tokenizer(folder: Path) -> Any:
    """A folder's tokenizer, with the chat template that is beside it.

    Raises:
        ConfigurationError: none that can be read.
    """
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, ImportError) as error:
        raise ConfigurationError(f"{folder} holds no usable tokenizer: {error}") from error
