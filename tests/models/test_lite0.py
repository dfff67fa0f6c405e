import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import EfficientNetConfig, EfficientNetForImageClassification

from service.config import load_settings
from service.models.lite0 import Lite0, fold_checkpoint
from service.models.packages import read_manifest
from service.models.store import load_model
from service.pictures.decode import decode
from service.pictures.preprocess import preprocess
from tests.photos import locate


@pytest.fixture(scope="module")
def published():
    settings = load_settings()
    manifest = read_manifest(settings.model_store / "efficientnet-lite0-160" / "1")
    spec = importlib.util.find_spec(manifest.encoder.module)
    file = Path(spec.submodule_search_locations[0]) / manifest.encoder.file
    return torch.load(file, weights_only=True)


@pytest.fixture(scope="module")
def folded(published):
    model = Lite0()
    model.load_state_dict(fold_checkpoint(published))
    return model.eval()


@pytest.fixture(scope="module")
def photos():
    how = load_model("efficientnet-lite0-160", load_settings()).preprocessing
    names = ("astronaut.png", "chelsea.png", "coffee.png")
    tensors = [preprocess(decode(locate(n).read_bytes(), 10**7), how) for n in names]
    return torch.from_numpy(np.stack(tensors)).float()


def stock(published):
    """The same network in stock transformers, its squeeze-excite gates opened to exactly 1."""
    config = EfficientNetConfig(
        hidden_act="relu6",
        depthwise_padding=[],
        batch_norm_eps=1e-3,
        hidden_dim=1280,
        image_size=224,
        width_coefficient=1.0,
        depth_coefficient=1.0,
        num_labels=1000,
    )
    model = EfficientNetForImageClassification(config).eval()
    own = model.state_dict()
    parts = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    new = {}

    def norm(target, source):
        new.update({f"{target}.{p}": published[f"{source}.{p}"] for p in parts})

    new["efficientnet.embeddings.convolution.weight"] = published["_conv_stem.weight"]
    norm("efficientnet.embeddings.batchnorm", "_bn0")
    new["efficientnet.encoder.top_conv.weight"] = published["_conv_head.weight"]
    norm("efficientnet.encoder.top_bn", "_bn1")
    for i in range(16):
        old, block = f"_blocks.{i}", f"efficientnet.encoder.blocks.{i}"
        if f"{old}._expand_conv.weight" in published:
            new[f"{block}.expansion.expand_conv.weight"] = published[f"{old}._expand_conv.weight"]
            norm(f"{block}.expansion.expand_bn", f"{old}._bn0")
        new[f"{block}.depthwise_conv.depthwise_conv.weight"] = published[
            f"{old}._depthwise_conv.weight"
        ]
        norm(f"{block}.depthwise_conv.depthwise_norm", f"{old}._bn1")
        new[f"{block}.projection.project_conv.weight"] = published[f"{old}._project_conv.weight"]
        norm(f"{block}.projection.project_bn", f"{old}._bn2")
    new["classifier.weight"], new["classifier.bias"] = (
        published["_fc.weight"],
        published["_fc.bias"],
    )
    for name, tensor in own.items():
        if "squeeze_excite" in name:
            new[name] = torch.full_like(tensor, 50.0 if name.endswith("expand.bias") else 0.0)
    model.load_state_dict(new)
    return model


def test_folded_network_equals_the_published_one(published, folded, photos):
    pixels = (photos / 255 - 127 / 255) / (128 / 255)
    with torch.inference_mode():
        reference = stock(published)(pixel_values=pixels).logits
        found = folded.classifier(folded.pooled(pixels))
    assert (reference - found).abs().max() < 1e-4 * reference.abs().max()


def test_it_knows_a_cat_and_a_cup(folded, photos):
    pixels = (photos / 255 - 127 / 255) / (128 / 255)
    with torch.inference_mode():
        top = folded.classifier(folded.pooled(pixels)).topk(3).indices
    assert {281, 282, 285} & set(top[1].tolist())  # tabby, tiger cat, Egyptian cat
    assert {967, 968, 504} & set(top[2].tolist())  # espresso, cup, coffee mug


def test_tokens_average_to_the_pooled_feature(folded, photos):
    with torch.inference_mode():
        tokens = folded.tokens(photos / 255)
        assert tokens.shape == (3, 25, 1280)
        torch.testing.assert_close(tokens.mean(1), folded.pooled(photos / 255))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_feature_of_a_picture_does_not_depend_on_its_row_or_neighbours(photos, dtype):
    """One shape of 8 rows: the same picture in any row, among any others, to the last bit."""
    pipeline = load_model("efficientnet-lite0-160", load_settings(dtype=dtype)).pipeline
    generator = torch.Generator().manual_seed(3)
    others = torch.rand(8, 3, 160, 160, generator=generator) * 255
    alone = torch.zeros(8, 3, 160, 160)
    alone[0] = photos[0]
    reference = pipeline(alone)[0]
    for row in range(8):
        batch = others.clone()
        batch[row] = photos[0]
        assert torch.equal(pipeline(batch)[row], reference)
