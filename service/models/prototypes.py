"""Few-shot label directions: pictures of each label -> the mean of their smoothed embeddings.

Smoothed at the noise level at which pictures will be asked about, with few draws: a noise-free
prototype stands where smoothed embeddings are not (docs/log.md), and the draws' own error averages
out over a label's pictures. Prototypical networks: Snell et al. 2017, arXiv:1703.05175.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from service.errors import ConfigurationError, ServiceError
from service.models.loaded import LoadedModel
from service.models.noise import SEED_BYTES, add_noise
from service.pictures.decode import decode
from service.pictures.folders import SUFFIXES
from service.pictures.preprocess import check_size, preprocess
from service.types import NoiseLevel, Stage

DRAWS = 16


def pictures_by_label(folder: Path) -> dict[str, list[Path]]:
    """Sub-folders of `folder` as labels, each with the pictures in it, sorted.

    Raises:
        ConfigurationError: no such folder, fewer than two labels, or a label without pictures.
    """
    if not folder.is_dir():
        raise ConfigurationError(f"{folder} is not a folder")
    visible = sorted(f for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))
    if len(visible) < 2:
        raise ConfigurationError(
            f"{folder} has {len(visible)} sub-folders; each is a label, and two are the least"
        )
    found = {
        label.name: sorted(f for f in label.iterdir() if f.suffix.lower() in SUFFIXES)
        for label in visible
    }
    if empty := next((name for name, files in found.items() if not files), None):
        raise ConfigurationError(
            f"{folder / empty} holds no pictures ({', '.join(sorted(SUFFIXES))})"
        )
    return found


def smoothed_embedding(
    file: Path, model: LoadedModel, sigma: float, max_pixels: int
) -> NDArray[np.float64]:
    """The normalised mean feature of `DRAWS` noisy copies of a picture, [d].

    Args:
        file: any supported format.
        model: loaded.
        sigma: noise level, RGB in [0, 1]; 0 for the noise-free feature.
        max_pixels: the service's own limit.

    Raises:
        ConfigurationError: not a picture that can be read.
    """
    how, name = model.preprocessing, str(file)
    try:
        data = file.read_bytes()
        image = decode(data, max_pixels, name, lambda size: check_size(size, how, max_pixels, name))
    except OSError as error:
        raise ConfigurationError(f"cannot read {file}: {error}") from error
    except ServiceError as error:
        raise ConfigurationError(f"{file}: {error.message}") from error
    x = preprocess(image, how)
    # A function of the picture: the same folder gives the same directions.
    seed = hashlib.sha256(x.tobytes()).digest()[:SEED_BYTES]
    size = model.batch_size
    draws = -(-DRAWS // size) * size if sigma else size
    total = np.zeros(model.pipeline.dimensions)
    for first in range(0, draws, size):
        levels = np.stack(
            [
                add_noise(x, NoiseLevel(sigma), seed, Stage.SELECT, first + i)
                if sigma
                else x.astype(np.float32)
                for i in range(size)
            ]
        )
        features = model.pipeline(torch.from_numpy(levels), torch.full((size,), sigma))
        total += features.cpu().numpy().astype(np.float64).sum(0)
    norm = float(np.linalg.norm(total))
    if norm == 0:
        raise ConfigurationError(f"{file}: its features cancel out")
    return np.asarray(total / norm)


def prototypes(
    pictures: dict[str, list[Path]],
    model: LoadedModel,
    sigma: float,
    max_pixels: int,
    progress: Callable[[], None],
) -> NDArray[np.float32]:
    """One direction a label: the normalised mean over its pictures, [C, d].

    Args:
        pictures: by label.
        model: loaded.
        sigma: noise level, as in `smoothed_embedding`.
        max_pixels: the service's own limit.
        progress: called after each picture.

    Raises:
        ConfigurationError: a picture that cannot be read.
    """
    rows = []
    for files in pictures.values():
        total = np.zeros(model.pipeline.dimensions)
        for file in files:
            total += smoothed_embedding(file, model, sigma, max_pixels)
            progress()
        rows.append(total / max(float(np.linalg.norm(total)), 1e-300))
    return np.stack(rows).astype(np.float32)
