"""A tiny model with a closed form, behind the real `Pipeline`, for engine and core tests."""

import torch
from PIL import Image

from service.certificate.stopping import checkpoints
from service.models.encoder import Encoder
from service.models.loaded import LoadedModel
from service.models.pipeline import Parts, Pipeline
from service.types import NoiseLevel, Preprocessing, SamplingPlan

SIZE = (8, 8)
HOW = Preprocessing(SIZE, None, "bilinear", (0.0,) * 3, (1.0,) * 3)


class Rotation(Encoder):
    """f turns with the first pixel: (cos c·x₁, sin c·x₁, 0, 0)."""

    dimensions = 4

    def __init__(self, c=0.5):
        super().__init__()
        self.c = c
        self.fails_on = None
        self.error = RuntimeError("the device refused this batch")

    def pooled(self, pixels):
        first = pixels[:, 0, 0, 0].double()
        if self.fails_on is not None and self.fails_on(pixels):
            raise self.error
        zero = torch.zeros_like(first)
        angle = self.c * first
        return torch.stack([torch.cos(angle), torch.sin(angle), zero, zero], 1)

    def tokens(self, pixels):
        return self.pooled(pixels)[:, None]


def tiny_model(
    name="tiny", encoder=None, batch_size=4, lanes=2, device="cpu", purifier=None, mapper=None
):
    parts = Parts(encoder or Rotation(), purifier, mapper)
    pipeline = Pipeline(parts, HOW, torch.device(device), torch.float32)
    return LoadedModel(
        name,
        revision_at(batch_size),
        pipeline,
        HOW,
        (0.25, 0.5),
        batch_size,
        lanes,
        revision_at,
    )


def revision_at(batch_size):
    return f"sha256:{batch_size:064x}"


def plan(
    selection=10, estimation=50, certify=True, sigma=0.25, priority=0, radii=(0.1,), target=None
):
    return SamplingPlan(
        noise=NoiseLevel(sigma),
        radii=radii,
        selection=selection,
        estimation=estimation,
        confidence=0.99,
        certify=certify,
        priority=priority,
        target=target,
        checkpoints=(estimation,) if target is None else checkpoints(estimation),
    )


def picture(colour=(128, 64, 32), size=SIZE):
    import io

    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, "PNG")
    return stream.getvalue()
