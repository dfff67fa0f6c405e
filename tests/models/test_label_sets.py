"""Label sets on disk and of classifiers, and prototypes from real photos."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from service.config import load_settings
from service.errors import ConfigurationError
from service.models import packages
from service.models.label_sets import (
    check_new,
    load_label_sets,
    read_label_set,
    write_label_set,
)
from service.models.prototypes import pictures_by_label, prototypes
from service.models.store import load_model
from tests.photos import locate
from tests.tiny import Rotation, picture

DEFAULT = load_settings().model_store / "efficientnet-lite0-160" / "1"
ROWS = np.array([[1, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0.5, 0]], np.float32)
NAMES = ["cat", "dog", "car"]
WEIGHTS = "0" * 64


@pytest.fixture(scope="module")
def manifest():
    return packages.read_manifest(DEFAULT)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model("efficientnet-lite0-160", load_settings(dtype="float32"))


def written(folder, rows=ROWS, names=NAMES, weights=WEIGHTS, tensor="directions", name="pets"):
    file = folder / f"{name}.safetensors"
    text = names if isinstance(names, str) else json.dumps(names)
    save_file({tensor: torch.from_numpy(rows)}, file, {"names": text, "encoder": weights})
    return file


def test_a_written_set_is_read_back_with_unit_directions(tmp_path, manifest):
    file = write_label_set(tmp_path, manifest, "pets", NAMES, ROWS)
    kept = read_label_set(file, 4, manifest.encoder.sha256)
    assert (kept.name, kept.directions.names) == ("pets", tuple(NAMES))
    np.testing.assert_allclose(kept.directions.vectors, np.eye(4)[:3], atol=1e-7)
    (loaded,) = load_label_sets(
        manifest.model_copy(update={"label_sets": {}}), Rotation(), [tmp_path]
    )
    assert loaded.name == "pets"


def test_a_set_serves_the_purifier_and_mapper_it_was_made_with_and_no_others(tmp_path, manifest):
    part = packages.PartFile(file="purifier.safetensors", sha256="a" * 64)
    around = manifest.model_copy(update={"psm": packages.Psm(purifier=part)})

    file = write_label_set(tmp_path, around, "pets", NAMES, ROWS)

    assert read_label_set(file, 4, manifest.encoder.sha256, around.psm_digests).name == "pets"
    for other in ({}, {"purifier": "b" * 64}, {**around.psm_digests, "mapper": "c" * 64}):
        with pytest.raises(ConfigurationError, match="other weights"):
            read_label_set(file, 4, manifest.encoder.sha256, other)


def test_a_set_is_never_overwritten_nor_hides_a_declared_one(tmp_path, manifest):
    write_label_set(tmp_path, manifest, "pets", NAMES, ROWS)
    for name in ("pets", "imagenet"):
        with pytest.raises(ConfigurationError, match="already"):
            write_label_set(tmp_path, manifest, name, NAMES, ROWS)
    with pytest.raises(ConfigurationError, match="must match"):
        check_new([tmp_path], manifest, "../pets")


def test_the_name_of_a_declared_set_in_a_store_is_refused(tmp_path, manifest, model):
    folder = tmp_path / manifest.name / manifest.version / "label_sets"
    folder.mkdir(parents=True)
    written(folder, name="imagenet")
    with pytest.raises(ConfigurationError, match="exists already"):
        load_label_sets(manifest, model.pipeline.encoder, [tmp_path])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": ROWS[:, :3].copy()}, r"float32 \[labels, 4\], found float32 \[3, 3\]"),
        ({"rows": ROWS.astype(np.float64)}, "found float64"),
        ({"names": NAMES[:2]}, "2 names for 3 directions"),
        ({"names": ["cat", "dog", "cat"]}, "'cat' occurs twice"),
        ({"names": ["cat", " ", "car"]}, "non-empty"),
        ({"names": {"cat": 1}}, "must be a list"),
        ({"names": "["}, "not a JSON list"),
        ({"names": NAMES[:1], "rows": ROWS[:1].copy()}, "1 labels; allowed are 2"),
        ({"rows": np.full((3, 4), np.nan, np.float32)}, "'cat' is zero or not finite"),
        ({"rows": ROWS * np.array([[1], [0], [1]], np.float32)}, "'dog' is zero"),
        ({"rows": ROWS[[0, 1, 0]].copy()}, "'cat' and 'car' have the same direction"),
        ({"weights": "1" * 64}, "other weights"),
        ({"tensor": "rows"}, "one tensor, 'directions'"),
        ({"name": "My Pets"}, "must match"),
    ],
    ids=str,
)
def test_each_malformed_set_has_its_clear_error(tmp_path, changes, message):
    file = written(tmp_path, **changes)
    with pytest.raises(ConfigurationError, match=message):
        read_label_set(file, 4, WEIGHTS)


def test_a_file_that_is_no_safetensors_is_refused(tmp_path):
    file = tmp_path / "pets.safetensors"
    file.write_bytes(b"pickle")
    with pytest.raises(ConfigurationError, match="cannot read"):
        read_label_set(file, 4, WEIGHTS)


def test_the_default_package_has_the_thousand_imagenet_labels(model):
    (imagenet,) = model.label_sets
    names = imagenet.directions.names
    assert imagenet.name == "imagenet"
    assert len(set(names)) == 1000
    assert names[281] == "tabby, tabby cat"
    assert (names[134], names[517]) == ("crane, a bird", "crane, a machine")
    assert imagenet.directions.vectors.shape == (1000, 1280)


def test_a_package_of_an_encoder_without_classifier_cannot_declare_one(manifest):
    with pytest.raises(ConfigurationError, match="no classifier"):
        load_label_sets(manifest, Rotation(), [])


def test_names_of_another_digest_are_refused(manifest, model):
    declared = manifest.label_sets["imagenet"]
    other = declared.model_copy(
        update={"names": declared.names.model_copy(update={"sha256": "0" * 64})}
    )
    changed = manifest.model_copy(update={"label_sets": {"imagenet": other}})
    with pytest.raises(ConfigurationError, match="digest"):
        load_label_sets(changed, model.pipeline.encoder, [])


def cut(photo, folder, places):
    folder.mkdir(parents=True)
    with Image.open(locate(photo)) as image:
        for i, (left, top) in enumerate(places):
            image.convert("RGB").crop((left, top, left + 200, top + 200)).save(folder / f"{i}.png")


def test_prototypes_of_real_photos_tell_them_apart(tmp_path, model):
    cut("chelsea.png", tmp_path / "cat", [(100, 40), (150, 60)])
    cut("coffee.png", tmp_path / "coffee", [(100, 100), (300, 150)])
    pictures = pictures_by_label(tmp_path)
    seen = []
    rows = prototypes(pictures, model, 0.25, 10**7, lambda: seen.append(1))
    assert list(pictures) == ["cat", "coffee"]
    assert len(seen) == 4
    assert rows.shape == (2, 1280)
    again = prototypes(pictures, model, 0.25, 10**7, lambda: None)
    np.testing.assert_array_equal(rows, again)
    cut("chelsea.png", tmp_path / "query" / "cat", [(120, 20)])
    cut("coffee.png", tmp_path / "query" / "coffee", [(250, 80)])
    for i, row in enumerate(
        prototypes(pictures_by_label(tmp_path / "query"), model, 0.0, 10**7, lambda: None)
    ):
        assert (rows @ row).argmax() == i


def test_folders_that_hold_no_labels_have_clear_errors(tmp_path, model):
    with pytest.raises(ConfigurationError, match="not a folder"):
        pictures_by_label(tmp_path / "none")
    (tmp_path / "cat").mkdir()
    with pytest.raises(ConfigurationError, match="1 sub-folders"):
        pictures_by_label(tmp_path)
    (tmp_path / "dog").mkdir()
    (tmp_path / "cat" / "a.png").write_bytes(picture())
    with pytest.raises(ConfigurationError, match="dog holds no pictures"):
        pictures_by_label(tmp_path)
    (tmp_path / "dog" / "b.png").write_bytes(b"no picture")
    with pytest.raises(ConfigurationError, match=r"b\.png: "):
        prototypes(pictures_by_label(tmp_path), model, 0.25, 10**7, lambda: None)
