"""On a tiny encoder of photos sorted by label; the whole command is run in tests/training."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from service.certificate.labels import Directions
from service.config import load_settings
from service.errors import ConfigurationError
from service.evaluation.stability.measure import Effort, bare_features, smooth
from service.evaluation.stability.run import Ground, evaluate
from service.evaluation.stability.variants import variants
from service.models.lanes import Lanes
from tests.cli.conftest import run_fcs
from tests.evaluation.conftest import picture
from tests.models.parts import small_mapper, small_unet, with_parts
from tests.photos import locate

EFFORT = Effort(
    samples=16, certified=2, certified_samples=60, epsilons=(0.0, 0.02), confidence=0.99, seed=0
)


@pytest.fixture
def lanes():
    pool = Lanes(1)
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def sorted_photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    for label, name in (("a", "astronaut.png"), ("a", "chelsea.png"), ("b", "coffee.png")):
        (root / label).mkdir(exist_ok=True)
        shutil.copyfile(locate(name), root / label / name)
    return root


def test_every_row_that_differs_is_a_variant(vit):
    names = [name for name, _ in variants(with_parts(vit, small_unet(), small_mapper(32)))]
    assert names == ["FS", "FS+Mapper", "FS+Purifier", "FS+PSM"]
    assert [name for name, _ in variants(vit)] == ["FS"]
    assert [name for name, _ in variants(with_parts(vit, small_unet(), None))] == [
        "FS",
        "FS+Purifier",
    ]


def test_smoothed_features_are_means_of_the_served_function(vit, lanes):
    x = picture(vit)
    bare = bare_features(vit, [x], lanes)
    seen = smooth(vit, [x], bare, 0.25, EFFORT, lanes, lambda: None)
    np.testing.assert_allclose(np.linalg.norm(seen.means, axis=1), 1, atol=1e-9)
    np.testing.assert_allclose(seen.clean, bare, atol=1e-6)
    # |mean| <= 1: the mean is at least as close to any direction as its members on average.
    assert 0 < seen.cosines[0] <= seen.means[0] @ bare[0]
    again = smooth(vit, [x], bare, 0.25, EFFORT, lanes, lambda: None)
    assert np.array_equal(again.means, seen.means)
    more_noise = smooth(vit, [x], bare, 1.0, EFFORT, lanes, lambda: None)
    assert more_noise.cosines[0] < seen.cosines[0]


def test_a_report_tells_what_is_right_and_certified(lively_vit, sorted_photos):
    files = sorted(sorted_photos.rglob("*.png"))
    settings = load_settings(model=str(lively_vit))
    effort = replace(EFFORT, certified=1)
    report = evaluate(settings, files, sorted_photos, (0.1,), effort)
    bare, smoothed = report.rows
    assert (bare.variant, bare.sigma, bare.retrieval) == ("none", 0.0, 1.0)
    assert (smoothed.variant, smoothed.sigma) == ("FS", 0.1)
    assert 0 <= smoothed.neighbour <= 1
    assert smoothed.bounds[0] > smoothed.bounds[1] > -1
    for shares in (smoothed.certified_retrieval, smoothed.certified_label):
        assert 1 >= shares[0] >= shares[1] >= 0
    assert smoothed.certified_label[0] <= smoothed.label
    assert smoothed.ms_per_sample > 0
    assert report.as_json()["rows"][1]["variant"] == "FS"


def test_pictures_without_labels_are_only_retrieved(lively_vit, sorted_photos):
    files = sorted(sorted_photos.rglob("*.png"))
    settings = load_settings(model=str(lively_vit))
    report = evaluate(settings, files, None, (0.1,), replace(EFFORT, certified=0))
    assert report.rows[1].neighbour is report.rows[1].label is None
    assert report.rows[1].bounds == ()


def test_what_cannot_be_measured_is_refused(lively_vit, sorted_photos):
    files = sorted(sorted_photos.rglob("*.png"))
    settings = load_settings(model=str(lively_vit))
    with pytest.raises(ConfigurationError, match="no noise level 7"):
        evaluate(settings, files, None, (7.0,), EFFORT)
    with pytest.raises(ConfigurationError, match="two pictures"):
        evaluate(settings, files[:1], None, (), EFFORT)


def test_the_same_picture_twice_is_scored_once(lively_vit, sorted_photos, tmp_path):
    shutil.copytree(sorted_photos, tmp_path / "twice")
    shutil.copyfile(locate("chelsea.png"), tmp_path / "twice" / "b" / "again.png")
    files = sorted((tmp_path / "twice").rglob("*.png"))
    settings = load_settings(model=str(lively_vit))
    report = evaluate(settings, files, None, (0.1,), replace(EFFORT, certified=0))
    assert (len(files), report.pictures) == (4, 3)
    assert report.rows[0].retrieval == 1.0


@pytest.mark.parametrize("epsilon", [-0.1, float("nan"), float("inf")])
def test_a_radius_that_is_none_is_refused(epsilon):
    with pytest.raises(ConfigurationError, match="a radius is finite and not negative"):
        replace(EFFORT, epsilons=(0.25, epsilon))


@pytest.mark.parametrize(
    ("plot", "reason"), [("a.txt", "the ending is one of"), ("nowhere/a.png", "cannot be written")]
)
def test_a_plot_that_cannot_be_is_told_before_anything_is_measured(tmp_path, plot, reason):
    ended = run_fcs(tmp_path, "evaluate", "stability", locate("coffee.png"), "--plot", plot)
    assert ended.returncode == 2
    assert reason in ended.stderr
    assert "reading" not in ended.stderr


def test_a_picture_is_not_among_those_its_label_is_learned_from(lively_vit, sorted_photos):
    files = sorted(sorted_photos.rglob("*.png"))
    settings = load_settings(model=str(lively_vit))
    report = evaluate(settings, files, sorted_photos, (0.1,), replace(EFFORT, certified=3))
    # coffee.png is its label's only picture: not scored. The other two are, of three certified.
    bare, smoothed = report.rows
    assert bare.label in {0.0, 0.5, 1.0}
    assert smoothed.label in {0.0, 0.5, 1.0}


def test_a_prototype_is_of_the_other_pictures_of_its_label():
    turned = np.radians([0, 40, 90, 100, 200])
    bare = np.stack([np.cos(turned), np.sin(turned)], 1)
    ground = Ground([], bare, ["a", "a", "b", "b", "c"], [], Directions(("0", "1"), bare[:2]))
    assert ground.prototypes(4) is None
    without = ground.prototypes(0)
    np.testing.assert_allclose(without.vectors[without.names.index("a")], bare[1], atol=1e-12)


def test_labels_that_cannot_be_told_are_refused(lively_vit, sorted_photos, tmp_path):
    settings = load_settings(model=str(lively_vit))
    one = sorted((sorted_photos / "a").rglob("*.png"))
    with pytest.raises(ConfigurationError, match="one label: 'a'"):
        evaluate(settings, one, sorted_photos, (0.1,), EFFORT)
    with pytest.raises(ConfigurationError, match="is in no sub-folder"):
        evaluate(settings, one, sorted_photos / "a", (0.1,), EFFORT)
    for name in ("x.png", "y.png"):
        shutil.copyfile(locate("chelsea.png"), tmp_path / name)
    with pytest.raises(ConfigurationError, match="are the same"):
        evaluate(settings, sorted(tmp_path.iterdir()), None, (0.1,), EFFORT)
