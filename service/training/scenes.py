"""Endless training pictures: crops of photos, and cut-outs over photos, white and plain colours.

Picture i depends on the seed and i alone, so that a run that was interrupted goes on as if it had
not been, whatever the number of threads or processes.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from service.errors import ConfigurationError
from service.training.shelf import Shelf
from service.training.sources import Sources

_log = logging.getLogger(__name__)
_TRIES = 20  # files in a row that cannot be read, before the run ends
_KEPT_SIDES = 2  # pictures are kept in memory at this many times the side of a scene, at most
_SMALLEST_CROP = 0.25  # of a photo's area
_OF_CUTOUTS = 0.6  # of all scenes, where there are cut-outs
_ON_WHITE, _ON_COLOUR = 0.5, 0.15  # of those; the rest are on photos
_TEXTURED = 0.3  # of the cut-outs: filled with a photo


class Scenes:
    """Scene i as uint8 [3, H, W].

    Args:
        sources: at least one photo.
        size: (H, W).
        seed: of every random choice.
        copies: folder for small copies of large pictures, which are slow to read again.
    """

    def __init__(
        self, sources: Sources, size: tuple[int, int], seed: int, copies: Path | None = None
    ) -> None:
        if not sources.photos:
            raise ConfigurationError("no photos to train on")
        self._sources, self._size, self._seed = sources, size, seed
        self._unreadable: set[Path] = set()
        self.shelf = Shelf(_KEPT_SIDES * max(size), copies)

    def __getitem__(self, i: int) -> NDArray[np.uint8]:
        """Scene i.

        Raises:
            ConfigurationError: many files in a row are no pictures.
        """
        rng = np.random.Generator(np.random.Philox(key=self._seed, counter=[0, 0, 0, i]))
        if self._sources.cutouts and rng.random() < _OF_CUTOUTS:
            scene = self._composed(rng)
        else:
            scene = self._photo(rng, self._size)
        levels = np.asarray(scene, np.uint8).transpose(2, 0, 1)
        return np.ascontiguousarray(levels[:, :, ::-1] if rng.random() < 0.5 else levels)

    def batch(self, indices: Sequence[int]) -> Tensor:
        """Scenes stacked, uint8 [n, 3, H, W]."""
        return torch.from_numpy(np.stack([self[i] for i in indices]))

    def _draw(self, rng: np.random.Generator, files: Sequence[Path], mode: str) -> Image.Image:
        """Any of the files; another in place of one that cannot be read, which is told once."""
        for _ in range(_TRIES):
            file = files[int(rng.integers(len(files)))]
            try:
                return self.shelf.load(file, mode)
            except ConfigurationError as error:
                if file not in self._unreadable:
                    self._unreadable.add(file)
                    _log.warning("left out: %s", error)
                last = error
        raise last

    def _photo(self, rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
        """A crop of any place, size and moderate distortion."""
        return _crop(rng, self._draw(rng, self._sources.photos, "RGB"), size, _SMALLEST_CROP)

    def crop(self, rng: np.random.Generator, photo: Image.Image, smallest: float) -> Image.Image:
        """A crop of one photo of at least this share of its area, as large as a scene."""
        return _crop(rng, photo, self._size, smallest)

    def _composed(self, rng: np.random.Generator) -> Image.Image:
        """Any cut-out over something."""
        return self.composed(rng, None, _TEXTURED)

    def composed(
        self, rng: np.random.Generator, cutout: Image.Image | None, textured: float
    ) -> Image.Image:
        """A cut-out over white, a plain colour or a photo.

        Args:
            rng: of every choice.
            cutout: RGBA; None: any of the sources'.
            textured: chance that a photo fills it.
        """
        chance = rng.random()
        if chance < _ON_WHITE:
            scene = Image.new("RGB", self._size[::-1], "white")
        elif chance < _ON_WHITE + _ON_COLOUR:
            colour = tuple(int(c) for c in rng.integers(0, 256, 3))
            scene = Image.new("RGB", self._size[::-1], colour)
        else:
            scene = self._photo(rng, self._size)
        cutout = cutout or self._draw(rng, self._sources.cutouts, "RGBA")
        fit = min(scene.width / cutout.width, scene.height / cutout.height)
        scale = fit * rng.uniform(0.45, 1.05)
        size = max(1, round(cutout.width * scale)), max(1, round(cutout.height * scale))
        cutout = cutout.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
        alpha = cutout.getchannel("A")
        if rng.random() < textured:
            cutout = self._photo(rng, size[::-1])
        left = round(rng.uniform(min(0, scene.width - size[0]), max(0, scene.width - size[0])))
        top = round(rng.uniform(min(0, scene.height - size[1]), max(0, scene.height - size[1])))
        scene.paste(cutout.convert("RGB"), (left, top), alpha)
        return scene


def _crop(
    rng: np.random.Generator, photo: Image.Image, size: tuple[int, int], smallest: float
) -> Image.Image:
    """Of any place, size and moderate distortion; size as (H, W)."""
    aspect = np.exp(rng.uniform(-0.3, 0.3)) * size[1] / size[0]
    share = rng.uniform(smallest, 1)
    height = np.sqrt(share * photo.width * photo.height / aspect)
    shrink = min(1.0, photo.height / height, photo.width / (height * aspect))
    height, width = height * shrink, height * aspect * shrink
    left = rng.uniform(0, max(0.0, photo.width - width))
    top = rng.uniform(0, max(0.0, photo.height - height))
    box = (left, top, left + width, top + height)
    return photo.resize((size[1], size[0]), Image.Resampling.BICUBIC, box, reducing_gap=2.0)
