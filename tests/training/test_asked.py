"""Packed questions against the same ones alone, through a real attention."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import LlamaConfig, LlamaForCausalLM

from service.pictures.meanings import Meaning
from service.training.answerer import _additive
from service.training.asked import AskedScenes
from service.training.questions import Turn
from service.training.scenes import Scenes
from service.training.sources import Sources
from tests.models.answerer import tiny_mllms

TOKENS = 3


@pytest.fixture
def asked(tmp_path):
    rng = np.random.default_rng(0)
    known = {}
    for i in range(6):
        Image.fromarray(rng.integers(0, 90, (50, 50, 3), dtype=np.uint8)).save(
            tmp_path / f"photo{i}.png"
        )
        cutout = np.zeros((30, 30, 4), np.uint8)
        cutout[8:22, 8:22] = (230, 20, 20, 255)
        Image.fromarray(cutout, "RGBA").save(tmp_path / f"cut{i}.png")
        known[tmp_path / f"cut{i}.png"] = Meaning(["animal", "food"][i % 2], f"name{i}")
    photos = tuple(sorted(tmp_path.glob("photo*")))
    scenes = Scenes(Sources(photos), (32, 32), 0)
    return AskedScenes(scenes, known, tiny_mllms.tokenizer(), TOKENS, 3, 0)


def test_example_i_depends_on_the_seed_and_i_alone(asked):
    together, apart = asked.batch([4, 5]), asked.batch([5])
    assert torch.equal(together.levels[1], apart.levels[0])
    assert together.about[1] == apart.about[0]
    assert together.levels.shape == (2, 3, 32, 32)
    assert len({asked.batch([i]).levels.numpy().tobytes() for i in range(8)}) == 8


def test_only_answers_are_learned_and_every_turn_has_one(asked):
    batch = asked.batch(range(4))
    for row in range(4):
        learned = batch.turns[row][batch.labels[row] >= 0]
        assert set(learned.tolist()) == set(range(1, len(batch.about[row]) + 1))
    assert (batch.labels[batch.turns <= 0] < 0).all()


def test_packed_turns_are_read_as_if_each_were_alone(asked):
    """What the tokens of a turn come to in a packed row, and in a row of that turn only."""
    torch.manual_seed(0)
    config = {**tiny_mllms.TEXT, "attn_implementation": "eager"}
    model = LlamaForCausalLM(LlamaConfig(**config)).eval()
    turns = [Turn("is this a cat ?", "yes", "a"), Turn("what is this ?", "a dog", "b")]
    levels = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)

    def logits(some):
        row = asked._write.packed(levels, [some])
        with torch.no_grad():
            found = model(
                input_ids=row.ids,
                attention_mask=_additive(row.visible(), torch.float32),
                position_ids=row.positions,
            ).logits
        return [found[row.turns == k] for k in range(1, len(some) + 1)]

    packed = logits(turns)
    for turn, own in zip(turns, packed, strict=True):
        torch.testing.assert_close(logits([turn])[0], own)


def test_a_short_row_beside_a_long_one_is_read_the_same(asked):
    batch = asked._write.packed(
        torch.zeros(2, 3, 2, 2, dtype=torch.uint8),
        [[Turn("what is this ?", "a dog", "b")], [Turn("is this a cat ?", "yes", "a")] * 3],
    )
    visible = batch.visible()[0, 0]
    length = int((batch.turns[0] >= 0).sum())
    assert not visible[:length, length:].any()
    assert visible.diagonal().all()  # a row of nothing but -inf would be NaN
