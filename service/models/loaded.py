"""A model ready to run, as every room above sees it."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from service.models.label_sets import LabelSet
from service.models.pipeline import Parts, Pipeline
from service.models.platform import describe
from service.types import LabelSetInfo, ModelInfo, Preprocessing, Space, Tuning

if TYPE_CHECKING:
    from service.models.answerer.answerer import Answerer
    from service.models.text import TextTower

_UNTUNED = Tuning("package")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to run.

    Attributes:
        name: as requests call it.
        revision: digest of everything the smoothed function depends on.
        batch_size: the one shape of every call of the pipeline, padded.
        lanes: calls that run side by side; on a GPU one follows the other.
        revision_at: the revision in another batch size.
        threads: torch's own in each lane; a call outside of a lane must set them itself.
        tuning: where dtype, memory format, batch size, lanes and threads come from.
        label_sets: named sets of labels kept with the package.
        text: encodes labels given as text; None where the model has no text tower.
        psm: digests of purifier and mapper, where there is one.
        answerer: the language that is shown the feature, a token map; None where there is none.
    """

    name: str
    revision: str
    pipeline: Pipeline
    preprocessing: Preprocessing
    sigmas: tuple[float, ...]
    batch_size: int
    lanes: int
    revision_at: Callable[[int], str]
    threads: int = 1
    tuning: Tuning = _UNTUNED
    label_sets: tuple[LabelSet, ...] = ()
    text: "TextTower | None" = None
    psm: dict[str, str] = field(default_factory=dict)
    answerer: "Answerer | None" = None

    def halved(self) -> "LoadedModel":
        """The same in half the batch size, which is another function in the last bits."""
        size = max(1, self.batch_size // 2)
        return replace(self, batch_size=size, revision=self.revision_at(size))

    def around(self, parts: Parts) -> "LoadedModel":
        """The same with other parts: for what is compared or attacked, never served."""
        own = self.pipeline
        how = self.preprocessing, own.device, own.dtype, own.memory_format
        return replace(self, pipeline=Pipeline(parts, *how))

    @property
    def clean_samples(self) -> int:
        """Samples without noise that a certificate's fidelity takes."""
        return 2 if self.pipeline.told_sigma else 1

    @property
    def space(self) -> Space:
        """Where epsilon and sigma are measured."""
        height, width = self.preprocessing.size
        return Space(height, width)

    @property
    def info(self) -> ModelInfo:
        """For `/info`."""
        return ModelInfo(
            name=self.name,
            revision=self.revision,
            dimensions=self.pipeline.dimensions,
            sigmas=self.sigmas,
            space=self.space,
            device=str(self.pipeline.device),
            platform=describe(self.pipeline.device.type, self.pipeline),
            dtype=_name(self.pipeline.dtype),
            memory_format=_name(self.pipeline.memory_format),
            batch_size=self.batch_size,
            lanes=self.lanes,
            threads=self.threads,
            tuning=self.tuning,
            label_sets=tuple(
                LabelSetInfo(kept.name, len(kept.directions.names)) for kept in self.label_sets
            ),
            text_labels=self.text is not None,
            psm=self.psm,
            answers=self.answerer is not None,
        )


def _name(value: torch.dtype | torch.memory_format) -> str:
    """`torch.contiguous_format` -> `contiguous`."""
    return str(value).removeprefix("torch.").removesuffix("_format")
