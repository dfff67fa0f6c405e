import time

import numpy as np
import pytest

from service.bench.parts import PARTS, parts_ms
from tests.models.parts import small_mapper, small_unet
from tests.tiny import Rotation, tiny_model

PICTURE = np.full((3, 8, 8), 90, np.uint8)


def test_each_part_is_timed_by_the_sample():
    class Slow(Rotation):
        def pooled(self, pixels):
            time.sleep(0.08)  # 20 ms a sample in batches of 4
            return super().pooled(pixels)

    model = tiny_model(encoder=Slow(), purifier=small_unet(), mapper=small_mapper(4))
    found = parts_ms(model, PICTURE, rounds=3)
    assert 20 <= found["encode"] < 60
    assert all(found[part] > 0 for part in PARTS)
    whole = sum(found[part] for part in PARTS)
    bare = found["noise"] + found["encode"] + found["unit"]
    assert found["times_encoder"] == pytest.approx(whole / bare)


def test_an_encoder_alone_costs_about_itself():
    assert parts_ms(tiny_model(), PICTURE, rounds=3)["times_encoder"] < 2
