"""The picture sets, where each comes from, and which pictures of it are meant.

`photos`, `cutouts` and `emoji-twitter` are for training, `stamps` and `emoji-google` for evaluation
alone: nothing that the project trains ever sees them. The 26 photos of `mvtb-data` that the
project's own benches use are left out.
"""

import re
from dataclasses import dataclass
from typing import Literal

from service.errors import ConfigurationError

Registry = Literal["debian", "pip", "npm"]


@dataclass(frozen=True, slots=True)
class PictureSet:
    """Pictures of one package.

    Attributes:
        name: how commands call it.
        registry: whose package it is.
        package, version: exactly.
        sha256: of the package's file.
        member: pattern that the path of a wanted picture matches, and of `left_out` that it does
            not.
        licence: of the pictures, as the package states it.
        root: folder of the package whose sub-folders sort the pictures.
    """

    name: str
    registry: Registry
    package: str
    version: str
    sha256: str
    member: str
    licence: str
    left_out: str = r"(?!)"
    root: str = "."

    def wants(self, path: str) -> bool:
        """Whether a file of the package is meant."""
        return bool(re.search(self.member, path)) and not re.search(self.left_out, path)


_BENCHED = (
    r"/(building2-1|castle2?|eiffel-1|flowers[1357]|lab-scene|lena|monalisa|notre-dame|penguins"
    r"|road|rocks2-l|roof|street|tomato_54|butterfly|church)\.|P1070(491|496|499|504|509|512)"
)
_BACKGROUNDS = r"usr/share/backgrounds/.*\.(jpg|jpeg|png|webp)$"

SETS = {
    found.name: found
    for found in (
        PictureSet(
            "photos-mvtb", "pip", "mvtb-data", "1.6.1",
            "0ca9c30e100fa272421068a167ea6529085ff8f4afdca72e5fad681c52cabdbf",
            r"images/.*\.(png|jpg)$", "MIT; rights of single pictures unchecked: use, do not ship",
            _BENCHED,
        ),
        PictureSet(
            "photos-gnome", "debian", "gnome-backgrounds", "43.1-1",
            "a670dea21572652127d6e55f9cdb3a226d0037854fdbfd037003c7d00ee0dc4e",
            _BACKGROUNDS, "CC-BY-SA-3.0 and alike, see its copyright file",
        ),
        PictureSet(
            "photos-mate", "debian", "mate-backgrounds", "1.26.0-1",
            "7bf4c2209f34b4f61ba6d24c8b58c28b361e82e4b943aae6d42c030169af9e04",
            r"backgrounds/mate/nature/.*\.jpg$", "CC-BY-SA-4.0 and alike, see its copyright file",
        ),
        PictureSet(
            "photos-plasma", "debian", "plasma-workspace-wallpapers", "4:5.27.5-2",
            "32cd18b71c8c938a18b3b351f217c02ac590e323caa3cf322fbb875ce8892f8b",
            r"contents/images/2560x1600\.jpg$", "LGPL-3 and CC-BY-SA-4.0, see its copyright file",
        ),
        PictureSet(
            "photos-lomiri", "debian", "lomiri-wallpapers-16.04", "20.04.0-2",
            "a99ff6a3bfe451e4cc0682ecb3cc82e71740626d59e4845ae34a0a0e45421eab",
            _BACKGROUNDS, "CC-BY-SA-3.0 and alike, see its copyright file",
        ),
        PictureSet(
            "photos-ukui", "debian", "ukui-wallpapers", "20.04.3-1.1",
            "6d49be70152e6d603163458e177e501deb0be8f2916389ccbfcf59b0d7fc0262",
            _BACKGROUNDS, "CC-BY-SA-4.0 and alike, see its copyright file",
        ),
        PictureSet(
            "photos-gcompris", "debian", "gcompris-qt-data", "3.1-2",
            "e9cf06ab2105529068df73085784e835d2ff03f870d2a8091f09125d40abac9f",
            r"/activities/(categorization/resource/images/(tools|renewable|fishes|monuments|others)"
            r"|erase/resource|explore_\w+/resource/\w+)/[^/]+\.(webp|jpg|png)$",
            "CC-BY-SA-3.0, CC-BY-SA-4.0, public domain and alike, see its copyright file",
            root="usr/share/gcompris-qt/rcc",
        ),
        PictureSet(
            "cutouts-clipart", "debian", "openclipart-png", "1:0.18+dfsg-19",
            "f07f1545a2970c2cf3fa339bc2405da1a95cf2b1827bfa05bf73eb1c20291c02",
            r"usr/share/openclipart/png/.*\.png$", "public domain",
            r"/(shapes|signs_and_symbols|icons|flat-theme|aiga-symbols|flags)/",
        ),
        PictureSet(
            "cutouts-fluent", "npm", "@lobehub/fluent-emoji-3d", "1.1.0",
            "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
            r"\.(webp|png)$", "MIT",
        ),
        PictureSet(
            "emoji-twitter", "npm", "emoji-datasource-twitter", "16.0.0",
            "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
            r"package/(img/twitter/64/.*\.png|emoji\.json)$", "CC-BY-4.0", root="package",
        ),
        PictureSet(
            "emoji-google", "npm", "emoji-datasource-google", "16.0.0",
            "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
            r"package/(img/google/64/.*\.png|emoji\.json)$", "Apache-2.0", root="package",
        ),
        PictureSet(
            "stamps", "debian", "tuxpaint-stamps-default", "2022.06.04-1",
            "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
            r"usr/share/tuxpaint/stamps/.*\.png$", "GPL-2", r"/cartoon/|stamps/symbols/",
            "usr/share/tuxpaint/stamps",
        ),
    )
}  # fmt: skip


def picture_set(name: str) -> PictureSet:
    """A set by its name.

    Raises:
        ConfigurationError: no such set.
    """
    if name not in SETS:
        raise ConfigurationError(f"no picture set {name!r}; known: {', '.join(SETS)}")
    return SETS[name]
