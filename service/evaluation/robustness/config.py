"""What a robustness table is made of, as a YAML file says it."""

from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.errors import ConfigurationError
from service.evaluation.attacks.budget import Budget, Norm
from service.evaluation.attacks.descent import Effort, Method

Smoothing = Literal["none", "FS", "FS+Mapper", "FS+Purifier", "FS+PSM"]
Goal = Literal["displacement", "matching", "crops", "tokens"]
Knows = Literal["encoder", "defence"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BudgetConfig(_Strict):
    """A ball; of l-infinity, epsilon is given in levels of 255."""

    norm: Norm
    epsilon: Annotated[float, Field(gt=0)]

    def value(self) -> Budget:
        """In RGB of [0, 1], whatever the norm."""
        return Budget(self.norm, self.epsilon / 255 if self.norm == "linf" else self.epsilon)

    @property
    def name(self) -> str:
        """For tables and file names."""
        return f"l2-{self.epsilon:g}" if self.norm == "l2" else f"linf-{self.epsilon:g}"


class AttackConfig(_Strict):
    """One attack.

    Attributes:
        goal: displacement is untargeted; the others want the features of a target picture.
        knows: the encoder alone (plain), or all of the defence (adaptive).
        draws: noisy features behind each gradient of an adaptive attack.
    """

    goal: Goal
    knows: Knows = "encoder"
    method: Method = "pgd"
    steps: Annotated[int, Field(ge=1)] = 40
    restarts: Annotated[int, Field(ge=1)] = 1
    draws: Annotated[int, Field(ge=1)] = 8
    judgements: Annotated[int, Field(ge=1)] = 1

    @property
    def name(self) -> str:
        """For tables and file names."""
        return f"{self.goal}-{self.method}"

    @property
    def effort(self) -> Effort:
        """Of the descent."""
        return Effort(self.method, self.steps, self.restarts, judgements=self.judgements)


class DefenceConfig(_Strict):
    """One row.

    Attributes:
        smoothing: none: no noise, and nothing around the encoder.
        encoder: name of fine-tuned weights; None: the original.
    """

    smoothing: Smoothing
    encoder: str | None = None

    @property
    def name(self) -> str:
        """For tables and file names."""
        parts = [self.encoder, None if self.smoothing == "none" else self.smoothing]
        return "+".join(part for part in parts if part) or "none"


class Config(_Strict):
    """A whole table.

    Attributes:
        model: package, hub id or folder of a model that answers.
        pictures: folder of a set whose pictures' meanings are known, never trained on.
        classes: kinds that pictures are of; one more is the target of attacks.
        count: pictures, the kinds in turn.
        sigma, answer_samples: of the smoothed defences.
        estimation: samples of each certificate.
        votes: draws that vote on the class of a clean picture; 0: no certified accuracy.
        encoders: files of `fcs train fare|tecoa`, or folders of their runs, by name.
        defences, attacks, budgets: whose product is run.
        rescored: fresh features that judge each certificate under attack.
    """

    model: str
    pictures: Path
    classes: Annotated[int, Field(ge=2)] = 10
    count: Annotated[int, Field(ge=2)]
    sigma: Annotated[float, Field(gt=0)] = 0.25
    answer_samples: Annotated[int, Field(ge=1)] = 8
    estimation: Annotated[int, Field(ge=48)] = 200
    votes: Annotated[int, Field(ge=0)] = 0
    rescored: Annotated[int, Field(ge=40)] = 200
    encoders: dict[str, Path] = {}
    defences: Annotated[tuple[DefenceConfig, ...], Field(min_length=1)]
    attacks: Annotated[tuple[AttackConfig, ...], Field(min_length=1)]
    budgets: Annotated[tuple[BudgetConfig, ...], Field(min_length=1)]
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _names_are_apart(self) -> Self:
        """Cells and pictures are kept by these names."""
        for field, names in (
            ("defences", [one.name for one in self.defences]),
            ("attacks", [f"{one.name} that knows the {one.knows}" for one in self.attacks]),
            ("budgets", [one.name for one in self.budgets]),
        ):
            if twice := [name for name in names if names.count(name) > 1]:
                raise ValueError(f"{field}: {twice[0]} is there twice")
        return self

    @model_validator(mode="after")
    def _encoders_are_named(self) -> Self:
        for defence in self.defences:
            if defence.encoder is not None and defence.encoder not in self.encoders:
                raise ValueError(f"defence {defence.name}: no encoder {defence.encoder!r} is named")
        return self


def shipped() -> tuple[str, ...]:
    """Names of the configs that come with this package."""
    files = resources.files("service.evaluation.robustness.configs").iterdir()
    return tuple(sorted(Path(f.name).stem for f in files if f.name.endswith(".yaml")))


def load_config(named: str) -> Config:
    """A shipped config by name, or one from a file.

    Raises:
        ConfigurationError: no such config, or one that is not valid.
    """
    if named in shipped():
        folder = resources.files("service.evaluation.robustness.configs")
        text = (folder / f"{named}.yaml").read_text(encoding="utf-8")
    else:
        try:
            text = Path(named).read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigurationError(
                f"no config {named!r}: name a file, or one of {', '.join(shipped())}"
            ) from error
    try:
        return Config.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{named} is not valid YAML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise ConfigurationError(f"{named}, {where}: {first['msg']}") from error
