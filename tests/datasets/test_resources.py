import pytest

from service.datasets.resources import resource_files
from service.errors import ConfigurationError
from tests.datasets.resources import resource

FILES = {"art/tools/saw.webp": b"saw", "art/tools/é.webp": b"e" * 900, "art/cat.png": b"cat"}


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("compressed", [(), ("art/tools/é.webp",)])
def test_every_file_comes_with_its_path(version, compressed):
    assert dict(resource_files(resource(FILES, version, compressed))) == FILES


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "damaged"),
        (b"RIFF" + b"\0" * 40, "not a compiled Qt resource"),
        (resource(FILES, version=3).replace(b"\0\0\0\3", b"\0\0\0\4", 1), "of version 1, 2 or 3"),
        (resource(FILES)[:60], "damaged"),
        (resource(FILES)[:-3], "damaged"),
        (resource(FILES, flags=1), "damaged"),  # said to be compressed
        (resource(FILES, flags=4), "zstd"),
    ],
)
def test_what_cannot_be_read_is_said(content, said):
    with pytest.raises(ConfigurationError, match=said):
        dict(resource_files(content))


def test_a_folder_that_holds_itself_ends():
    content = bytearray(resource({"a/b": b"c"}))
    child = 24 + 22  # header, root
    content[child + 10 : child + 14] = (1).to_bytes(4, "big")
    with pytest.raises(ConfigurationError, match="no end"):
        dict(resource_files(bytes(content)))
