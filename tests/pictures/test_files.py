import numpy as np
import pytest

from service.errors import ServiceError
from service.pictures.files import read_picture
from tests.tiny import HOW, picture


def test_a_file_becomes_x(tmp_path):
    file = tmp_path / "a.png"
    file.write_bytes(picture((1, 2, 3)))
    x = read_picture(file, HOW, 1000)
    assert x.dtype == np.uint8
    assert x.shape == (3, 8, 8)
    assert x[:, 0, 0].tolist() == [1, 2, 3]


@pytest.mark.parametrize("content", [b"", b"no picture"])
def test_an_error_names_the_file(tmp_path, content):
    file = tmp_path / "broken.png"
    file.write_bytes(content)
    with pytest.raises(ServiceError, match=r"broken\.png: "):
        read_picture(file, HOW, 1000)


def test_an_absent_file_is_a_clear_error(tmp_path):
    with pytest.raises(ServiceError, match=r"gone\.png: No such file"):
        read_picture(tmp_path / "gone.png", HOW, 1000)
