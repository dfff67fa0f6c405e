import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from service.config import load_settings
from service.errors import ConfigurationError
from service.models.families import load_encoder
from service.models.processors import load_preprocessing
from service.models.store import load_model
from service.pictures.preprocess import preprocess
from tests.models import tiny_folders
from tests.photos import locate


@pytest.fixture(scope="module", params=sorted(tiny_folders.MAKERS))
def family(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    model, processor = tiny_folders.write(request.param, folder)
    return request.param, folder, model, processor


@pytest.fixture(scope="module")
def photo():
    return Image.open(locate("chelsea.png")).convert("RGB")


def stock_feature(name, model, pixels):
    """What the family's own classes give, by the documentation of transformers."""
    with torch.inference_mode():
        if name in {"clip", "siglip"}:
            found = model.get_image_features(pixel_values=pixels)
            return found if isinstance(found, torch.Tensor) else found.pooler_output
        if name == "dinov2":
            return model(pixel_values=pixels).pooler_output
        if name == "vit":
            return model.vit(pixel_values=pixels).last_hidden_state[:, 0]
        return model.efficientnet(pixel_values=pixels).pooler_output


def test_preprocessing_equals_the_models_own_to_the_last_bit(family, photo):
    name, folder, _, processor = family
    how = load_preprocessing(folder)
    x = preprocess(photo, how)
    ours = (x / 255 - np.array(how.mean)[:, None, None]) / np.array(how.std)[:, None, None]
    stock = processor(photo, return_tensors="np")["pixel_values"][0]
    if name == "siglip2":  # patches, of a grid that keeps the aspect: ours is one fixed square
        assert x.shape == (3, 32, 32)
        return
    assert stock.shape == ours.shape
    step = 1 / 255 / min(how.std)
    assert np.abs(stock - ours).max() < 0.01 * step


def test_pooled_feature_equals_the_stock_model(family):
    name, folder, model, _ = family
    encoder = load_encoder(folder)
    height, width = load_preprocessing(folder).size
    pixels = torch.randn(3, 3, height, width, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        pooled = encoder.pooled(pixels)
    assert pooled.shape == (3, encoder.dimensions)
    if name == "siglip2":
        patches = pixels.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 4, 5, 1)
        with torch.inference_mode():
            stock = model.vision_model(
                pixel_values=patches.reshape(3, 16, -1),
                pixel_attention_mask=torch.ones(3, 16, dtype=torch.int64),
                spatial_shapes=torch.tensor([[4, 4]] * 3),
            ).pooler_output
    else:
        stock = stock_feature(name, model, pixels)
    torch.testing.assert_close(pooled, stock, atol=1e-5, rtol=1e-4)
    assert pooled.std(0).max() > 1e-3  # the picture matters


def test_tokens_are_a_map_over_the_picture(family):
    _, folder, _, _ = family
    encoder = load_encoder(folder)
    height, width = load_preprocessing(folder).size
    with torch.inference_mode():
        tokens = encoder.tokens(torch.zeros(2, 3, height, width))
    expected = {"efficientnet": 4}.get(family[0], 16)
    assert tokens.shape[:2] == (2, expected)


def test_a_folder_can_be_served(family):
    _, folder, _, _ = family
    model = load_model(str(folder), load_settings(dtype="float32"))
    height, width = model.preprocessing.size
    features = model.pipeline(torch.full((model.batch_size, 3, height, width), 100.0))
    assert features.shape == (model.batch_size, model.pipeline.dimensions)
    assert (features.norm(dim=1) - 1).abs().max() < 1e-6
    assert model.revision.startswith("sha256:")


def test_a_missing_weight_is_refused_rather_than_drawn_at_random(tmp_path):
    tiny_folders.write("vit", tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    gone = next(name for name in weights if "query" in name or "q_proj" in name)
    del weights[gone]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ConfigurationError, match="would be random"):
        load_encoder(tmp_path)


def test_a_family_that_is_not_known_is_refused_with_the_known_ones(tmp_path):
    from transformers import BertConfig

    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(ConfigurationError, match="'bert' are not supported; supported are clip"):
        load_encoder(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_broken_config_is_one_clear_error(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigurationError, match=str(tmp_path)):
        load_encoder(tmp_path)
