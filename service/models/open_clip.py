"""CLIP checkpoints in the layout of open_clip, as the published FARE and TeCoA encoders have it.

A folder holds `open_clip_config.json` and `open_clip_model.safetensors`. It is written once into
the cache as transformers has CLIP (Radford et al. 2021): the same tensors under other names, query,
key and value apart, projections transposed. Both towers are plain vision transformers there; others
(ResNets, towers from timm or from the hub, attention pooling) are refused.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from service.errors import ConfigurationError
from service.models.distributions import sha256

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
_STAMP = "stamp.json"
_CONVERSION = 1  # raised whenever what is written changes
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_BLOCK = {
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_VISION = {
    "visual.class_embedding": "embeddings.class_embedding",
    "visual.conv1.weight": "embeddings.patch_embedding.weight",
    "visual.positional_embedding": "embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "pre_layrnorm.weight",  # so spelt
    "visual.ln_pre.bias": "pre_layrnorm.bias",
    "visual.ln_post.weight": "post_layernorm.weight",
    "visual.ln_post.bias": "post_layernorm.bias",
}
_TEXT = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}


class _Tower(BaseModel):
    """A part of the configuration; what is not named here is refused: it would change something."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    width: int = Field(ge=1)
    layers: int = Field(ge=1)
    mlp_ratio: float = 4.0

    def common(self, heads: int, activation: str, projection: int) -> dict[str, Any]:
        """What both towers of transformers' configuration have."""
        return {
            "hidden_size": self.width,
            "intermediate_size": int(self.width * self.mlp_ratio),
            "num_hidden_layers": self.layers,
            "num_attention_heads": heads,
            "hidden_act": activation,
            "projection_dim": projection,
        }


class _Vision(_Tower):
    image_size: int = Field(224, ge=1)
    patch_size: int = Field(16, ge=1)
    head_width: int = Field(64, ge=1)
    patch_dropout: float = 0.0  # of training alone

    @model_validator(mode="after")
    def _heads_are_whole(self) -> Self:
        if self.width % self.head_width:
            raise ValueError(f"width {self.width} is no multiple of head_width {self.head_width}")
        return self


class _Text(_Tower):
    context_length: int = 77
    vocab_size: int = 49408
    heads: int = Field(8, ge=1)
    # Of the tokenizer, which comes as its own files, and of trainers.
    hf_tokenizer_name: str | None = None
    tokenizer_kwargs: dict[str, Any] | None = None


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    embed_dim: int = Field(ge=1)
    quick_gelu: bool = False
    custom_text: bool = False  # how open_clip builds it, not what it computes
    init_logit_scale: float | None = None
    vision_cfg: _Vision
    text_cfg: _Text


