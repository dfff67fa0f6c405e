"""Each family against transformers' own generation, on tiny folders read by the real loader."""

import numpy as np
import pytest
import torch
from PIL import Image

from service.errors import ConfigurationError, ServiceError
from service.models.answerer.decoding import Decoder
from service.models.answerer.family import VisualTokens
from service.models.answerer.load import family_of, load_family, load_tokenizer
from service.models.answerer.prompt import Prompter
from service.models.processors import load_processor
from service.types import Generation, Message
from tests.models import tiny_folders
from tests.models.answerer import tiny_mllms

FAMILIES = sorted(tiny_mllms.MAKERS)
ASKED = (Message("user", (None, "what is this ?")),)


class Loaded:
    """A family read from its folder, and what stands around it."""

    def __init__(self, folder):
        self.folder = folder
        self.family = load_family(folder)
        kind, config = family_of(folder)
        self.how = kind.preprocessing(folder, config)
        self.eyes = VisualTokens(self.family, self.how.size)
        self.prompter = Prompter(self.family, load_tokenizer(folder), self.eyes.shape[0], 256)

    def pixels(self, seed):
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(1, 3, *self.how.size, generator=generator)

    def inputs(self, prompt, pixels):
        """As the unwrapped model takes a picture."""
        stock = {"input_ids": prompt.ids, "attention_mask": torch.ones_like(prompt.ids)}
        match self.folder.name:
            case "llava_next":
                sizes = torch.tensor([pixels.shape[2:]] * len(pixels))
                return {**stock, "pixel_values": self.family.tiles(pixels), "image_sizes": sizes}
            case "idefics3" | "smolvlm":
                return {**stock, "pixel_values": pixels[None]}
            case "paligemma":
                return {**stock, "pixel_values": pixels, **self.family.prefill_options(prompt.ids)}
        return {**stock, "pixel_values": pixels}

    def stock_answer(self, prompt, pixels, tokens=12):
        made = self.family.model.generate(
            **self.inputs(prompt, pixels), max_new_tokens=tokens, do_sample=False
        )[0, prompt.length :].tolist()
        return made[: made.index(3)] if 3 in made else made


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    root = tmp_path_factory.mktemp("mllms")
    return {name: Loaded(tiny_mllms.write(name, root / name)) for name in FAMILIES}


def answered(decoder, row):
    while row.finish is None:
        decoder.step()
    return row.ids


@pytest.mark.parametrize("name", FAMILIES)
def test_the_answer_is_the_unwrapped_models_token_for_token(loaded, name):
    one = loaded[name]
    prompt = one.prompter.write(ASKED, "prompt")
    answers = []
    for seed in range(4):
        pixels = one.pixels(seed)
        maps = one.eyes.pooled(pixels).view(-1, *one.eyes.shape)  # flattened, and back
        decoder = Decoder(one.family, [3])
        answers.append(answered(decoder, decoder.begin(prompt, maps, Generation(12))))
        assert answers[-1] == one.stock_answer(prompt, pixels)
    assert len(set(map(tuple, answers))) > 1  # the picture matters


@pytest.mark.parametrize("name", FAMILIES)
def test_two_pictures_are_shown_in_their_order(loaded, name):
    one = loaded[name]
    asked = (Message("user", (None, None, "what is this ?")),)
    prompt = one.prompter.write(asked, "prompt")
    pixels = torch.cat([one.pixels(0), one.pixels(1)])
    decoder = Decoder(one.family, [3])
    ids = answered(decoder, decoder.begin(prompt, one.eyes.tokens(pixels), Generation(8)))
    assert ids == one.stock_answer(prompt, pixels, 8)


@pytest.mark.parametrize("name", FAMILIES)
def test_answers_that_join_and_leave_say_what_they_say_alone(loaded, name):
    one = loaded[name]
    long = (Message("user", (None, "what is this red cat in the picture of a dog ?")),)
    wanted = []
    for seed, asked, tokens in ((0, ASKED, 10), (1, long, 4), (2, ASKED, 7), (3, long, 9)):
        prompt = one.prompter.write(asked, "prompt")
        maps = one.eyes.tokens(one.pixels(seed))
        alone = Decoder(one.family, [])
        wanted.append((prompt, maps, Generation(tokens)))
        wanted[-1] += (answered(alone, alone.begin(*wanted[-1])),)
    decoder = Decoder(one.family, [])
    rows = [decoder.begin(*wanted[0][:3])]
    decoder.step()
    rows.append(decoder.begin(*wanted[1][:3]))
    left = decoder.begin(*wanted[3][:3])
    decoder.step()
    rows.append(decoder.begin(*wanted[2][:3]))
    decoder.leave(left)
    while decoder.rows:
        decoder.step()
    assert [row.ids for row in rows] == [told[3] for told in wanted[:3]]
    assert len(left.ids) == 2


