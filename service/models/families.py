"""Hugging Face vision encoders, one small adapter a family, behind the `Encoder` interface.

Which feature is "the" pooled one is what the family's users take: CLIP's projected image embedding,
SigLIP's attention-pooled head, the class token of DINOv2 and ViT, the mean of EfficientNet's map.
"""

from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    AutoConfig,
    CLIPVisionModelWithProjection,
    Dinov2Model,
    EfficientNetModel,
    Siglip2VisionModel,
    SiglipVisionModel,
    ViTModel,
)

from service.errors import ConfigurationError
from service.models.encoder import Encoder
from service.models.quietly import quietly


class HuggingFaceEncoder(Encoder):
    """A transformers vision model; subclasses say which of its outputs is what."""

    architecture: ClassVar[Any]
    load_options: ClassVar[dict[str, Any]] = {}

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.dimensions = self.width(model.config)

    @staticmethod
    def width(config: Any) -> int:
        """D, from the model's configuration."""
        return int(config.hidden_size)

    @classmethod
    def from_folder(cls, folder: Path) -> "HuggingFaceEncoder":
        """Load from a local folder: safetensors only, every weight present.

        Raises:
            ConfigurationError: unreadable folder, no safetensors, or weights missing from the file.
        """
        try:
            model, report = cls.architecture.from_pretrained(
                folder,
                use_safetensors=True,
                local_files_only=True,
                dtype=torch.float32,
                output_loading_info=True,
                **cls.load_options,
            )
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise ConfigurationError(f"cannot load {folder}: {error}") from error
        if missing := sorted(report["missing_keys"]):
            raise ConfigurationError(
                f"{folder} lacks {len(missing)} weights of {cls.architecture.__name__},"
                f" the first is {missing[0]!r}: they would be random"
            )
        return cls(model)


class ClipEncoder(HuggingFaceEncoder):
    """CLIP (Radford et al. 2021): the projected embedding that its text tower is compared with."""

    architecture = CLIPVisionModelWithProjection

    @staticmethod
    def width(config: Any) -> int:
        """Length of the joint image-text space."""
        return int(config.projection_dim)

    def pooled(self, pixels: Tensor) -> Tensor:
        """Projected image embedding, [n, D]."""
        embedding: Tensor = self.model(pixel_values=pixels).image_embeds
        return embedding

    def tokens(self, pixels: Tensor) -> Tensor:
        """Last hidden states of the patches, class token left out, [n, T, D']."""
        hidden: Tensor = self.model(pixel_values=pixels).last_hidden_state
        return hidden[:, 1:]


class SiglipEncoder(HuggingFaceEncoder):
    """SigLIP and the fixed-resolution SigLIP 2 checkpoints: the attention-pooled head."""

    architecture = SiglipVisionModel

    def pooled(self, pixels: Tensor) -> Tensor:
        """Output of the pooling head, [n, D]."""
        embedding: Tensor = self.model(pixel_values=pixels).pooler_output
        return embedding

    def tokens(self, pixels: Tensor) -> Tensor:
        """Last hidden states of the patches, [n, T, D]."""
        hidden: Tensor = self.model(pixel_values=pixels).last_hidden_state
        return hidden


class Siglip2Encoder(HuggingFaceEncoder):
    """SigLIP 2 of flexible resolution, at one fixed square grid of patches."""

    architecture = Siglip2VisionModel

    def _forward(self, pixels: Tensor) -> Any:
        patch = self.model.config.patch_size
        n, _, height, width = pixels.shape
        rows, columns = height // patch, width // patch
        # The model wants patches with channels last: [n, T, patch * patch * 3].
        patches = pixels.reshape(n, 3, rows, patch, columns, patch).permute(0, 2, 4, 3, 5, 1)
        return self.model(
            pixel_values=patches.reshape(n, rows * columns, patch * patch * 3),
            pixel_attention_mask=torch.ones(
                n, rows * columns, dtype=torch.int64, device=pixels.device
            ),
            spatial_shapes=torch.tensor([[rows, columns]] * n, device=pixels.device),
        )

    def pooled(self, pixels: Tensor) -> Tensor:
        """Output of the pooling head, [n, D]."""
        embedding: Tensor = self._forward(pixels).pooler_output
        return embedding

    def tokens(self, pixels: Tensor) -> Tensor:
        """Last hidden states of the patches, [n, T, D]."""
        hidden: Tensor = self._forward(pixels).last_hidden_state
        return hidden


class Dinov2Encoder(HuggingFaceEncoder):
    """DINOv2 (Oquab et al. 2023): the normalised class token."""

    architecture = Dinov2Model

    def pooled(self, pixels: Tensor) -> Tensor:
        """Class token, [n, D]."""
        embedding: Tensor = self.model(pixel_values=pixels).pooler_output
        return embedding

    def tokens(self, pixels: Tensor) -> Tensor:
        """Patch tokens, [n, T, D]."""
        hidden: Tensor = self.model(pixel_values=pixels).last_hidden_state
        return hidden[:, 1:]


class VitEncoder(HuggingFaceEncoder):
    """ViT (Dosovitskiy et al. 2020): the class token; most checkpoints have no trained pooler."""

    architecture = ViTModel
    load_options: ClassVar[dict[str, Any]] = {"add_pooling_layer": False}

    def pooled(self, pixels: Tensor) -> Tensor:
        """Class token, [n, D]."""
        hidden: Tensor = self.model(pixel_values=pixels).last_hidden_state
        return hidden[:, 0]

    def tokens(self, pixels: Tensor) -> Tensor:
        """Patch tokens, [n, T, D]."""
        hidden: Tensor = self.model(pixel_values=pixels).last_hidden_state
        return hidden[:, 1:]


class EfficientNetEncoder(HuggingFaceEncoder):
    """EfficientNet (Tan & Le 2019): the average over its last map."""

    architecture = EfficientNetModel

    @staticmethod
    def width(config: Any) -> int:
        """Channels of the last map."""
        return int(config.hidden_dim)

    def pooled(self, pixels: Tensor) -> Tensor:
        """Average over positions, [n, D]."""
        return self._map(pixels).mean((2, 3))

    def tokens(self, pixels: Tensor) -> Tensor:
        """One token a position, [n, T, D]."""
        return self._map(pixels).flatten(2).transpose(1, 2)

    def _map(self, pixels: Tensor) -> Tensor:
        hidden: Tensor = self.model(pixel_values=pixels).last_hidden_state
        return hidden


FAMILIES: dict[str, type[HuggingFaceEncoder]] = {
    "clip": ClipEncoder,
    "clip_vision_model": ClipEncoder,
    "siglip": SiglipEncoder,
    "siglip_vision_model": SiglipEncoder,
    "siglip2": Siglip2Encoder,
    "siglip2_vision_model": Siglip2Encoder,
    "dinov2": Dinov2Encoder,
    "vit": VitEncoder,
    "efficientnet": EfficientNetEncoder,
}


def load_encoder(folder: Path) -> HuggingFaceEncoder:
    """The encoder in a Hugging Face model folder.

    Raises:
        ConfigurationError: not a model folder, or a family this service does not know.
    """
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"{folder} holds no readable model config.json: {error}"
        ) from error
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise ConfigurationError(
            f"{folder}: vision encoders of type {config.model_type!r} are not supported;"
            f" supported are {', '.join(sorted(FAMILIES))}"
        )
    with quietly():  # a CLIP folder also holds its text tower, which is left out on purpose
        return family.from_folder(folder)
