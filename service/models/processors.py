"""A Hugging Face image processor -> our `Preprocessing`, or a clear refusal.

Only what ends in 8-bit RGB of one fixed size can define x; a processor that does anything else
(padding to content, tiling) is refused rather than approximated.
"""

from pathlib import Path
from typing import Any, cast

from PIL import Image
from transformers import AutoImageProcessor

from service.errors import ConfigurationError
from service.types import Preprocessing, Resample

_RGB = 3
# Steps that would change x in a way this module does not express.
_UNSUPPORTED_STEPS = (
    "do_pad",
    "do_image_splitting",
    "do_thumbnail",
    "do_align_long_axis",
    "do_flip_channel_order",
)


def load_preprocessing(folder: Path) -> Preprocessing:
    """Read the folder's image processor through transformers' own defaults and legacy names.

    Raises:
        ConfigurationError: no readable processor, or one that cannot define a fixed 8-bit x.
    """
    return derive(load_processor(folder), str(folder))


def load_processor(folder: Path) -> Any:
    """A folder's image processor, in its Pillow form.

    Raises:
        ConfigurationError: none that can be read.
    """
    try:
        return AutoImageProcessor.from_pretrained(  # type: ignore[no-untyped-call]
            folder, backend="pil", local_files_only=True
        )
    except (OSError, ValueError, ImportError) as error:
        raise ConfigurationError(f"{folder} holds no usable image processor: {error}") from error


def derive(processor: Any, where: str) -> Preprocessing:
    """The preprocessing of a loaded processor; `where` names it in errors."""
    for step in _UNSUPPORTED_STEPS:
        if getattr(processor, step, None):
            raise ConfigurationError(f"{where}: image processor step {step!r} is not supported")
    resize = _resize(processor, where)
    crop = None
    if getattr(processor, "do_center_crop", False):
        crop = _pair(processor.crop_size, where)
    elif isinstance(resize, int):
        raise ConfigurationError(f"{where}: a resize of the shortest edge needs a centre crop")
    if resize is None and crop is None:
        raise ConfigurationError(f"{where}: the image processor leads to no fixed size")
    return at_size(processor, where, resize, crop)


def at_size(
    processor: Any, where: str, resize: int | tuple[int, int] | None, crop: tuple[int, int] | None
) -> Preprocessing:
    """A processor's filter and normalisation at another size than its own."""
    mean, std = _affine(processor, where)
    filter_name = Image.Resampling(int(processor.resample)).name.lower()
    return Preprocessing(resize, crop, cast(Resample, filter_name), mean, std)


def _resize(processor: Any, where: str) -> int | tuple[int, int] | None:
    if getattr(processor, "max_num_patches", None):  # SigLIP 2: the square grid of its patch budget
        side = int(processor.max_num_patches**0.5) * int(processor.patch_size)
        return (side, side)
    if not processor.do_resize:
        return None
    size = dict(processor.size)
    if size.get("longest_edge"):
        raise ConfigurationError(f"{where}: resize by longest edge leads to no fixed size")
    if size.get("shortest_edge"):
        return int(size["shortest_edge"])
    return _pair(size, where)


def _pair(size: Any, where: str) -> tuple[int, int]:
    values = dict(size)
    if not (values.get("height") and values.get("width")):
        raise ConfigurationError(f"{where}: expected a size of height and width, found {values}")
    return int(values["height"]), int(values["width"])


def _affine(
    processor: Any, where: str
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Rescale and normalise as one mean and std on RGB in [0, 1]."""
    gain, offset = [255.0] * _RGB, [0.0] * _RGB
    if processor.do_rescale:
        gain = [255.0 * float(processor.rescale_factor)] * _RGB
        if getattr(processor, "rescale_offset", False):
            offset = [-1.0] * _RGB
    if processor.do_normalize:
        mean, std = _channels(processor.image_mean, where), _channels(processor.image_std, where)
        offset = [(o - m) / s for o, m, s in zip(offset, mean, std, strict=True)]
        gain = [g / s for g, s in zip(gain, std, strict=True)]
    if getattr(processor, "include_top", False):  # EfficientNet divides by std once more
        std = _channels(processor.image_std, where)
        offset = [o / s for o, s in zip(offset, std, strict=True)]
        gain = [g / s for g, s in zip(gain, std, strict=True)]
    means = tuple(-o / g for o, g in zip(offset, gain, strict=True))
    stds = tuple(1 / g for g in gain)
    return cast(tuple[float, float, float], means), cast(tuple[float, float, float], stds)


def _channels(values: Any, where: str) -> list[float]:
    listed = (
        [float(v) for v in values] if isinstance(values, (list, tuple)) else [float(values)] * _RGB
    )
    if len(listed) != _RGB:
        raise ConfigurationError(
            f"{where}: normalisation needs three channel values, found {values}"
        )
    return listed
