"""Behaviour of service/models/devices.py."""

import pytest
import torch

from service.errors import ConfigurationError
from service.models.devices import choose_device


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_cuda_without_a_device_is_refused():
    with pytest.raises(ConfigurationError, match="no usable CUDA device"):
        choose_device("cuda")
