"""The one interface of all encoders: normalised pixels in, features out. It never draws noise."""

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Encoder(nn.Module, ABC):
    """A frozen vision encoder.

    Attributes:
        dimensions: D, length of the pooled feature.
        shape: (T, D') where that feature is a whole token map, flattened; None where it is one
            vector of the picture.
    """

    dimensions: int
    shape: tuple[int, int] | None = None

    def class_rows(self) -> Tensor | None:
        """Rows of the encoder's own classifier over pooled features, [C, D]; None without one."""
        return None

    @abstractmethod
    def pooled(self, pixels: Tensor) -> Tensor:
        """One feature a picture: normalised pixels [n, 3, H, W] -> [n, D], not yet unit norm."""

    @abstractmethod
    def tokens(self, pixels: Tensor) -> Tensor:
        """The token map a language model is shown: [n, 3, H, W] -> [n, T, D']."""