class _Pixels(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    size: Any = None  # the tower's own
    mode: Literal["RGB"] = "RGB"
    interpolation: Literal["bicubic"] = "bicubic"
    resize_mode: Literal["shortest"] = "shortest"
    fill_color: Any = None  # of other modes


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    model_cfg: _Model
    preprocess_cfg: _Pixels = _Pixels()


def is_open_clip(folder: Path) -> bool:
    """Whether a folder is in this layout, and in no other."""
    return (folder / CONFIG).is_file() and not (folder / "config.json").is_file()


def as_transformers(folder: Path, cache: Path) -> Path:
    """The folder itself, or where it is of this layout, what it was converted into.

    Args:
        folder: of a model.
        cache: where conversions are kept.

    Raises:
        ConfigurationError: no safetensors, another architecture, or a cache that cannot be written.
    """
    if not is_open_clip(folder):
        return folder
    sources = [folder / name for name in (CONFIG, WEIGHTS, *_TOKENIZER)]
    told = hashlib.sha256(str(_CONVERSION).encode())
    for file in sources:
        told.update(f"{file.name} {sha256(file) if file.is_file() else None}\n".encode())
    target = cache / f"open-clip-{told.hexdigest()[:16]}"
    if not _is_whole(target):
        try:
            shutil.rmtree(target, ignore_errors=True)
            _write(target, folder, *_read(folder))
        except OSError as error:
            raise ConfigurationError(
                f"the converted weights cannot be kept in {cache}: {error}; name a folder that can"
                " be written: FCS_CACHE_DIR"
            ) from error
    return target


def vision_function(folder: Path) -> dict[str, Any]:
    """What of transformers' vision configuration decides the function beside shapes.

    Raises:
        ConfigurationError: another architecture.
    """
    vision = _config(folder).model_cfg
    tower = vision.vision_cfg
    return {
        "hidden_act": _activation(vision),
        "num_attention_heads": tower.width // tower.head_width,
        "patch_size": tower.patch_size,
    }


def vision_weights(folder: Path) -> dict[str, Tensor]:
    """The vision tower as transformers names it, `visual_projection.weight` beside it.

    Raises:
        ConfigurationError: no safetensors, or another architecture.
    """
    return dict(_vision(*_read(folder)))


def _read(folder: Path) -> tuple[_Model, dict[str, Tensor]]:
    file = folder / WEIGHTS
    if not file.is_file():
        raise ConfigurationError(f"{folder} holds no {WEIGHTS}; other formats are refused")
    config = _config(folder).model_cfg
    try:
        weights = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ConfigurationError(f"cannot read {file}: {error}") from error
    blocks = r"(visual\.)?transformer\.resblocks\.\d+\.(attn\.in_proj_(weight|bias)|("
    blocks += "|".join(re.escape(name) for name in _BLOCK) + r")\.(weight|bias))"
    known = {*_VISION, *_TEXT, "visual.proj", "text_projection", "logit_scale", "attn_mask"}
    if more := sorted(n for n in weights if n not in known and not re.fullmatch(blocks, n)):
        raise ConfigurationError(f"{file} has {more[0]!r} beside a plain CLIP")
    return config, weights


def _config(folder: Path) -> _Config:
    file = folder / CONFIG
    try:
        return _Config.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        first = str(error).strip().splitlines()
        raise ConfigurationError(f"{file} is of no plain CLIP: {' '.join(first[:3])}") from error


def _activation(config: _Model) -> str:
    return "quick_gelu" if config.quick_gelu else "gelu"


def _is_whole(target: Path) -> bool:
    """Whether the cache holds what was written there, to the last bit."""
    try:
        stamps = json.loads((target / _STAMP).read_text(encoding="utf-8"))
        return all(sha256(target / name) == digest for name, digest in stamps.items())
    except (OSError, ValueError, AttributeError):
        return False


def _write(target: Path, folder: Path, config: _Model, weights: Mapping[str, Tensor]) -> None:
    """At once or not at all."""
    vision, text = config.vision_cfg, config.text_cfg
    activation = _activation(config)
    seen = vision.common(vision.width // vision.head_width, activation, config.embed_dim)
    said = text.common(text.heads, activation, config.embed_dim)
    told = {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": config.embed_dim,
        "vision_config": {
            **seen,
            "model_type": "clip_vision_model",
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
        },
        "text_config": {
            **said,
            "model_type": "clip_text_model",
            "vocab_size": text.vocab_size,
            "max_position_embeddings": text.context_length,
            "bos_token_id": text.vocab_size - 2,
            "eos_token_id": text.vocab_size - 1,  # open_clip reads the text's feature there
        },
    }
    pixels, side = _config(folder).preprocess_cfg, vision.image_size
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": side},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": pixels.mean,
        "image_std": pixels.std,
        "do_convert_rgb": True,
    }
    seen_weights = {
        name if name.startswith("visual_projection") else f"vision_model.{name}": value
        for name, value in _vision(config, weights)
    }
    said_weights = dict(_text(config, weights))
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    (partial / "config.json").write_text(json.dumps(told, indent=1), encoding="utf-8")
    (partial / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    save_file(
        {**seen_weights, **said_weights},
        partial / "model.safetensors",
        {"format": "pt"},
    )
    for name in _TOKENIZER:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, partial / name)
    stamps = {file.name: sha256(file) for file in partial.iterdir()}
    (partial / _STAMP).write_text(json.dumps(stamps), encoding="utf-8")
    try:
        partial.rename(target)
    except OSError:
        if not target.is_dir():  # another process was first
            raise
        shutil.rmtree(partial)


def _vision(config: _Model, weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for old, new in _VISION.items():
        yield new, _take(weights, old)
    blocks = "visual.transformer.resblocks"
    for i in range(config.vision_cfg.layers):
        yield from _block(weights, f"{blocks}.{i}", f"encoder.layers.{i}")
    yield "visual_projection.weight", _take(weights, "visual.proj").T.contiguous()


def _text(config: _Model, weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for old, new in _TEXT.items():
        yield f"text_model.{new}", _take(weights, old)
    for i in range(config.text_cfg.layers):
        yield from _block(weights, f"transformer.resblocks.{i}", f"text_model.encoder.layers.{i}")
    yield "text_projection.weight", _take(weights, "text_projection").T.contiguous()
    yield "logit_scale", _take(weights, "logit_scale").reshape(())


def _block(weights: Mapping[str, Tensor], old: str, new: str) -> Iterator[tuple[str, Tensor]]:
    for kind in ("weight", "bias"):
        for one, other in _BLOCK.items():
            yield f"{new}.{other}.{kind}", _take(weights, f"{old}.{one}.{kind}")
        joined = _take(weights, f"{old}.attn.in_proj_{kind}")
        for name, part in zip(("q", "k", "v"), joined.chunk(3), strict=True):
            yield f"{new}.self_attn.{name}_proj.{kind}", part.contiguous()


def _take(weights: Mapping[str, Tensor], name: str) -> Tensor:
    try:
        return weights[name].clone()
    except KeyError as error:
        raise ConfigurationError(f"{WEIGHTS} lacks {name!r}: it is of no plain CLIP") from error
