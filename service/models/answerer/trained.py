"""What is trained of the embedded language model, as one file holds it.

projector.*                 the encoder's tokens -> the chat model's embeddings
centre                      [T, D], the mean token map: f is the direction from there
adapters.<path>.A, .B       of the chat model's weights: W + scale B A (LoRA, Hu et al. 2021,
                            arXiv:2106.09685, section 4.1); slashes for dots in the path
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from service.errors import ConfigurationError
from service.models.psm import Part, read_part


class TrainedParts(nn.Module):
    """The module that training sees.

    Args:
        projector: new, or with the weights to start from.
        shape: (T, D) of its token maps.
        adapters: (A, B) of each adapted weight by its path in the chat model, which calls them.
    """

    def __init__(
        self,
        projector: nn.Module,
        shape: tuple[int, int],
        adapters: Mapping[str, tuple[nn.Module, nn.Module]],
    ) -> None:
        super().__init__()
        self.projector = projector
        self.centre = nn.Parameter(torch.zeros(shape), requires_grad=False)
        self.adapters = nn.ModuleDict(
            {
                path.replace(".", "/"): nn.ModuleDict({"A": first, "B": second})
                for path, (first, second) in adapters.items()
            }
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """The encoder's tokens [n, T, W] -> token maps [n, T, D]."""
        projected: Tensor = self.projector(tokens)
        return projected


@dataclass(frozen=True, slots=True)
class Trained:
    """A file of them, read.

    Attributes:
        part: what it was trained for.
        projector: weights of the projector, by name.
        centre: float32 [T, D].
        adapters: (A, B) of each adapted weight, by its path in the chat model.
    """

    part: Part
    projector: dict[str, Tensor]
    centre: Tensor
    adapters: dict[str, tuple[Tensor, Tensor]]

    @torch.no_grad()
    def merge(self, chat: Any) -> None:
        """Add the adapters to the weights of a chat model.

        Raises:
            ConfigurationError: they are of another model.
        """
        scale = float(self.part.config.get("scale", 1.0))
        for path, (first, second) in self.adapters.items():
            try:
                weight = chat.get_submodule(path).weight
                weight += (scale * second @ first).to(weight.dtype)
            except (AttributeError, RuntimeError) as error:
                raise ConfigurationError(
                    f"no weight of the language fits {path}: {error}"
                ) from error


def read_trained(file: Path) -> Trained:
    """Read a file.

    Raises:
        ConfigurationError: unreadable, or of something else.
    """
    part = read_part(file)
    if part.kind != "projector":
        raise ConfigurationError(f"{file} holds a {part.kind}, a projector was expected")
    try:
        tensors = load_file(file)
        adapted = [name.removesuffix(".A.weight") for name in tensors if name.endswith(".A.weight")]
        return Trained(
            part,
            {
                name.removeprefix("projector."): value
                for name, value in tensors.items()
                if name.startswith("projector.")
            },
            tensors["centre"],
            {
                name.removeprefix("adapters.").replace("/", "."): (
                    tensors[f"{name}.A.weight"],
                    tensors[f"{name}.B.weight"],
                )
                for name in adapted
            },
        )
    except (OSError, SafetensorError) as error:
        raise ConfigurationError(f"cannot read {file}: {error}") from error
    except KeyError as error:
        raise ConfigurationError(
            f"{file} lacks {error}: it was trained by another version"
        ) from error
