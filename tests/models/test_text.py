import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from service.config import load_settings
from service.errors import ConfigurationError, ServiceError
from service.models.store import load_model
from service.models.text import load_text_tower
from tests.models import tiny_folders

TEXTS = ["a photo of a cat .", "a red car", "two blue dog"]
NONE = [None] * 3


@pytest.fixture(scope="module", params=["clip", "siglip", "siglip2"])
def family(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, folder, tiny_folders.write_with_text(request.param, folder)


def test_directions_equal_the_stock_model_padded_as_its_users_pad(family):
    name, folder, model = family
    tower = load_text_tower(folder)
    ours = tower.encode(TEXTS, NONE)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    given = tokenizer(TEXTS, padding="max_length", max_length=16, return_tensors="pt")
    mask = {"attention_mask": given["attention_mask"]} if name == "clip" else {}
    with torch.inference_mode():
        found = model.get_text_features(input_ids=given["input_ids"], **mask)
    stock = found if isinstance(found, torch.Tensor) else found.pooler_output
    stock = torch.nn.functional.normalize(stock, dim=1).numpy()
    np.testing.assert_allclose(ours, stock, atol=2e-6)
    assert ours.dtype == np.float32
    assert np.abs(np.linalg.norm(ours, axis=1) - 1).max() < 1e-6
    assert np.abs(ours[0] - ours[1]).max() > 1e-3


def test_alone_and_among_others_a_text_has_the_same_direction(family):
    _, folder, _ = family
    together = load_text_tower(folder).encode(TEXTS, NONE)
    alone = load_text_tower(folder).encode(TEXTS[1:2], NONE[:1])
    np.testing.assert_array_equal(together[1:2], alone)


def test_known_texts_are_not_computed_again(family, monkeypatch):
    _, folder, _ = family
    tower = load_text_tower(folder)
    first = tower.encode(TEXTS, NONE)
    monkeypatch.setattr(tower, "_model", None)
    np.testing.assert_array_equal(tower.encode_later(TEXTS, NONE).result(), first)


def test_the_cache_forgets_what_was_not_used_for_longest(family, monkeypatch):
    _, folder, _ = family
    monkeypatch.setattr("service.models.text._CACHED", 2)
    tower = load_text_tower(folder)
    tower.encode([*TEXTS[:2], TEXTS[0], TEXTS[2]], [*NONE, None])
    assert list(tower._cache) == [TEXTS[0], TEXTS[2]]


def test_a_text_with_too_many_tokens_is_refused_with_its_field(family):
    _, folder, _ = family
    tower = load_text_tower(folder)
    with pytest.raises(ServiceError, match="at most 16") as caught:
        tower.encode(["a cat", "cat " * 15], ["labels[0]", "labels[1]"])
    assert caught.value.param == "labels[1]"


def test_the_model_takes_text_labels_and_says_so(family):
    _, folder, _ = family
    model = load_model(str(folder), load_settings(dtype="float32"))
    assert model.info.text_labels
    assert model.info.label_sets == ()


@pytest.mark.parametrize("name", ["clip", "dinov2"])
def test_without_a_tokenizer_or_a_text_side_there_are_no_text_labels(name, tmp_path):
    tiny_folders.write(name, tmp_path)
    assert load_text_tower(tmp_path) is None
    assert not load_model(str(tmp_path), load_settings(dtype="float32")).info.text_labels


def test_missing_text_weights_mean_no_text_labels_rather_than_random_ones(tmp_path):
    tiny_folders.write_with_text("clip", tmp_path)
    file = tmp_path / "model.safetensors"
    weights = {k: v for k, v in load_file(file).items() if not k.startswith("text_model.")}
    save_file(weights, file, metadata={"format": "pt"})
    assert load_text_tower(tmp_path) is None


def test_a_broken_tokenizer_is_one_clear_error(tmp_path):
    tiny_folders.write_with_text("clip", tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ConfigurationError, match="text tower"):
        load_text_tower(tmp_path)
