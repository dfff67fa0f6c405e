"""Behaviour of service/training/sources.py."""

import json

import pytest
from PIL import Image

from service.errors import ConfigurationError
from service.training.sources import Sources, describe, is_for_validation


def pictures(folder, count, suffix=""):
    folder.mkdir(parents=True)
    for i in range(count):
        Image.new("RGB", (4, 4), (i % 256, i // 256, 7)).save(folder / f"{i}{suffix}.png")
    return tuple(sorted(folder.iterdir()))


def test_files_are_divided_by_what_they_hold_whatever_their_names(tmp_path):
    files = pictures(tmp_path / "a", 400)
    again = pictures(tmp_path / "b", 400, suffix="-again")
    whole = Sources(files, files)

    kept, trained = whole.part(validation=True), whole.part(validation=False)

    assert set(kept.photos) | set(trained.photos) == set(files)
    assert not set(kept.photos) & set(trained.photos)
    assert kept.photos == kept.cutouts
    assert 5 < len(kept.photos) < 40  # one in twenty
    sides = {file.stem.removesuffix("-again"): is_for_validation(file) for file in again}
    assert sides == {file.stem: is_for_validation(file) for file in files}


def test_few_files_serve_both(tmp_path):
    one = Sources(pictures(tmp_path / "a", 1))
    assert one.part(validation=True).photos == one.part(validation=False).photos == one.photos


def test_what_was_trained_on_is_told_by_set(tmp_path):
    pictures(tmp_path / "photos", 3)
    pictures(tmp_path / "fetched", 2)
    about = {"package": "wallpapers", "version": "1.2", "licence": "MIT", "pictures": 2}
    (tmp_path / "fetched" / "set.json").write_text(json.dumps(about))

    told = describe([tmp_path / "photos", tmp_path / "fetched"])

    assert [(name, one.pictures) for name, one in told.items()] == [("photos", 3), ("fetched", 2)]
    assert (told["fetched"].package, told["fetched"].licence) == ("wallpapers 1.2", "MIT")
    assert told["photos"].package == ""


def test_the_digest_of_a_set_follows_its_pictures_and_not_their_names(tmp_path):
    pictures(tmp_path / "one", 3)
    pictures(tmp_path / "same", 3, suffix="x")
    pictures(tmp_path / "more", 4)

    one, same, more = (describe([tmp_path / n])[n].sha256 for n in ("one", "same", "more"))

    assert one == same
    assert one != more


def test_two_sets_of_one_name_are_refused(tmp_path):
    pictures(tmp_path / "a" / "photos", 1)
    pictures(tmp_path / "b" / "photos", 1)
    with pytest.raises(ConfigurationError, match="two picture sources are called 'photos'"):
        describe([tmp_path / "a" / "photos", tmp_path / "b" / "photos"])
