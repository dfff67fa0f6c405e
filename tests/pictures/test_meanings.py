import json

import pytest
from PIL import Image

from service.errors import ConfigurationError
from service.pictures.meanings import KINDS, Meaning, meanings

EMOJI = [
    {"image": "1f431.png", "short_name": "cat", "subcategory": "animal-mammal"},
    {"image": "1f401.png", "short_name": "mouse2", "subcategory": "animal-mammal"},
    {"image": "1f6a6.png", "short_name": "busstop", "subcategory": "transport-ground"},
    {"image": "0023-fe0f-20e3.png", "short_name": "hash", "subcategory": "keycap"},
    {
        "image": "1f467.png",
        "short_name": "girl",
        "subcategory": "person",
        "skin_variations": {"1F3FB": {"image": "1f467-1f3fb.png"}},
    },
]  # fmt: skip


def emoji(folder, table=True, suffix="png"):
    (folder / "img").mkdir(parents=True)
    for name in ("1f431", "1f401", "1f6a6", "0023-fe0f-20e3", "1f467", "1f467-1f3fb"):
        Image.new("RGBA", (8, 8)).save(folder / "img" / f"{name}.{suffix}")
    if table:
        (folder / "emoji.json").write_text(json.dumps(EMOJI))
    return folder


def told(found):
    return {file.stem: meaning for file, meaning in found.items()}


def test_emoji_mean_what_unicode_groups_them_under(tmp_path):
    found = told(meanings(emoji(tmp_path / "emoji-x")))
    assert found == {
        "1f431": Meaning("animal", "cat"),
        "1f401": Meaning("animal", "mouse"),
        "1f467": Meaning("person"),
        "1f467-1f3fb": Meaning("person"),
    }


def test_emoji_drawn_by_others_are_told_by_the_table_beside_them(tmp_path):
    emoji(tmp_path / "emoji-x")
    other = emoji(tmp_path / "cutouts-other", table=False, suffix="webp")
    assert told(meanings(other))["1f431"] == Meaning("animal", "cat")


def test_emoji_without_any_table_are_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="fcs data fetch emoji-twitter"):
        meanings(emoji(tmp_path / "cutouts-other", table=False))


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("png/animals/mammals/cow.png", "animal"),
        ("png/people/clothing/hat.png", "clothing"),
        ("png/people/smilies/x.png", "face"),
        ("png/people/a.png", "person"),
        ("png/tools/weapons/sword.png", None),
        ("png/tools/saw.png", "tool"),
        ("stamps/hobbies/music/string/violin.png", "instrument"),
        ("png/unsorted/a.png", None),
        ("stamps/animals/mammals/bears/toys/teddy.png", None),
    ],
)
def test_other_pictures_mean_what_their_folders_say(tmp_path, path, kind):
    for name in (path, "png/food/fruit/known.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    found = {str(file.relative_to(tmp_path)): one.kind for file, one in meanings(tmp_path).items()}
    assert found.get(path) == kind


def test_a_folder_that_tells_nothing_is_refused(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "holiday.png")
    with pytest.raises(ConfigurationError, match="is not known"):
        meanings(tmp_path)


def test_every_kind_can_be_asked_for():
    assert len(KINDS) >= 8
    assert all(phrase.islower() for phrase in KINDS.values())
