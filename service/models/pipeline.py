"""f, the function that is smoothed: noisy pixel levels -> unit feature. Pure composition, no noise.

Everything after the noise is here and deterministic: purifier, scaling to [0, 1], normalisation,
encoder, mapper, flattening, division by the feature's own norm.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from service.models.encoder import Encoder
from service.models.mapper import Mapper
from service.models.purifier import Purifier
from service.types import Preprocessing


@dataclass(frozen=True, slots=True)
class Parts:
    """What a pipeline is composed of; purifier and mapper where there is one."""

    encoder: Encoder
    purifier: Purifier | None = None
    mapper: Mapper | None = None


class Pipeline(nn.Module):
    """One encoder between purifier and mapper, in one dtype and memory format on one device.

    Args:
        parts: frozen; moved to `device`, `dtype` and `memory_format` here. The mapper stays in
            float32: it costs little. An encoder alone is one of them.
        preprocessing: names mean and std.
        device, dtype: where and in which precision the encoder runs.
        memory_format: of pixels and weights.
    """

    def __init__(
        self,
        parts: Parts | Encoder,
        preprocessing: Preprocessing,
        device: torch.device,
        dtype: torch.dtype,
        memory_format: torch.memory_format = torch.channels_last,
    ) -> None:
        super().__init__()
        if isinstance(parts, Encoder):
            parts = Parts(parts)
        self.encoder, self.purifier, self.mapper = parts.encoder, parts.purifier, parts.mapper
        precisions = (parts.encoder, dtype), (parts.purifier, dtype), (parts.mapper, torch.float32)
        for part, precision in precisions:
            if part is not None:
                part.eval().requires_grad_(False).to(device=device, dtype=precision)
                # nn.Module.to takes memory_format too, but its stubs do not say so.
                part.to(memory_format=memory_format)  # type: ignore[call-overload]
        self.device, self.dtype, self.memory_format = device, dtype, memory_format
        self.dimensions = parts.encoder.dimensions
        mean = torch.tensor(preprocessing.mean, dtype=torch.float64)
        std = torch.tensor(preprocessing.std, dtype=torch.float64)
        self.scale = (1 / (255 * std)).float().view(1, 3, 1, 1).to(device)
        self.shift = (-mean / std).float().view(1, 3, 1, 1).to(device)

    @property
    def told_sigma(self) -> bool:
        """Whether f depends on sigma beside the noise."""
        return self.purifier is not None or self.mapper is not None

    @torch.inference_mode()
    def forward(self, levels: Tensor, sigmas: Tensor | None = None) -> Tensor:
        """Unit features [n, d] of noisy pictures.

        Args:
            levels: pixel levels [n, 3, H, W] float32, 0 to 255 and beyond.
            sigmas: float32 [n], what purifier and mapper are told, RGB in [0, 1]; a row of 0 goes
                to the encoder as it is and comes from it as it is. An encoder alone needs none.

        Raises:
            ValueError: no sigmas, though there is a purifier or mapper to be told.
        """
        return self.sample(levels, sigmas)[0]

    @torch.inference_mode()
    def sample(self, levels: Tensor, sigmas: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The same, and the norms [n] float32 that the features had; 0 of one that had none."""
        features = self.features(levels, sigmas)
        norms = features.double().norm(dim=1).nan_to_num(0, 0, 0)
        return unit(features), norms.float()

    def features(self, levels: Tensor, sigmas: Tensor | None = None) -> Tensor:
        """The same [n, d] before the division by its norm, with gradients."""
        levels = levels.to(self.device)
        if not self.told_sigma:
            return self.encode(levels)
        if sigmas is None:
            raise ValueError("purifier and mapper must be told sigma")
        sigmas = sigmas.to(self.device)
        return self.map(self.encode(self.purify(levels, sigmas)), sigmas)

    def purify(self, levels: Tensor, sigmas: Tensor) -> Tensor:
        """Noisy pixel levels -> those of the estimated picture; the same without a purifier."""
        if self.purifier is None:
            return levels
        purified: Tensor = self.purifier(levels / 255, sigmas)
        # Not left to the purifier: 255 * (x / 255) is not x everywhere.
        return torch.where(sigmas.view(-1, 1, 1, 1) > 0, 255 * purified, levels)

    def encode(self, levels: Tensor) -> Tensor:
        """Pixel levels -> the encoder's own features [n, d], in its dtype."""
        return self.encoder.pooled(self.normalised(levels)).flatten(1)

    def normalised(self, levels: Tensor) -> Tensor:
        """Pixel levels [n, 3, H, W] as the encoder takes them."""
        pixels = levels * self.scale + self.shift
        return pixels.to(dtype=self.dtype, memory_format=self.memory_format)

    def map(self, features: Tensor, sigmas: Tensor) -> Tensor:
        """The encoder's features [n, d] -> those moved by the mapper; the same without one."""
        if self.mapper is None:
            return features
        mapped: Tensor = self.mapper(features.float(), sigmas)
        return mapped


def unit(features: Tensor) -> Tensor:
    """Each row divided by its own norm, float32; a row that is zero or not finite becomes e_1.

    Such a row must count (docs/certificate.md): dropping it would condition the law of f.
    """
    exact = features.double()
    norms = exact.norm(dim=1, keepdim=True)
    usable = torch.isfinite(norms) & (norms > 0)
    fallback = torch.zeros_like(exact)
    fallback[:, 0] = 1
    return torch.where(usable, exact / norms, fallback).float()
