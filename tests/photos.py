"""Real photos for tests and examples, from the installed scikit-image, checked by digest.

`python -m tests.photos FOLDER` copies them where the README's commands find them.
"""

import hashlib
import importlib.util
import shutil
import sys
from pathlib import Path

DIGESTS = {
    "astronaut.png": "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
    "chelsea.png": "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
    "coffee.png": "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
}


def locate(name: str) -> Path:
    """Path of a photo inside scikit-image, its digest verified; the package is not imported."""
    spec = importlib.util.find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("scikit-image is not installed: run `make setup`")
    path = Path(spec.submodule_search_locations[0]) / "data" / name
    if hashlib.sha256(path.read_bytes()).hexdigest() != DIGESTS[name]:
        raise RuntimeError(f"{path} is not the picture that is meant")
    return path


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in DIGESTS:
        shutil.copyfile(locate(name), folder / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
