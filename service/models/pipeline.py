"""f, the function that is smoothed: noisy pixel levels -> unit feature. Pure composition, no noise.

Everything after the noise is here and deterministic: scaling to [0, 1], normalisation, encoder,
flattening, division by the feature's own norm.
"""

import torch
from torch import Tensor, nn

from service.models.encoder import Encoder
from service.types import Preprocessing


class Pipeline(nn.Module):
    """One encoder behind its normalisation, in one dtype and memory format on one device.

    Args:
        encoder: frozen; moved to `device`, `dtype` and `memory_format` here.
        preprocessing: names mean and std.
        device, dtype: where and in which precision the encoder runs.
        memory_format: of pixels and weights.
    """

    def __init__(
        self,
        encoder: Encoder,
        preprocessing: Preprocessing,
        device: torch.device,
        dtype: torch.dtype,
        memory_format: torch.memory_format = torch.channels_last,
    ) -> None:
        super().__init__()
        encoder.eval().requires_grad_(False).to(device=device, dtype=dtype)
        # nn.Module.to takes memory_format too, but its stubs do not say so.
        self.encoder: Encoder = encoder.to(memory_format=memory_format)  # type: ignore[call-overload]
        self.device, self.dtype, self.memory_format = device, dtype, memory_format
        self.dimensions = encoder.dimensions
        mean = torch.tensor(preprocessing.mean, dtype=torch.float64)
        std = torch.tensor(preprocessing.std, dtype=torch.float64)
        self.scale = (1 / (255 * std)).float().view(1, 3, 1, 1).to(device)
        self.shift = (-mean / std).float().view(1, 3, 1, 1).to(device)

    @torch.inference_mode()
    def forward(self, levels: Tensor) -> Tensor:
        """Pixel levels [n, 3, H, W] float32, 0 to 255 and beyond -> unit features [n, d]."""
        pixels = levels.to(self.device) * self.scale + self.shift  # [n, 3, H, W]
        pixels = pixels.to(dtype=self.dtype, memory_format=self.memory_format)
        return unit(self.encoder.pooled(pixels).flatten(1))


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
