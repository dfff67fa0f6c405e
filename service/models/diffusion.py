"""Any unconditional diffusers `UNet2DModel` as a one-step purifier.

A diffusion model sees pictures in [-1, 1]; noise of sigma on [0, 1] is of 2 sigma there. Of a noisy
picture y = x + sigma e, sqrt(a_t) (2y - 1) is x_t = sqrt(a_t) (2x - 1) + sqrt(1 - a_t) e at that t
where (1 - a_t) / a_t = (2 sigma)^2 (Carlini et al. 2023, arXiv:2206.10550, algorithm 1). Scaling
uses the exact sigma; only what the network is told, t, is rounded to the nearest step.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from service.errors import ConfigurationError
from service.models.distributions import sha256
from service.models.purifier import Purifier

_SCHEDULER = "scheduler_config.json"
# Those that name the betas of DDPM's forward process.
_SCHEDULERS = (
    "DDPMScheduler",
    "DDIMScheduler",
    "PNDMScheduler",
    "DPMSolverMultistepScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
)
_PREDICTIONS = ("epsilon", "sample", "v_prediction")


class DiffusionPurifier(Purifier):
    """Predicts the picture once, from the noise level that it has.

    Args:
        network: UNet2DModel; channels beyond the third (a learned variance) are ignored.
        alphas: cumulative products a_t of its training, falling, [T].
        prediction: what the network predicts: epsilon, sample or v_prediction.
        multiple: height and width are padded to whole multiples of it.
    """

    def __init__(self, network: nn.Module, alphas: Tensor, prediction: str, multiple: int) -> None:
        super().__init__()
        self.network = network
        self.prediction = prediction
        self.multiple = multiple
        # Not a buffer: what is converted to bfloat16 with the weights is no schedule any more.
        self.log_sigmas = (0.5 * torch.log((1 - alphas.double()) / alphas.double())).float()
        self._tables: dict[torch.device, Tensor] = {}  # a graph being recorded cannot copy one

    def timesteps(self, sigmas: Tensor) -> Tensor:
        """The step whose noise, on [-1, 1], is nearest to each sigma on [0, 1], [n] int64."""
        device = sigmas.device
        if device not in self._tables:
            self._tables[device] = self.log_sigmas.to(device)
        wanted = torch.log(2 * sigmas.clamp_min(1e-12))
        return (wanted[:, None] - self._tables[device][None]).abs().argmin(1)

    def forward(self, noisy: Tensor, sigmas: Tensor) -> Tensor:
        """The estimate of the picture, [n, 3, H, W]."""
        doubled = 2 * sigmas.view(-1, 1, 1, 1)  # sigma on [-1, 1]
        kept = torch.rsqrt(1 + doubled.square())  # sqrt(a), exactly for this sigma
        shown = kept * (2 * noisy - 1)
        told = self._predict(shown, self.timesteps(sigmas)).float()
        if self.prediction == "epsilon":
            estimate = shown / kept - doubled * told
        elif self.prediction == "sample":
            estimate = told
        else:  # v = sqrt(a) e - sqrt(1 - a) x
            estimate = kept * shown - doubled * kept * told
        return torch.where(doubled > 0, (estimate + 1) / 2, noisy)

    def _predict(self, shown: Tensor, timesteps: Tensor) -> Tensor:
        height, width = shown.shape[2:]
        below, right = -height % self.multiple, -width % self.multiple
        if below or right:
            shown = functional.pad(shown, (0, right, 0, below), mode="replicate")
        weight = next(self.network.parameters())
        found: Tensor = self.network(shown.to(weight.dtype), timesteps).sample
        return found[:, :3, :height, :width]


def load_diffusion(folder: Path) -> DiffusionPurifier:
    """The model in a folder: that of a UNet2DModel, or of a pipeline with `unet` and `scheduler`.

    A folder without a scheduler is taken to be trained with 1000 steps of the linear schedule of
    DDPM (Ho et al. 2020, arXiv:2006.11239), predicting epsilon.

    Raises:
        ConfigurationError: diffusers is not installed, or the folder holds no such model.
    """
    try:
        from diffusers import DDPMScheduler, UNet2DModel
    except ImportError as error:
        raise ConfigurationError(
            "a diffusers purifier needs diffusers: pip install -e '.[diffusion]'"
            " in the project's folder"
        ) from error
    weights, schedule = _files(folder)
    try:
        loaded: Any = UNet2DModel  # neither class has types
        network: Any
        network, report = loaded.from_pretrained(
            weights,
            use_safetensors=True,
            local_files_only=True,
            low_cpu_mem_usage=False,
            output_loading_info=True,
        )
        settings = {} if schedule is None else json.loads(schedule.read_text(encoding="utf-8"))
        if not isinstance(settings, dict):
            raise ConfigurationError(f"{schedule} holds no JSON object")
        if settings.get("_class_name", _SCHEDULERS[0]) not in _SCHEDULERS:
            raise ConfigurationError(
                f"{schedule}: a {settings['_class_name']} is no schedule of DDPM's kind; supported"
                f" are {', '.join(_SCHEDULERS)}"
            )
        schedules: Any = DDPMScheduler
        scheduler: Any = schedules.from_config(settings)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise ConfigurationError(f"{folder} holds no usable UNet2DModel: {first}") from error
    kinds = ("missing_keys", "unexpected_keys", "mismatched_keys")
    if wrong := sorted(str(key) for kind in kinds for key in report.get(kind, ())):
        raise ConfigurationError(
            f"{weights} does not hold the weights of its own configuration, the first is"
            f" {wrong[0]}: they would be random"
        )
    config = network.config
    if config.in_channels != 3 or config.out_channels not in (3, 6):
        raise ConfigurationError(
            f"{folder}: {config.in_channels} channels in and {config.out_channels} out; a purifier"
            " of pictures has 3 in and 3 out, or 6 with a learned variance"
        )
    if config.class_embed_type is not None or config.num_class_embeds is not None:
        raise ConfigurationError(f"{folder}: a class-conditional model has no place here")
    if config.time_embedding_type != "positional" or config.center_input_sample:
        raise ConfigurationError(f"{folder}: only models that are told a time step are supported")
    prediction = scheduler.config.prediction_type
    if prediction not in _PREDICTIONS:
        raise ConfigurationError(f"{folder}: prediction type {prediction!r} is not supported")
    multiple = 2 ** (len(config.block_out_channels) - 1)
    return DiffusionPurifier(network, scheduler.alphas_cumprod, prediction, multiple)


def diffusion_digest(folder: Path) -> str:
    """Digest of everything the purifier in a folder depends on: weights, their shape, schedule.

    Raises:
        ConfigurationError: no safetensors in it.
    """
    weights, schedule = _files(folder)
    files = sorted([*weights.glob("*.safetensors"), weights / "config.json"])
    if not any(file.suffix == ".safetensors" for file in files):
        raise ConfigurationError(f"{weights} holds no .safetensors weights; others are refused")
    if index := sorted(weights.glob("*.safetensors.index.json")):
        raise ConfigurationError(
            f"{index[0]}: weights in several files are not supported, one file is what the digest"
            " speaks of"
        )
    if not (weights / "config.json").is_file():
        raise ConfigurationError(f"{weights} holds no config.json")
    whole = hashlib.sha256()
    for file in [*files, *([schedule] if schedule else [])]:
        whole.update(f"{file.name}\0{sha256(file)}\n".encode())
    return whole.hexdigest()


def _files(folder: Path) -> tuple[Path, Path | None]:
    """Folder of the weights, and the schedule: a pipeline's own, or one beside the weights."""
    if (folder / "unet").is_dir():
        weights, schedule = folder / "unet", folder / "scheduler" / _SCHEDULER
    else:
        weights, schedule = folder, folder / _SCHEDULER
    return weights, schedule if schedule.is_file() else None
