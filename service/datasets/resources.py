"""The files inside a compiled Qt resource (`.rcc`), as the "Qt Resource System" lays them out.

A header with three offsets; a tree of nodes (directories and files), the root first; the files'
bytes, each with its length; the names in UTF-16. All integers are big-endian.
"""

import struct
import zlib
from collections.abc import Iterator

from service.errors import ConfigurationError

_MAGIC = b"qres"
_COMPRESSED, _DIRECTORY, _ZSTD = 1, 2, 4  # flags of a node
_DEEP = 32


def resource_files(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Path and bytes of each file.

    Raises:
        ConfigurationError: not such a resource, or compressed in a way that is not read here.
    """
    try:
        magic, version, tree, data, names = struct.unpack_from(">4sIIII", content)
        if magic != _MAGIC or version not in (1, 2, 3):
            raise ConfigurationError("not a compiled Qt resource of version 1, 2 or 3")
        reader = _Reader(content, 14 if version == 1 else 22, tree, data, names)
        yield from reader.below(0, "", _DEEP)
    except (struct.error, UnicodeDecodeError, zlib.error) as error:
        raise ConfigurationError(f"a damaged Qt resource: {error}") from error


class _Reader:
    def __init__(self, content: bytes, node: int, tree: int, data: int, names: int) -> None:
        self._content = content
        self._node, self._tree, self._data, self._names = node, tree, data, names

    def below(self, index: int, path: str, deep: int) -> Iterator[tuple[str, bytes]]:
        """Files of the node of this index, whose own path this is."""
        at = self._tree + index * self._node
        _, flags = struct.unpack_from(">IH", self._content, at)
        if not flags & _DIRECTORY:
            (offset,) = struct.unpack_from(">I", self._content, at + 10)
            yield path, self._bytes(offset, flags)
            return
        if not deep:
            raise ConfigurationError("a damaged Qt resource: its folders have no end")
        count, first = struct.unpack_from(">II", self._content, at + 6)
        for child in range(first, first + count):
            name = self._name(child)
            yield from self.below(child, f"{path}/{name}" if path else name, deep - 1)

    def _name(self, index: int) -> str:
        (offset,) = struct.unpack_from(">I", self._content, self._tree + index * self._node)
        at = self._names + offset
        (length,) = struct.unpack_from(">H", self._content, at)
        name: bytes = struct.unpack_from(f"{2 * length}s", self._content, at + 6)[0]
        return name.decode("utf-16-be")

    def _bytes(self, offset: int, flags: int) -> bytes:
        at = self._data + offset
        (length,) = struct.unpack_from(">I", self._content, at)
        found: bytes = struct.unpack_from(f"{length}s", self._content, at + 4)[0]
        if flags & _ZSTD:
            raise ConfigurationError("a Qt resource compressed with zstd is not read here")
        return zlib.decompress(found[4:]) if flags & _COMPRESSED else found
