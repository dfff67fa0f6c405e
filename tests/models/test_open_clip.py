"""Checkpoints in the layout of open_clip, made from a stock CLIP: the same numbers come out."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPModel, CLIPVisionModelWithProjection

from service.config import load_settings
from service.errors import ConfigurationError
from service.models.hardened import harden
from service.models.open_clip import as_transformers, is_open_clip
from service.models.store import load_model, resolve
from tests.models import tiny_folders
from tests.models.answerer import tiny_mllms

SIDE = 32


def to_open_clip(stock):
    """The state dict of a stock CLIP as open_clip has it: the conversion, the other way round."""
    state, found = stock.state_dict(), {}

    def block(ours, theirs):
        for kind in ("weight", "bias"):
            joined = [state[f"{ours}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            found[f"{theirs}.attn.in_proj_{kind}"] = torch.cat(joined)
            found[f"{theirs}.attn.out_proj.{kind}"] = state[f"{ours}.self_attn.out_proj.{kind}"]
            found[f"{theirs}.ln_1.{kind}"] = state[f"{ours}.layer_norm1.{kind}"]
            found[f"{theirs}.ln_2.{kind}"] = state[f"{ours}.layer_norm2.{kind}"]
            found[f"{theirs}.mlp.c_fc.{kind}"] = state[f"{ours}.mlp.fc1.{kind}"]
            found[f"{theirs}.mlp.c_proj.{kind}"] = state[f"{ours}.mlp.fc2.{kind}"]

    for side, prefix in (("vision_model", "visual."), ("text_model", "")):
        for i in range(2):
            block(f"{side}.encoder.layers.{i}", f"{prefix}transformer.resblocks.{i}")
        positions = state[f"{side}.embeddings.position_embedding.weight"]
        found[f"{prefix}positional_embedding"] = positions
    seen, said = "vision_model.", "text_model."
    found["visual.class_embedding"] = state[f"{seen}embeddings.class_embedding"]
    found["visual.conv1.weight"] = state[f"{seen}embeddings.patch_embedding.weight"]
    found["token_embedding.weight"] = state[f"{said}embeddings.token_embedding.weight"]
    for kind in ("weight", "bias"):
        found[f"visual.ln_pre.{kind}"] = state[f"{seen}pre_layrnorm.{kind}"]
        found[f"visual.ln_post.{kind}"] = state[f"{seen}post_layernorm.{kind}"]
        found[f"ln_final.{kind}"] = state[f"{said}final_layer_norm.{kind}"]
    found["visual.proj"] = state["visual_projection.weight"].T
    found["text_projection"] = state["text_projection.weight"].T
    found["logit_scale"] = state["logit_scale"]
    return {name: value.clone().contiguous() for name, value in found.items()}


def write(stock, folder, **changes):
    folder.mkdir(parents=True)
    save_file(to_open_clip(stock), folder / "open_clip_model.safetensors")
    model = {
        "embed_dim": 24,
        "quick_gelu": True,
        "vision_cfg": {
            "image_size": SIDE, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16,
            "mlp_ratio": 2.0,
        },
        "text_cfg": {
            "context_length": 16, "vocab_size": 99, "width": 32, "layers": 2, "heads": 2,
            "mlp_ratio": 2.0,
        },
        **changes,
    }  # fmt: skip
    told = {"model_cfg": model, "preprocess_cfg": {"mean": [0.4] * 3, "std": [0.3] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(told))
    return folder


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    return tiny_folders.write("clip", tmp_path_factory.mktemp("stock") / "clip")[0].eval()


@pytest.fixture(scope="module")
def published(stock, tmp_path_factory):
    return write(stock, tmp_path_factory.mktemp("published") / "fare-clip")


def test_pictures_and_texts_have_the_features_of_the_same_model_in_transformers(
    stock, published, tmp_path
):
    made = CLIPModel.from_pretrained(as_transformers(published, tmp_path)).eval()
    pixels = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[97, 5, 7, 98, 98], [97, 9, 98, 98, 98]])
    with torch.no_grad():
        for kind, given in (("image", {"pixel_values": pixels}), ("text", {"input_ids": ids})):
            stock.config.text_config.eos_token_id = 98
            stock.text_model.eos_token_id = 98
            ours, theirs = (getattr(m, f"get_{kind}_features")(**given) for m in (made, stock))
            torch.testing.assert_close(ours.pooler_output, theirs.pooler_output)


def test_a_folder_of_that_layout_is_a_model_like_any_other(stock, published):
    assert is_open_clip(published)
    model = load_model(str(published), load_settings())
    assert model.pipeline.dimensions == 24
    assert model.preprocessing.size == (SIDE, SIDE)
    assert model.preprocessing.mean == (0.4,) * 3
    levels = torch.randint(0, 256, (1, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        pixels = (levels / 255 - 0.4) / 0.3
        wanted = stock.get_image_features(pixel_values=pixels).pooler_output
    wanted = torch.nn.functional.normalize(wanted.float())
    assert float((model.pipeline(levels.float()) * wanted).sum()) > 0.999


def test_other_weights_are_another_model(published, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    weights = load_file(published / "open_clip_model.safetensors")
    weights["visual.proj"] += 1
    save_file(weights, other / "open_clip_model.safetensors")
    config = (published / "open_clip_config.json").read_text()
    (other / "open_clip_config.json").write_text(config)
    settings = load_settings()
    one, two = (load_model(str(folder), settings).revision for folder in (published, other))
    assert one != two
    (other / "open_clip_config.json").write_text(config.replace("true", "false"))
    assert load_model(str(other), settings).revision not in {one, two}


@pytest.mark.parametrize("family", ["clip", "llava"])
def test_its_vision_tower_takes_the_place_of_a_models_own(published, stock, tmp_path, family):
    """Of a CLIP encoder, and of the eyes of a model that answers."""
    if family == "clip":
        tiny_folders.write("clip", tmp_path / "own", gain=2.0)
    else:
        tiny_mllms.write("llava", tmp_path / "own")
    settings = load_settings()
    model = load_model(str(tmp_path / "own"), settings)
    digest = resolve(str(tmp_path / "own"), settings).encoder.sha256
    hardened = harden(model.pipeline.encoder, published, digest)
    wanted = CLIPVisionModelWithProjection.from_pretrained(
        as_transformers(published, tmp_path / "cache")
    ).state_dict()
    name = "encoder.layers.1.mlp.fc1.weight"
    (found,) = (value for own, value in hardened.named_parameters() if own.endswith(name))
    torch.testing.assert_close(found.float(), wanted[f"vision_model.{name}"], rtol=0.01, atol=0.01)
    assert not any(
        torch.equal(value, found)
        for own, value in model.pipeline.encoder.named_parameters()
        if own.endswith(name)
    )


def test_positions_are_resampled_where_the_resolution_is_another(published, tmp_path):
    """LLaVA sees at 336 pixels what published robust encoders were trained at 224 for."""
    folder = write(tiny_folders.write("clip", tmp_path / "stock")[0], tmp_path / "open")
    weights = load_file(folder / "open_clip_model.safetensors")
    small = weights["visual.positional_embedding"]
    flat = torch.cat([small[:1], torch.full((9, 32), 0.25)])
    save_file(
        {**weights, "visual.positional_embedding": flat}, folder / "open_clip_model.safetensors"
    )
    model = load_model(str(published), load_settings())
    hardened = harden(model.pipeline.encoder, folder, "any")
    (positions,) = (
        value
        for name, value in hardened.named_parameters()
        if name.endswith("position_embedding.weight")
    )
    assert positions.shape == (17, 32)
    torch.testing.assert_close(positions[1:].float(), torch.full((16, 32), 0.25))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"vision_cfg": {"timm_model_name": "vit_small"}}, "is of no plain CLIP"),
        ({"vision_cfg": {"layers": [2, 2], "width": 32}}, "is of no plain CLIP"),
        ({"vision_cfg": {"layers": 3, "width": 64}}, "lacks 'visual.transformer.resblocks.2"),
    ],
)
def test_other_architectures_are_refused(stock, tmp_path, change, reason):
    folder = write(stock, tmp_path / "open", **change)
    with pytest.raises(ConfigurationError, match=reason):
        load_model(str(folder), load_settings())


@pytest.mark.parametrize(
    ("where", "what"),
    [
        ("vision_cfg", {"pool_type": "avg"}),
        ("vision_cfg", {"attentional_pool": True}),
        ("vision_cfg", {"head_width": 12}),
        ("text_cfg", {"no_causal_mask": True}),
        ("preprocess_cfg", {"resize_mode": "squash"}),
    ],
)
def test_what_would_be_another_function_is_refused(stock, tmp_path, where, what):
    folder = write(stock, tmp_path / "open")
    file = folder / "open_clip_config.json"
    told = json.loads(file.read_text())
    (told if where in told else told["model_cfg"])[where].update(what)
    file.write_text(json.dumps(told))
    with pytest.raises(ConfigurationError, match="is of no plain CLIP"):
        load_model(str(folder), load_settings())


def test_tensors_beside_a_plain_clip_are_refused(stock, tmp_path):
    folder = write(stock, tmp_path / "open")
    file = folder / "open_clip_model.safetensors"
    gamma = {"visual.transformer.resblocks.0.ls_1.gamma": torch.ones(32)}
    save_file({**load_file(file), **gamma}, file)
    with pytest.raises(ConfigurationError, match="beside a plain CLIP"):
        load_model(str(folder), load_settings())


def test_an_altered_conversion_is_made_anew(published, tmp_path):
    made = as_transformers(published, tmp_path)
    file = made / "model.safetensors"
    good = file.read_bytes()
    file.write_bytes(good[:-4] + b"oops")
    assert as_transformers(published, tmp_path) == made
    assert file.read_bytes() == good


def test_a_tokenizer_that_came_later_is_taken(stock, tmp_path):
    folder = write(stock, tmp_path / "open")
    before = as_transformers(folder, tmp_path / "cache")
    (folder / "tokenizer.json").write_text("{}")
    after = as_transformers(folder, tmp_path / "cache")
    assert after != before
    assert (after / "tokenizer.json").is_file()


def test_weights_of_another_activation_are_refused(stock, published, tmp_path):
    other = write(stock, tmp_path / "open", quick_gelu=False)
    model = load_model(str(published), load_settings())
    with pytest.raises(ConfigurationError, match="hidden_act is gelu, this model's is quick_gelu"):
        harden(model.pipeline.encoder, other, "any")


def test_pickles_are_refused(stock, tmp_path):
    folder = write(stock, tmp_path / "open")
    (folder / "open_clip_model.safetensors").rename(folder / "open_clip_pytorch_model.bin")
    with pytest.raises(ConfigurationError, match=r"no \.safetensors weights"):
        load_model(str(folder), load_settings())


def test_a_model_without_such_a_tower_is_told(published, tmp_path):
    tiny_folders.write("vit", tmp_path / "vit")
    model = load_model(str(tmp_path / "vit"), load_settings())
    with pytest.raises(ConfigurationError, match="this model has none of its depth"):
        harden(model.pipeline.encoder, published, "any")
