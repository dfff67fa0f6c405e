"""Behaviour of service/training/sources.py."""

import json

import pytest
from PIL import Image

from service.errors import ConfigurationError
from service.pictures.contents import set_digest
from service.training.sources import Sources, describe, is_for_validation


def pictures(folder, count, suffix=""):
    folder.mkdir(parents=True)
    for i in range(count):
        Image.new("RGB", (4, 4), (i % 256, i // 256, 7)).save(folder / f"{i}{suffix}.png")
    return tuple(sorted(folder.iterdir()))


def tell(folder):
    """As `fcs data fetch` tells of a folder."""
    contents = set_digest(folder.iterdir())
    told = {"package": "wallpapers", "version": "1.2", "licence": "MIT", "contents": contents}
    (folder / "set.json").write_text(json.dumps(told))


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


def test_names_places_and_copies_of_files_change_nothing(tmp_path):
    one = pictures(tmp_path / "a", 6)
    pictures(tmp_path / "b" / "again", 6, suffix="-again")
    again = tmp_path / "b" / "again" / ".." / ".." / "b"
    ours, theirs = Sources.of([tmp_path / "a"]), Sources.of([again, again / "again", *one[:2]])
    assert ours.identity() == theirs.identity()
    assert [f.read_bytes() for f in ours.photos] == [f.read_bytes() for f in theirs.photos]


def test_photos_and_cutouts_are_not_exchanged_unseen(tmp_path):
    one, other = pictures(tmp_path / "a", 3), pictures(tmp_path / "b", 2)
    assert Sources.of(one, other).identity() != Sources.of(other, one).identity()


def test_few_files_serve_both(tmp_path):
    one = Sources(pictures(tmp_path / "a", 1))
    assert one.part(validation=True).photos == one.part(validation=False).photos == one.photos


def test_what_was_trained_on_is_told_by_set(tmp_path):
    pictures(tmp_path / "photos", 3)
    pictures(tmp_path / "fetched", 2)
    tell(tmp_path / "fetched")

    told = describe([tmp_path / "photos", tmp_path / "fetched"])

    assert {name: one.pictures for name, one in told.items()} == {"photos": 3, "fetched": 2}
    assert (told["fetched"].package, told["fetched"].licence) == ("wallpapers 1.2", "MIT")
    assert told["photos"].package == ""


def test_the_digest_of_a_set_follows_its_pictures_and_not_their_names(tmp_path):
    pictures(tmp_path / "one", 3)
    pictures(tmp_path / "same", 3, suffix="x")
    pictures(tmp_path / "more", 4)

    one, same, more = (describe([tmp_path / n])[n].sha256 for n in ("one", "same", "more"))

    assert one == same
    assert one != more


def test_sets_of_one_name_are_told_apart_and_loose_files_are_one_set(tmp_path):
    one = pictures(tmp_path / "a" / "photos", 1)
    pictures(tmp_path / "b" / "photos", 2)
    both = [tmp_path / "a" / "photos", tmp_path / "b" / "photos", tmp_path / "a" / "photos"]
    told = describe([*both, *one])
    assert {name: record.pictures for name, record in told.items()} == {
        "photos": 1,
        "photos'": 2,
        "files": 1,
    }


def test_what_a_folder_says_of_itself_is_believed_only_while_it_is_so(tmp_path):
    pictures(tmp_path / "grown", 3)
    tell(tmp_path / "grown")
    Image.new("RGB", (4, 4), "white").save(tmp_path / "grown" / "0.png")  # as many, but others
    pictures(tmp_path / "odd", 1)
    (tmp_path / "odd" / "set.json").write_text("[1]")
    for record in describe([tmp_path / "grown", tmp_path / "odd"]).values():
        assert (record.package, record.licence) == ("", "")


def test_pictures_that_begin_alike_are_told_apart(tmp_path):
    for i in range(100):
        picture = Image.new("RGB", (200, 200), "white")
        picture.putpixel((0, 0), (i, 0, 0))  # the last bytes of a BMP
        picture.save(tmp_path / f"{i}.bmp")
    whole = Sources(tuple(sorted(tmp_path.iterdir())))
    assert 0 < len(whole.part(validation=True).photos) < 20


def test_a_file_that_cannot_be_read_is_one_clear_error(tmp_path):
    with pytest.raises(ConfigurationError, match=r"gone\.png cannot be read"):
        Sources((tmp_path / "gone.png",)).part(validation=True)
