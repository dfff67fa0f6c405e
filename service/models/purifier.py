"""P, the purifier: a noisy picture and the exact sigma of its noise -> an estimate of the picture.

One step, conditioned on sigma, in front of the frozen encoder: denoised smoothing (Salman et al.
2020, arXiv:2003.01908; Carlini et al. 2023, arXiv:2206.10550) of features. It never draws noise.
"""

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Purifier(nn.Module, ABC):
    """A one-step denoiser."""

    @abstractmethod
    def forward(self, noisy: Tensor, sigmas: Tensor) -> Tensor:
        """RGB in [0, 1] plus noise -> the estimate of the picture, not clipped.

        Args:
            noisy: float32 [n, 3, H, W].
            sigmas: float32 [n], the standard deviation of each row's noise, same unit.

        Returns:
            float32 [n, 3, H, W]; a row of sigma 0 comes back as it is, bit for bit.
        """
