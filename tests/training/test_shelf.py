import os

import numpy as np
import pytest
from PIL import Image

from service.errors import ConfigurationError
from service.training.shelf import Shelf


@pytest.fixture
def large(tmp_path):
    rng = np.random.default_rng(0)
    file = tmp_path / "large.png"
    Image.fromarray(rng.integers(0, 256, (200, 300, 4), dtype=np.uint8), "RGBA").save(file)
    return file


def test_a_picture_is_as_small_as_it_may_be(large):
    assert Shelf(20).load(large, "RGBA").size == (30, 20)
    assert Shelf(500).load(large, "RGB").size == (300, 200)  # never made larger


def test_one_file_may_be_a_photo_and_a_cutout(large):
    shelf = Shelf(20)
    assert [shelf.load(large, mode).mode for mode in ("RGB", "RGBA", "RGB")] == [
        "RGB",
        "RGBA",
        "RGB",
    ]


def test_a_large_picture_is_read_once_even_by_another_run(large, tmp_path):
    first = Shelf(20, tmp_path / "copies").load(large, "RGBA")
    (copy,) = (tmp_path / "copies").iterdir()
    assert copy.stat().st_size < large.stat().st_size / 10
    status = large.stat()
    large.write_bytes(b"\0" * status.st_size)  # unreadable now, though it looks the same
    os.utime(large, ns=(status.st_atime_ns, status.st_mtime_ns))
    again = Shelf(20, tmp_path / "copies").load(large, "RGBA")
    assert np.array_equal(np.asarray(first), np.asarray(again))


def test_a_damaged_copy_is_made_anew(large, tmp_path):
    first = Shelf(20, tmp_path / "copies").load(large, "RGBA")
    (copy,) = (tmp_path / "copies").iterdir()
    whole = copy.read_bytes()
    copy.write_bytes(whole[: len(whole) // 2])
    again = Shelf(20, tmp_path / "copies").load(large, "RGBA")
    assert np.array_equal(np.asarray(first), np.asarray(again))
    assert copy.read_bytes() == whole


def test_what_a_killed_run_left_is_cleared_away_and_not_what_is_being_written(tmp_path):
    for name in ("left.1-2.partial", "new.3-4.partial"):
        (tmp_path / name).write_bytes(b"half")
    os.utime(tmp_path / "left.1-2.partial", (0, 0))
    Shelf(20, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["new.3-4.partial"]


def test_a_picture_that_changed_is_read_anew(large, tmp_path):
    Shelf(20, tmp_path / "copies").load(large, "RGBA")
    Image.new("RGBA", (300, 200), (1, 2, 3, 255)).save(large)
    assert Shelf(20, tmp_path / "copies").load(large, "RGBA").getpixel((5, 5)) == (1, 2, 3, 255)


def test_small_pictures_are_not_copied(tmp_path):
    Image.new("RGB", (60, 40)).save(tmp_path / "small.png")
    Shelf(20, tmp_path / "copies").load(tmp_path / "small.png", "RGB")
    assert not (tmp_path / "copies").exists()


def test_photos_are_seen_as_the_service_sees_them(tmp_path):
    """Upright by EXIF, and transparency over white; cut-outs keep theirs."""
    lying = Image.new("RGB", (30, 20), (200, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    lying.save(tmp_path / "lying.jpg", exif=exif)
    Image.new("RGBA", (30, 20), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    shelf = Shelf(50)
    assert shelf.load(tmp_path / "lying.jpg", "RGB").size == (20, 30)
    assert shelf.load(tmp_path / "clear.png", "RGB").getpixel((3, 3)) == (255, 255, 255)
    assert shelf.load(tmp_path / "clear.png", "RGBA").getpixel((3, 3))[3] == 0


def test_without_room_for_copies_training_goes_on(large, tmp_path, caplog):
    (tmp_path / "copies").write_text("a file where the folder should be")
    shelf = Shelf(20, tmp_path / "copies")
    assert shelf.load(large, "RGB").size == (30, 20)
    assert shelf.load(large, "RGBA").size == (30, 20)
    assert len([r for r in caplog.records if "are not kept" in r.message]) == 1


def test_a_file_that_is_no_picture_is_named(tmp_path):
    (tmp_path / "a.png").write_text("not a picture")
    with pytest.raises(ConfigurationError, match=r"a\.png is no picture"):
        Shelf(20).load(tmp_path / "a.png", "RGB")
