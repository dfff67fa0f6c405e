import numpy as np
import pytest
from PIL import Image

from service.errors import ConfigurationError
from service.training.scenes import Scenes
from service.training.sources import Sources

SIZE = (24, 32)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    photos, cutouts = [], []
    for i in range(4):
        rng = np.random.default_rng(i)
        photo = rng.integers(0, 120, (60 + 10 * i, 90, 3), dtype=np.uint8)
        photos.append(folder / f"photo{i}.png")
        Image.fromarray(photo).save(photos[-1])
    for i in range(3):
        cutout = np.zeros((40, 30, 4), np.uint8)
        cutout[8:32, 6:24] = (250, 10 * i, 0, 255)
        cutouts.append(folder / f"cutout{i}.png")
        Image.fromarray(cutout, "RGBA").save(cutouts[-1])
    return Sources(tuple(photos), tuple(cutouts))


def test_a_scene_depends_on_the_seed_and_its_number_alone(sources):
    scenes, again = Scenes(sources, SIZE, 5), Scenes(sources, SIZE, 5)
    late = again[37]
    assert np.array_equal(scenes[37], late)
    assert scenes[37].shape == (3, *SIZE)
    assert scenes[37].dtype == np.uint8
    assert not np.array_equal(Scenes(sources, SIZE, 6)[37], late)
    assert len({one.tobytes() for one in scenes.batch(range(40)).numpy()}) == 40


def test_cutouts_lie_on_white_on_colours_and_on_photos(sources):
    """Photos are dark here and cut-outs red, so that each part can be told."""
    found = Scenes(sources, SIZE, 1).batch(range(300)).numpy().astype(int)
    corners = found[:, :, 0, 0]
    red = ((found[:, 0] > 200) & (found[:, 2] < 60)).mean((1, 2))
    on_white = (corners == 255).all(1)
    assert 0.15 < on_white.mean() < 0.45  # half of six tenths
    assert 0.2 < (red > 0.02).mean() < 0.6  # cut-outs that kept their own content
    on_dark = (corners < 130).all(1) & (red > 0.02)
    assert on_dark.sum() > 10
    assert 0.25 < (red == 0).mean() < 0.75  # photos alone, and cut-outs filled with one


def test_without_cutouts_every_scene_is_a_crop(sources):
    found = Scenes(Sources(sources.photos), SIZE, 1).batch(range(50)).numpy()
    assert found.max() < 140
    assert found.std() > 5


def test_a_file_that_is_no_picture_is_left_out_and_told_once(sources, tmp_path, caplog):
    (tmp_path / "bad.png").write_text("not a picture")
    scenes = Scenes(Sources((*sources.photos, tmp_path / "bad.png")), SIZE, 0)
    again = Scenes(Sources((*sources.photos, tmp_path / "bad.png")), SIZE, 0)
    late = [again[i] for i in reversed(range(30))][::-1]
    assert np.array_equal(scenes.batch(range(30)).numpy(), np.stack(late))
    assert len([r for r in caplog.records if "bad.png is no picture" in r.message]) == 2


def test_nothing_but_unreadable_files_ends_the_run(tmp_path):
    (tmp_path / "a.png").write_text("not a picture")
    with pytest.raises(ConfigurationError, match=r"a\.png is no picture"):
        Scenes(Sources((tmp_path / "a.png",)), SIZE, 0)[0]
    with pytest.raises(ConfigurationError, match="no photos"):
        Scenes(Sources(()), SIZE, 0)