@pytest.mark.parametrize("name", FAMILIES)
def test_the_likelihood_of_an_answer_is_the_unwrapped_models(loaded, name):
    """Of every picture of a batch, and of two pictures in each prompt of one."""
    one = loaded[name]
    answers = [[11, 12, 13], [14]]
    for pictures in (1, 2):
        prompt = one.prompter.write(
            (Message("user", (*[None] * pictures, "what is this ?")),), "prompt"
        )
        groups = [
            torch.cat([one.pixels(10 * row + i) for i in range(pictures)]) for row in range(3)
        ]
        shown = [list(one.eyes.tokens(pixels)) for pixels in groups]
        found = Decoder(one.family, []).likelihoods(prompt, shown, answers)
        assert found.shape == (3, 2)
        assert found[0].tolist() != found[1].tolist()
        for pixels, row in zip(groups, found, strict=True):
            expected = [stock_likelihood(one, prompt, pixels, answer) for answer in answers]
            assert row.tolist() == pytest.approx(expected, abs=1e-4)


def stock_likelihood(one, prompt, pixels, answer):
    inputs = one.inputs(prompt, pixels)
    more = torch.tensor([answer])
    inputs["input_ids"] = torch.cat([prompt.ids, more], 1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if "token_type_ids" in inputs:
        inputs["token_type_ids"] = torch.cat([inputs["token_type_ids"], torch.ones_like(more)], 1)
    with torch.no_grad():
        logs = one.family.model(**inputs).logits[0, prompt.length - 1 :].log_softmax(1)
    return np.mean([float(logs[i, token]) for i, token in enumerate(answer)])


def test_the_small_view_of_tiles_is_that_of_the_stock_processor(loaded):
    """But for its rounding to 8 bits."""
    one = loaded["llava_next"]
    rng = np.random.default_rng(0)
    waves = 127 + 90 * np.sin(np.arange(64)[:, None, None] / 5 + rng.random((1, 64, 3)) * 4)
    picture = Image.fromarray(waves.astype(np.uint8))
    stock = load_processor(one.folder)(picture, return_tensors="pt")["pixel_values"][0]
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (one.how.mean, one.how.std))
    pixels = (torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255 - mean) / std
    ours = one.family.tiles(pixels[None].float())[0]
    assert ours.shape == stock.shape
    torch.testing.assert_close(ours[1:], stock[1:].float(), atol=1e-4, rtol=0)
    assert (ours[0] - stock[0]).abs().max() < 2 / 255 / min(one.how.std)


def test_a_prompt_is_written_as_the_models_template_says(loaded):
    one = loaded["idefics3"]
    prompt = one.prompter.write((Message("system", ("a dog",)), *ASKED), "prompt")
    words = [list(tiny_mllms.VOCABULARY)[i] for i in prompt.ids[0].tolist()]
    mark = "<fake_token_around_image>"
    shown = [mark, "<global-img>", *["<image>"] * 4, mark]
    told = ["<s>", "system", ":", "a", "dog", "user", ":", *shown, *["what", "is", "this", "?"]]
    assert words == [*told, "assistant", ":"]


@pytest.mark.parametrize(
    ("name", "messages", "reason"),
    [
        ("llava", (Message("user", (None, "a <image> b")),), "a mark of the model's own"),
        ("llava", (Message("user", (None, "</s>")),), "a mark of the model's own"),
        ("llava", (Message("user", (None, "cat " * 260)),), "the model takes 255"),
        ("llava", (Message("user", (None,) * 16),), "256 of them for pictures"),
        ("paligemma", (Message("system", ("a",)), *ASKED), "takes one message"),
    ],
)
def test_a_prompt_the_model_cannot_take_is_refused(loaded, name, messages, reason):
    with pytest.raises(ServiceError, match=reason):
        loaded[name].prompter.write(messages, "prompt")


def test_weights_that_are_missing_are_not_made_up(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tiny_mllms.write("llava", tmp_path / "llava")
    tensors = load_file(folder / "model.safetensors")
    tensors.pop(next(name for name in tensors if "linear_1.weight" in name))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigurationError, match="they would be random"):
        load_family(folder)


def test_a_folder_without_a_language_model_is_none_of_these(tmp_path):
    tiny_folders.write("vit", tmp_path / "vit")
    assert family_of(tmp_path / "vit") is None
    with pytest.raises(ConfigurationError, match="no language model that sees"):
        load_family(tmp_path / "vit")
