from importlib.metadata import version

from torch import nn

from service.models.platform import describe
from tests.models.test_diffusion import tiny


def test_only_libraries_whose_code_computes_are_told():
    plain = describe("cpu", nn.Sequential(nn.Linear(2, 2)))
    assert plain == describe("cpu")
    assert "diffusers" not in plain
    assert describe("cpu", nn.Sequential(tiny())) == f"{plain}; diffusers {version('diffusers')}"
