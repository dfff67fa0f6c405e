"""Tiny random-weight image-text-to-text folders, written by transformers, one a family."""

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessorPil,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessorPil,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PreTrainedTokenizerFast,
    SiglipImageProcessorPil,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessorPil,
)

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
WORDS = (
    "what is this a an the cat dog car red blue in of picture yes no user assistant system : ? ."
)
SPECIAL = ("<pad>", "<unk>", "<s>", "</s>", "<image>", "<fake_token_around_image>", "<global-img>")
VOCABULARY = {w: i for i, w in enumerate((*SPECIAL, *WORDS.split()))}
IMAGE = VOCABULARY["<image>"]
TEXT = {
    **SMALL,
    "model_type": "llama",
    "num_key_value_heads": 2,
    "vocab_size": len(VOCABULARY),
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
CHAT = (
    "<s>{% for m in messages %}{{ m.role }} : {% for c in m.content %}"
    "{% if c.type == 'image' %}<image>{% else %}{{ c.text }} {% endif %}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}assistant : {% endif %}"
)


def tokenizer(chat=CHAT):
    words = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.decoder = decoders.Fuse()
    words.add_special_tokens([AddedToken(mark, special=True) for mark in SPECIAL])
    made = PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=list(SPECIAL[4:]),
    )
    made.chat_template = chat
    return made


def llava():
    vision = {**SMALL, "model_type": "clip_vision_model", "image_size": 32, "patch_size": 8}
    config = LlavaConfig(
        vision_config=vision, text_config=TEXT, image_token_id=IMAGE, image_seq_length=16
    )
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    return LlavaForConditionalGeneration(config), processor, CHAT


def llava_next():
    vision = {**SMALL, "model_type": "clip_vision_model", "image_size": 32, "patch_size": 8}
    grid = [[32, 64], [64, 64], [64, 32]]
    config = LlavaNextConfig(
        vision_config=vision, text_config=TEXT, image_token_id=IMAGE, image_grid_pinpoints=grid
    )
    processor = LlavaNextImageProcessorPil(
        size={"shortest_edge": 32},
        crop_size={"height": 32, "width": 32},
        image_grid_pinpoints=grid,
    )
    return LlavaNextForConditionalGeneration(config), processor, CHAT


def idefics3():
    vision = {**SMALL, "image_size": 32, "patch_size": 8}
    config = Idefics3Config(
        vision_config=vision, text_config=TEXT, image_token_id=IMAGE, scale_factor=2
    )
    processor = Idefics3ImageProcessorPil(
        size={"longest_edge": 32}, max_image_size={"longest_edge": 32}
    )
    return Idefics3ForConditionalGeneration(config), processor, CHAT


def smolvlm():
    vision = {**SMALL, "image_size": 32, "patch_size": 8}
    config = SmolVLMConfig(
        vision_config=vision, text_config=TEXT, image_token_id=IMAGE, scale_factor=2
    )
    processor = SmolVLMImageProcessorPil(
        size={"longest_edge": 32}, max_image_size={"longest_edge": 32}
    )
    return SmolVLMForConditionalGeneration(config), processor, CHAT


def paligemma():
    vision = {**SMALL, "model_type": "siglip_vision_model", "image_size": 32, "patch_size": 8}
    text = {**TEXT, "model_type": "gemma", "head_dim": 16}
    config = PaliGemmaConfig(
        vision_config=vision, text_config=text, image_token_id=IMAGE, projection_dim=32
    )
    processor = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    return PaliGemmaForConditionalGeneration(config), processor, None


MAKERS = {m.__name__: m for m in (llava, llava_next, idefics3, smolvlm, paligemma)}


def write(family, folder):
    """Write the family's tiny model, image processor and tokenizer."""
    torch.manual_seed(11)
    model, processor, chat = MAKERS[family]()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(std=0.3)  # or every picture gets the same answer
    model.eval().save_pretrained(folder, safe_serialization=True)
    processor.save_pretrained(folder)
    tokenizer(chat).save_pretrained(folder)
    return folder
