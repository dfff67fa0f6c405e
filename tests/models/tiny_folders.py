"""Tiny random-weight Hugging Face folders, written by transformers, one a family.

`python -m tests.models.tiny_folders FOLDER` writes the ViT that `make prove` attacks.
"""

import json
import sys

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BitImageProcessorPil,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    Dinov2Config,
    Dinov2Model,
    EfficientNetConfig,
    EfficientNetForImageClassification,
    EfficientNetImageProcessorPil,
    PreTrainedTokenizerFast,
    Siglip2Config,
    Siglip2ImageProcessorPil,
    Siglip2Model,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
TEXT = {**SMALL, "vocab_size": 99, "max_position_embeddings": 16}


def clip():
    vision = CLIPVisionConfig(**SMALL, image_size=32, patch_size=8, projection_dim=24)
    config = CLIPConfig(
        vision_config=vision.to_dict(),
        text_config=CLIPTextConfig(**TEXT, projection_dim=24).to_dict(),
        projection_dim=24,
    )
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    return CLIPModel(config), processor


def siglip():
    vision = {**SMALL, "image_size": 32, "patch_size": 8}
    config = SiglipConfig(vision_config=vision, text_config=TEXT)
    return SiglipModel(config), SiglipImageProcessorPil(size={"height": 32, "width": 32})


def siglip2():
    vision = {**SMALL, "num_patches": 16, "patch_size": 8}
    config = Siglip2Config(vision_config=vision, text_config=TEXT)
    return Siglip2Model(config), Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16)


def dinov2():
    config = Dinov2Config(**{**SMALL, "mlp_ratio": 2}, image_size=28, patch_size=7)
    processor = BitImageProcessorPil(
        size={"shortest_edge": 36},
        crop_size={"height": 28, "width": 28},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    return Dinov2Model(config), processor


def vit():
    config = ViTConfig(**SMALL, image_size=32, patch_size=8)
    return ViTForImageClassification(config), ViTImageProcessorPil(size={"height": 32, "width": 32})


def efficientnet():
    config = EfficientNetConfig(
        image_size=64, width_coefficient=0.2, depth_coefficient=0.2, hidden_dim=256
    )
    processor = EfficientNetImageProcessorPil(
        size={"height": 72, "width": 72},
        do_center_crop=True,
        crop_size={"height": 64, "width": 64},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.478, 0.473, 0.474],
        rescale_factor=1 / 127.5,
        rescale_offset=True,
        resample=0,
    )
    return EfficientNetForImageClassification(config), processor


MAKERS = {m.__name__: m for m in (clip, siglip, siglip2, dinov2, vit, efficientnet)}


LIVELY = 4.0


def write(family, folder, gain=1.0):
    """Write the family's tiny model and image processor; returns the stock model.

    Initial weights make a feature that hardly depends on the picture. A `gain` on the matrices (4:
    `LIVELY`) gives one that noise blurs and a small change can turn.
    """
    torch.manual_seed(7)
    model, processor = MAKERS[family]()
    with torch.no_grad():
        for parameter in model.parameters():  # some heads start at exactly zero
            if parameter.abs().max() == 0:
                parameter.normal_(std=0.05)
            if parameter.ndim == 4:  # random convolutions would fade the picture to nothing
                torch.nn.init.kaiming_normal_(parameter).mul_(1.5)
            elif parameter.ndim == 2:
                parameter.mul_(gain)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):  # and so would small gammas
                module.weight.fill_(1.0)
    model.eval().save_pretrained(folder, safe_serialization=True)
    processor.save_pretrained(folder)
    return model, processor


WORDS = "<pad> <unk> <s> </s> a photo of an . cat dog car picture red blue two".split()  # noqa: SIM905


def write_with_text(family, folder):
    """The same with a tokenizer of a few words; returns the stock model, reading its end token."""
    write(family, folder)
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        padding_side="right",
    ).save_pretrained(folder)
    file = folder / "config.json"
    config = json.loads(file.read_text())
    config["text_config"] |= {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    file.write_text(json.dumps(config))
    architecture = {"clip": CLIPModel, "siglip": SiglipModel, "siglip2": Siglip2Model}[family]
    return architecture.from_pretrained(folder).eval()


if __name__ == "__main__":
    write("vit", sys.argv[1], LIVELY)
