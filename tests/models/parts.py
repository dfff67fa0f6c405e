"""Small purifiers and mappers with weights that do something, for tests."""

from dataclasses import replace

import torch

from service.models.mapper import Mapper, MapperConfig
from service.models.pipeline import Parts, Pipeline
from service.models.unet import UNet, UNetConfig

SMALL_UNET = UNetConfig(unshuffle=2, widths=(8, 12), depths=(1, 1), embedding=8)


def shaken(module, seed=0):
    """The module with random weights everywhere, those that start at zero too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def small_unet(seed=0):
    return shaken(UNet(SMALL_UNET), seed)


def small_mapper(dimensions, seed=0, grid=None):
    config = MapperConfig(dimensions, grid=grid, width=8, depth=2, heads=2, embedding=8)
    return shaken(Mapper(config), seed)


def with_parts(model, purifier, mapper):
    """A loaded model between these."""
    own = model.pipeline
    parts = Parts(own.encoder, purifier, mapper)
    return replace(model, pipeline=Pipeline(parts, model.preprocessing, own.device, own.dtype))
