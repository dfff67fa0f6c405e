"""MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381), without its classifier: a second encoder.

It shares neither weights nor training with the embedded default, which makes it what a black-box
attacker of that has at hand.
"""

from collections.abc import Mapping

from torch import Tensor
from transformers import MobileNetV2Config, MobileNetV2Model

from service.models.encoder import Encoder

FEATURES = 1280


class MobileNet(Encoder):
    """[n, 3, H, W] -> pooled [n, 1280]; H and W multiples of 32."""

    dimensions = FEATURES

    def __init__(self) -> None:
        super().__init__()
        config = MobileNetV2Config(tf_padding=False, layer_norm_eps=1e-5, finegrained_output=True)
        self.model = MobileNetV2Model(config, add_pooling_layer=False)

    def feature_map(self, pixels: Tensor) -> Tensor:
        """[n, 3, H, W] -> [n, 1280, H/32, W/32]."""
        found: Tensor = self.model(pixel_values=pixels).last_hidden_state
        return found

    def pooled(self, pixels: Tensor) -> Tensor:
        """Average over positions: [n, 3, H, W] -> [n, 1280]."""
        return self.feature_map(pixels).mean((2, 3))

    def tokens(self, pixels: Tensor) -> Tensor:
        """One token a position: [n, 3, H, W] -> [n, H/32 * W/32, 1280]."""
        return self.feature_map(pixels).flatten(2).transpose(1, 2)


def rename_checkpoint(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published state dict (layers numbered, in order) -> the state dict of `MobileNet`.

    Raises:
        ValueError: another number of tensors, or one of another shape.
    """
    own = MobileNet().state_dict()
    renamed = dict(zip(own, published.values(), strict=True))
    for (name, value), (old, found) in zip(own.items(), published.items(), strict=True):
        if value.shape != found.shape:
            raise ValueError(f"{old} is {tuple(found.shape)}, {name} is {tuple(value.shape)}")
    return {name: value.contiguous() for name, value in renamed.items()}
