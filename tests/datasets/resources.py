"""A compiled Qt resource, written here as Qt's own compiler writes it."""

import struct
import zlib

_COMPRESSED, _DIRECTORY = 1, 2


def resource(files, version=3, compressed=(), flags=None):
    """Of {path: bytes}; `compressed` names the files that are, `flags` replaces a file's own."""
    names, data, nodes = b"", b"", []
    tree = {}
    for path, content in files.items():
        *folders, last = path.split("/")
        here = tree
        for folder in folders:
            here = here.setdefault(folder, {})
        here[last] = (path, content)
    waiting = [("", tree)]
    placed = 1  # nodes that have an index; children of a folder stand together
    while waiting:
        name, inside = waiting.pop(0)
        at = len(names)
        encoded = name.encode("utf-16-be")
        names += struct.pack(">HI", len(encoded) // 2, 0) + encoded
        if isinstance(inside, dict):
            node = struct.pack(">IHII", at, _DIRECTORY, len(inside), placed)
            placed += len(inside)
            waiting += inside.items()
        else:
            path, content = inside
            packed = path in compressed
            if packed:
                content = struct.pack(">I", len(content)) + zlib.compress(content)
            told = (_COMPRESSED if packed else 0) if flags is None else flags
            node = struct.pack(">IHHHI", at, told, 0, 1, len(data))
            data += struct.pack(">I", len(content)) + content
        nodes.append(node + (struct.pack(">Q", 0) if version > 1 else b""))
    header = 20 if version < 3 else 24
    whole = b"".join(nodes)
    offsets = (header, header + len(whole), header + len(whole) + len(data))
    start = struct.pack(">4sIIII", b"qres", version, *offsets)
    return start + b"\0" * (header - 20) + whole + data + names
