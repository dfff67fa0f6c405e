"""What the pictures of the open sets show: a kind of thing and, where its set tells one, a name.

Emoji carry their meaning in Unicode's own groups, the others in the folders they lie in. Pictures
whose kind is none of `KINDS`, or is not told, have no meaning here.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.errors import ConfigurationError
from service.pictures.folders import picture_files

# A kind, and how a question names one of it.
KINDS = {
    "animal": "an animal",
    "plant": "a plant",
    "food": "food",
    "vehicle": "a vehicle",
    "building": "a building",
    "clothing": "clothing",
    "person": "a person",
    "face": "a face",
    "instrument": "a musical instrument",
    "tool": "a tool",
    "sport": "sports equipment",
    "flag": "a flag",
}


@dataclass(frozen=True, slots=True)
class Meaning:
    """Of one picture.

    Attributes:
        kind: one of `KINDS`.
        name: a word or two; empty where the set tells none.
    """

    kind: str
    name: str = ""


# By the subgroups of Unicode's emoji list, and what of them is something else.
_EMOJI = {
    r"animal-.*": "animal",
    r"plant-.*": "plant",
    r"food-.*": "food",
    r"transport-(ground|air|water)": "vehicle",
    r"place-(building|religious)": "building",
    r"clothing": "clothing",
    r"person|person-(activity|fantasy|gesture|role)|family": "person",
    r"face-(smiling|affection|tongue|hand|neutral-skeptical|sleepy|unwell|hat|glasses|concerned"
    r"|negative)": "face",
    r"musical-instrument": "instrument",
    r"tool": "tool",
    r"sport": "sport",
    r"country-flag|flag|subdivision-flag": "flag",
}
_NOT_OF_THEIR_GROUP = frozenset(
    {
        "airplane_arriving",
        "airplane_departure",
        "anchor",
        "bomb",
        "boomerang",
        "bow_and_arrow",
        "bricks",
        "broken_chain",
        "busstop",
        "chains",
        "compression",
        "construction",
        "crossed_swords",
        "dagger_knife",
        "empty_nest",
        "folding_hand_fan",
        "fuelpump",
        "gem",
        "hair_pick",
        "hook",
        "link",
        "lipstick",
        "martial_arts_uniform",
        "motorway",
        "nest_with_eggs",
        "octagonal_sign",
        "oil_drum",
        "parachute",
        "prayer_beads",
        "railway_track",
        "ring",
        "ring_buoy",
        "rock",
        "rosette",
        "rotating_light",
        "running_shirt_with_sash",
        "scales",
        "seat",
        "shield",
        "shopping_bags",
        "skull",
        "spider_web",
        "station",
        "traffic_light",
        "vertical_traffic_light",
        "wedding",
        "wheel",
        "white_flower",
        "wood",
    }
)
_UNNAMED = {"person", "face", "flag", "building"}  # their names say more than a picture does

# By folder: the first pattern that is found in a path, of whatever set is not emoji.
_FOLDERS = {
    r"/toys/|/plastic/|/fantasy/": None,
    r"/people/clothing/|/stamps/clothes/": "clothing",
    r"/people/smilies/": "face",
    r"/people/(bodypart|body_parts|stickmen)/": None,
    r"/animals/|/explore_(farm|world)_animals/|/images/fishes/": "animal",
    r"/plants/mushrooms/": None,
    r"/plants/": "plant",
    r"/food/(beverages|dairy)/": None,
    r"/food/": "food",
    r"/transportation/(vehicles|boating)/|/stamps/vehicles/": "vehicle",
    r"/buildings/homes/|/town/monuments/|/monuments/|/explore_monuments/": "building",
    r"/png/people/|/stamps/people/": "person",
    r"/recreation/music/|/hobbies/music/": "instrument",
    r"/tools/weapons/": None,
    r"/png/tools/|/household/tools/|/images/tools/": "tool",
    r"/recreation/sports/|/stamps/sports/": "sport",
    r"/town/flags/": "flag",
}


def meanings(folder: Path) -> dict[Path, Meaning]:
    """Of the pictures in the folder of a set, as `fcs data fetch` left it, that have one.

    Raises:
        ConfigurationError: no picture in it has a meaning that is known.
    """
    table = _emoji_table(folder)
    found = {}
    for file in picture_files([folder]):
        meaning = _by_folder(file) if table is None else table.get(file.stem)
        if meaning is not None:
            found[file] = meaning
    if not found:
        raise ConfigurationError(f"{folder}: what its pictures show is not known")
    return found


def _by_folder(file: Path) -> Meaning | None:
    for pattern, kind in _FOLDERS.items():
        if re.search(pattern, file.as_posix()):
            return None if kind is None else Meaning(kind)
    return None


def _emoji_table(folder: Path) -> Mapping[str, Meaning] | None:
    """By the name of a file without its ending; None for pictures that are no emoji."""
    beside = sorted(folder.parent.glob("emoji-*/emoji.json"))
    own = folder / "emoji.json"
    if not own.is_file() and not _is_named_by_code(folder):
        return None
    if not own.is_file() and not beside:
        raise ConfigurationError(
            f"{folder}: what its emoji mean is told in emoji-twitter: `fcs data fetch"
            " emoji-twitter` into the same folder"
        )
    file = own if own.is_file() else beside[0]
    try:
        return dict(_read(json.loads(file.read_text(encoding="utf-8"))))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{file} is no list of emoji: {error!r}") from error


def _is_named_by_code(folder: Path) -> bool:
    some = [file.stem for file in picture_files([folder])[:50]]
    return all(re.fullmatch(r"[0-9a-f]{2,6}(-[0-9a-f]{2,6})*", stem) for stem in some)


def _read(emoji: list[dict[str, Any]]) -> list[tuple[str, Meaning]]:
    found = []
    for one in emoji:
        kind = next((k for p, k in _EMOJI.items() if re.fullmatch(p, one["subcategory"])), None)
        if kind is None or one["short_name"] in _NOT_OF_THEIR_GROUP:
            continue
        name = "" if kind in _UNNAMED else _plain(one["short_name"])
        variants = [form["image"] for form in one.get("skin_variations", {}).values()]
        found += [(Path(image).stem, Meaning(kind, name)) for image in (one["image"], *variants)]
    return found


def _plain(short_name: str) -> str:
    """`steam_locomotive` -> `steam locomotive`, `mouse2` -> `mouse`."""
    return re.sub(r"\d+$", "", short_name).replace("_", " ").replace("-", " ").strip()
