import pytest

from service.errors import ConfigurationError
from service.pictures.contents import content_digest, distinct, set_digest


def files(folder, *contents):
    folder.mkdir()
    for i, content in enumerate(contents):
        (folder / f"{i}.png").write_bytes(content)
    return sorted(folder.iterdir())


def test_a_digest_follows_what_a_file_holds_and_not_its_name(tmp_path):
    one, same, other = files(tmp_path / "a", b"cat", b"cat", b"dog")
    assert content_digest(one) == content_digest(same) != content_digest(other)


def test_a_set_is_its_contents_in_any_order(tmp_path):
    a, b, c = files(tmp_path / "a", b"cat", b"dog", b"cat")
    assert set_digest([a, b]) == set_digest([b, a]) == set_digest([b, c])
    assert len({set_digest(some) for some in ([a], [a, b], [a, b, c])}) == 3


def test_copies_are_one_file_in_an_order_that_no_name_changes(tmp_path):
    ours = distinct(files(tmp_path / "a", b"cat", b"dog", b"cat", b"cow"))
    theirs = distinct(files(tmp_path / "b", b"cow", b"cat", b"dog"))
    assert [f.read_bytes() for f in ours] == [f.read_bytes() for f in theirs]
    assert len(ours) == 3


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match=r"gone\.png cannot be read"):
        content_digest(tmp_path / "gone.png")
