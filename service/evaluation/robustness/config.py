"""What a robustness table is made of, as a YAML file says it."""

import re
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.errors import ConfigurationError
from service.evaluation.attacks.budget import Budget, Norm
from service.evaluation.attacks.descent import Effort, Method

# It names folders and rows: nothing that another row, or the original's attacks, are called.
_NAME = r"^(?!(?:original|none|FS)$)[A-Za-z0-9][A-Za-z0-9._-]{0,31}$"


def _encoder_name(name: str) -> str:
    if not re.fullmatch(_NAME, name):
        raise ValueError(
            "letters, digits, '.', '_' and '-' only, and neither original, none nor FS"
        )
    return name


EncoderName = Annotated[str, AfterValidator(_encoder_name)]
Smoothing = Literal["none", "FS", "FS+Mapper", "FS+Purifier", "FS+PSM"]
Goal = Literal["displacement", "matching", "crops", "tokens"]
Knows = Literal["encoder", "defence", "surrogates"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BudgetConfig(_Strict):
    """A ball; of l-infinity, epsilon is given in levels of 255."""

    norm: Norm
    epsilon: Annotated[float, Field(gt=0, allow_inf_nan=False)]

    @model_validator(mode="after")
    def _can_be_reached(self) -> Self:
        """By 8-bit pictures."""
        if self.norm == "linf" and not (self.epsilon.is_integer() and self.epsilon <= 255):
            raise ValueError("of linf, epsilon is a whole number of levels, 1 to 255")
        if self.norm == "l2" and self.epsilon < 1 / 255:
            raise ValueError("of l2, epsilon is at least 1/255, one level of one value")
        return self

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
        knows: the encoder alone (plain), all of the defence (adaptive), or only other encoders
            (black box).
        ensemble: of crops that know the encoder: the surrogates beside it.
        draws: noisy features behind each gradient of an adaptive attack.
        defences: names of the rows that it is run on; none named: all.
    """

    goal: Goal
    knows: Knows = "encoder"
    ensemble: bool = False
    method: Method = "pgd"
    steps: Annotated[int, Field(ge=1)] = 40
    restarts: Annotated[int, Field(ge=1)] = 1
    draws: Annotated[int, Field(ge=1)] = 8
    judgements: Annotated[int, Field(ge=1)] = 1
    defences: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """For tables and file names."""
        return f"{self.goal}{'-ensemble' if self.ensemble else ''}-{self.method}"

    @property
    def key(self) -> str:
        """One of a config."""
        return f"{self.name} that knows the {self.knows}"

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
        mappers: files of `fcs train mapper`, or folders of their runs, by the smoothing they are
            for; where none is named, the model's own.
        surrogates: models whose encoders a black-box attacker has, as packages, hub ids or folders.
        defences, attacks, budgets: whose product is run.
        rescored: fresh features that judge each certificate under attack.
        sweep: numbers of answer samples at which clean pictures are shown as well.
    """

    model: str
    pictures: Path
    classes: Annotated[int, Field(ge=2)] = 10
    count: Annotated[int, Field(ge=2)]
    sigma: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.25
    answer_samples: Annotated[int, Field(ge=1)] = 8
    estimation: Annotated[int, Field(ge=48)] = 200
    votes: Annotated[int, Field(ge=0)] = 0
    rescored: Annotated[int, Field(ge=40)] = 200
    sweep: tuple[Annotated[int, Field(ge=1)], ...] = ()
    encoders: dict[EncoderName, Path] = {}
    mappers: dict[Literal["FS+Mapper", "FS+PSM"], Path] = {}
    surrogates: tuple[str, ...] = ()
    defences: Annotated[tuple[DefenceConfig, ...], Field(min_length=1)]
    attacks: Annotated[tuple[AttackConfig, ...], Field(min_length=1)]
    budgets: Annotated[tuple[BudgetConfig, ...], Field(min_length=1)]
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    @model_validator(mode="after")
    def _names_are_apart(self) -> Self:
        """Cells and pictures are kept by these names."""
        for field, names in (
            ("defences", [one.name for one in self.defences]),
            ("attacks", [one.key for one in self.attacks]),
            ("budgets", [one.name for one in self.budgets]),
            ("sweep", [str(one) for one in self.sweep]),
            ("surrogates", list(self.surrogates)),
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

    @model_validator(mode="after")
    def _rows_are_there(self) -> Self:
        names = [defence.name for defence in self.defences]
        for attack in self.attacks:
            if unknown := [name for name in attack.defences if name not in names]:
                raise ValueError(f"{attack.key}: no defence {unknown[0]!r} is named")
        return self

    @model_validator(mode="after")
    def _surrogates_can(self) -> Self:
        for attack in self.attacks:
            noisy = {one.name for one in self.defences if one.smoothing != "none"}
            if attack.knows == "defence" and attack.defences and not noisy & {*attack.defences}:
                raise ValueError(f"{attack.key}: none of its defences has anything more to know")
            if (attack.knows == "surrogates" or attack.ensemble) and not self.surrogates:
                raise ValueError(f"{attack.key}: no surrogates are named")
            if attack.knows == "surrogates" and attack.goal == "tokens":
                raise ValueError(f"{attack.key}: a surrogate's tokens are none of the model's")
            if attack.ensemble and (attack.goal != "crops" or attack.knows != "encoder"):
                raise ValueError(f"{attack.key}: an ensemble is for crops that know the encoder")
        return self

    @property
    def mapper_files(self) -> dict[str, Path]:
        """By smoothing, the file of each."""
        return {
            name: path / "mapper.safetensors" if path.is_dir() else path
            for name, path in self.mappers.items()
        }


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
        except UnicodeDecodeError as error:
            raise ConfigurationError(f"{named} is not UTF-8: {error}") from error
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
