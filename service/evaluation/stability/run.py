"""`fcs evaluate stability`: every variant at every noise level over a set of pictures."""

import statistics
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from threadpoolctl import threadpool_limits

from service.certificate.labels import Directions, LabelFindings, same_direction
from service.config import Settings
from service.errors import ConfigurationError
from service.evaluation.stability.measure import (
    Certified,
    Effort,
    bare_features,
    certify,
    smooth,
)
from service.evaluation.stability.usefulness import (
    confusion,
    neighbour_accuracy,
    prototypes,
    self_retrieval,
)
from service.evaluation.stability.variants import variants
from service.models.lanes import Lanes
from service.models.loaded import LoadedModel
from service.models.store import load_model
from service.pictures.files import read_picture

Floats = NDArray[np.float64]
_FEWEST = 2  # pictures, or labels, that can be told apart


@dataclass(frozen=True, slots=True)
class Row:
    """One variant at one noise level.

    Attributes:
        variant: none (the bare encoder), FS, or FS with parts.
        sigma: noise level; 0 for none.
        cosine: mean of cos(f(x + noise), bare f(x)).
        fidelity_pipeline, fidelity_encoder: mean cosine of F(x) with f(x) and with the bare f(x).
        different: mean cosine of F of different pictures.
        neighbour: 1-NN accuracy of labels among F; None without labels.
        retrieval: share whose nearest bare feature is their own.
        score: median lower bound of the Gaussian robustness score.
        bounds: median certified cosine at each epsilon.
        certified_retrieval, certified_label: share right AND certified at each epsilon.
        label: accuracy of the nearest prototype, each without the picture itself, certified or
            not; None without labels.
        ms_per_sample: noise, pipeline and all.
    """

    variant: str
    sigma: float
    cosine: float
    fidelity_pipeline: float
    fidelity_encoder: float
    different: float
    neighbour: float | None
    retrieval: float
    score: float | None = None
    bounds: tuple[float, ...] = ()
    certified_retrieval: tuple[float, ...] = ()
    label: float | None = None
    certified_label: tuple[float, ...] = ()
    ms_per_sample: float | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What was measured, and on what."""

    model: str
    revision: str
    pictures: int
    effort: Effort
    rows: tuple[Row, ...]

    def as_json(self) -> dict[str, Any]:
        """For one JSON line."""
        return {"bench": "stability", **asdict(self)}


@dataclass(frozen=True, slots=True)
class Ground:
    """The pictures, what the bare encoder says of them, and which are certified."""

    pictures: list[NDArray[np.uint8]]
    bare: Floats
    labels: list[str] | None
    chosen: list[int]
    gallery: Directions

    def prototypes(self, left_out: int) -> Directions | None:
        """Of every label without this picture; None if it is the only one of its label."""
        if self.labels is None:
            return None
        others = [i for i in range(len(self.bare)) if i != left_out]
        found = prototypes(self.bare[others], [self.labels[i] for i in others])
        scored = self.labels[left_out] in found.names and len(found.names) >= _FEWEST
        return found if scored else None


def evaluate(
    settings: Settings,
    files: Sequence[Path],
    root: Path | None,
    sigmas: Sequence[float],
    effort: Effort,
) -> Report:
    """Measure the settings' model.

    Args:
        settings: frozen.
        files: pictures.
        root: of the folders that sort them into labels; None without labels.
        sigmas: noise levels; none given: the model's own.
        effort: how much is drawn.

    Raises:
        ConfigurationError: fewer than two pictures, or a noise level that the model does not have.
    """
    model = load_model(settings.model, settings)
    wanted = tuple(sigmas) or model.sigmas
    if unknown := [s for s in wanted if s not in model.sigmas]:
        raise ConfigurationError(f"{model.name} has no noise level {unknown[0]:g}")
    if len(files) < _FEWEST:
        raise ConfigurationError("two pictures are the least that can be told apart")
    console = Console(stderr=True)
    with (
        closing(Lanes(model.lanes, model.threads)) as lanes,
        threadpool_limits(limits=1, user_api="blas"),
        Progress(console=console) as progress,
    ):
        rows_of = list(variants(model))
        task = progress.add_task("reading", total=None)
        ground = _read(model, rows_of[0][1], files, root, effort, settings, lanes)
        if same := len(files) - len(ground.pictures):
            console.print(f"left out: {same} pictures that are the same as another")
        pictures = len(ground.pictures) + len(ground.chosen)
        progress.update(task, total=len(rows_of) * len(wanted) * pictures)
        rows = [_bare_row(ground)]
        for sigma in wanted:
            for name, variant in rows_of:
                progress.update(task, description=f"{name} at sigma {sigma:g}")
                rows.append(
                    _row(
                        name, variant, sigma, ground, effort, lanes, lambda: progress.advance(task)
                    )
                )
    return Report(model.name, model.revision, len(ground.pictures), effort, tuple(rows))


def _read(
    model: LoadedModel,
    plain: LoadedModel,
    files: Sequence[Path],
    root: Path | None,
    effort: Effort,
    settings: Settings,
    lanes: Lanes,
) -> Ground:
    found: dict[bytes, tuple[NDArray[np.uint8], str]] = {}
    for file in files:
        x = read_picture(file, model.preprocessing, settings.max_pixels)
        # Of two that are the same, neither could be retrieved.
        found.setdefault(x.tobytes(), (x, "" if root is None else _label(file, root)))
    told = list(found.values())
    bare = bare_features(plain, [x for x, _ in told], lanes)
    while (pair := same_direction(bare)) is not None:
        told.pop(pair[1])
        bare = np.delete(bare, pair[1], 0)
    if len(told) < _FEWEST:
        raise ConfigurationError("all of these pictures are the same")
    pictures = [x for x, _ in told]
    labels = None if root is None else [label for _, label in told]
    if labels is not None and len(set(labels)) < _FEWEST:
        raise ConfigurationError(f"{root} holds pictures of one label: {labels[0]!r}")
    # Evenly over the sorted files, the same in every run.
    count = min(effort.certified, len(pictures))
    chosen = [round(i) for i in np.linspace(0, len(pictures) - 1, count)] if count else []
    gallery = Directions(tuple(map(str, range(len(pictures)))), bare)
    return Ground(pictures, bare, labels, chosen, gallery)


def _label(file: Path, root: Path) -> str:
    inside = file.relative_to(root).parts
    if len(inside) < 2:
        raise ConfigurationError(f"{file} is in no sub-folder, so it has no label")
    return inside[0]


def _bare_row(ground: Ground) -> Row:
    bare, labels = ground.bare, ground.labels
    label = None
    if labels is not None:
        known = {i: of for i in ground.chosen if (of := ground.prototypes(i)) is not None}
        right = [
            of.names[int((of.vectors @ bare[i]).argmax())] == labels[i] for i, of in known.items()
        ]
        label = float(np.mean(right)) if right else None
    return Row(
        variant="none",
        sigma=0.0,
        cosine=1.0,
        fidelity_pipeline=1.0,
        fidelity_encoder=1.0,
        different=confusion(bare),
        neighbour=None if labels is None else neighbour_accuracy(bare, labels),
        retrieval=self_retrieval(bare, bare),
        label=label,
    )


def _row(
    name: str,
    variant: LoadedModel,
    sigma: float,
    ground: Ground,
    effort: Effort,
    lanes: Lanes,
    done: Any,
) -> Row:
    seen = smooth(variant, ground.pictures, ground.bare, sigma, effort, lanes, done)
    found = {}
    for i in ground.chosen:
        found[i] = certify(
            variant,
            ground.pictures[i],
            sigma,
            effort,
            i,
            ground.gallery,
            ground.prototypes(i),
            lanes,
        )
        done()
    return Row(
        variant=name,
        sigma=sigma,
        cosine=float(seen.cosines.mean()),
        fidelity_pipeline=_mean_cosine(seen.means, seen.clean),
        fidelity_encoder=_mean_cosine(seen.means, ground.bare),
        different=confusion(seen.means),
        neighbour=None if ground.labels is None else neighbour_accuracy(seen.means, ground.labels),
        retrieval=self_retrieval(seen.means, ground.bare),
        ms_per_sample=seen.ms_per_sample,
        **(_certified(found, ground, effort) if found else {}),
    )


def _certified(found: dict[int, Certified], ground: Ground, effort: Effort) -> dict[str, Any]:
    epsilons = range(len(effort.epsilons))
    labels = ground.labels
    fields: dict[str, Any] = {
        "score": statistics.median(one.findings.score.lower for one in found.values()),
        "bounds": tuple(
            statistics.median(one.findings.bounds[k].bound for one in found.values())
            for k in epsilons
        ),
        "certified_retrieval": tuple(
            float(np.mean([_holds(one.neighbour, str(i), e) for i, one in found.items()]))
            for e in effort.epsilons
        ),
    }
    told = {i: one.label for i, one in found.items() if one.label is not None}
    if labels is not None and told:
        fields["label"] = float(
            np.mean([one.candidates[0][0] == labels[i] for i, one in told.items()])
        )
        fields["certified_label"] = tuple(
            float(np.mean([_holds(one, labels[i], e) for i, one in told.items()]))
            for e in effort.epsilons
        )
    return fields


def _holds(one: LabelFindings, right: str, epsilon: float) -> bool:
    """Right, and certified to stay so within epsilon."""
    return not one.abstained and one.candidates[0][0] == right and one.radius >= epsilon


def _mean_cosine(one: Floats, other: Floats) -> float:
    return float((one * other).sum(1).mean())
