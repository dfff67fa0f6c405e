from dataclasses import replace

import pytest
import torch

from service.errors import ConfigurationError
from service.models.psm import (
    Expected,
    Part,
    check,
    config_of,
    load_mapper,
    load_unet,
    read_part,
    write_part,
)
from service.types import Preprocessing
from tests.models.parts import small_mapper, small_unet

ENCODER = "a" * 64
PIXELS = Preprocessing((16, 16), None, "bicubic", (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))


def part(module, kind, **changes):
    fields = {
        "kind": kind,
        "config": config_of(module),
        "encoder": ENCODER,
        "sigmas": (0.1, 0.25),
        "size": (16, 16),
        "mean": PIXELS.mean,
        "std": PIXELS.std,
        "training": {"steps": 3},
    }
    return Part(**{**fields, **changes})


@pytest.fixture
def unet_file(tmp_path):
    module = small_unet()
    file = tmp_path / "purifier.safetensors"
    write_part(file, part(module, "unet"), module.state_dict())
    return file


def test_a_purifier_is_read_back(unet_file):
    module, of = load_unet(unet_file)
    x, sigmas = torch.rand(2, 3, 16, 16), torch.tensor([0.1, 0.25])
    with torch.no_grad():
        torch.testing.assert_close(module(x, sigmas), small_unet()(x, sigmas))
    assert (of.encoder, of.sigmas, of.training) == (ENCODER, (0.1, 0.25), {"steps": 3})


def test_a_mapper_is_read_back(tmp_path):
    module = small_mapper(10, grid=(2, 3))
    file = tmp_path / "mapper.safetensors"
    write_part(file, part(module, "mapper", purifier="b" * 64), module.state_dict())
    again, of = load_mapper(file)
    z, sigmas = torch.randn(2, 6, 10), torch.tensor([0.1, 0.25])
    with torch.no_grad():
        torch.testing.assert_close(again(z, sigmas), module(z, sigmas))
    assert of.purifier == "b" * 64


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"encoder": "b" * 64}, "trained for an encoder with digest"),
        ({"pixels": replace(PIXELS, std=(1.0, 1.0, 1.0))}, "normalises pixels by mean and std"),
        (
            {"pixels": replace(PIXELS, resize=(32, 16))},
            "pictures of 16 x 16, this model's are 32 x 16",
        ),
        ({"sigmas": (0.1, 0.5)}, "not trained for sigma 0.5; it was for 0.1, 0.25"),
    ],
)
def test_a_part_serves_nothing_but_what_it_was_trained_for(unet_file, changes, reason):
    fitting = {"encoder": ENCODER, "sigmas": (0.25,), "pixels": PIXELS}
    check(unet_file, read_part(unet_file), Expected(**fitting))
    with pytest.raises(ConfigurationError, match=reason):
        check(unet_file, read_part(unet_file), Expected(**{**fitting, **changes}))


def test_a_transfer_to_another_encoder_can_be_declared(unet_file):
    other = replace(PIXELS, mean=(0.0, 0.0, 0.0))
    expected = Expected("b" * 64, (0.25,), other, transferred=True)
    check(unet_file, read_part(unet_file), expected)


def test_the_kinds_are_not_confused(unet_file):
    with pytest.raises(ConfigurationError, match="holds a unet, a mapper was expected"):
        load_mapper(unet_file)


def test_a_damaged_file_is_refused(unet_file):
    whole = unet_file.read_bytes()
    unet_file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigurationError, match="cannot read"):
        load_unet(unet_file)
    unet_file.unlink()
    with pytest.raises(ConfigurationError, match="cannot read"):
        load_unet(unet_file)


def test_weights_that_do_not_fit_their_description_are_refused(tmp_path):
    module = small_unet()
    config = {**config_of(module), "widths": [8, 16]}
    file = tmp_path / "purifier.safetensors"
    write_part(file, part(module, "unet", config=config), module.state_dict())
    with pytest.raises(ConfigurationError, match="does not fit its own description"):
        load_unet(file)
    write_part(file, part(module, "unet", config={"colours": 3}), module.state_dict())
    with pytest.raises(ConfigurationError, match="does not fit its own description"):
        load_unet(file)


def test_another_safetensors_file_is_no_part(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(ConfigurationError, match="no purifier or mapper"):
        read_part(tmp_path / "a.safetensors")
