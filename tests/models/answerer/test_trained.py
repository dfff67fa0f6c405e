"""What training leaves in a file does in the served model what it did while it was trained."""

import copy

import pytest
import torch
from transformers import LlamaConfig, LlamaModel

from service.errors import ConfigurationError
from service.models.answerer.trained import TrainedParts, read_trained
from service.models.psm import Part, write_part
from service.training.answerer import ADAPTED, adapt
from tests.models.answerer.tiny_mllms import TEXT

SCALE = 2


def about(**config):
    return Part(
        kind="projector", config=config, encoder="", sigmas=(0.25,), size=(8, 8), training={}
    )


@pytest.fixture
def chat():
    torch.manual_seed(0)
    return LlamaModel(LlamaConfig(**{k: v for k, v in TEXT.items() if k != "model_type"})).eval()


@pytest.fixture
def adapted(chat):
    """A chat model with adapters that say something, and what is trained of it."""
    changed = copy.deepcopy(chat)
    parts = TrainedParts(torch.nn.Linear(4, 32), (3, 32), adapt(changed, 2, SCALE))
    with torch.no_grad():
        for parameter in parts.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(parameter.numel()))
    return changed, parts


def said(chat):
    with torch.no_grad():
        return chat(input_ids=torch.tensor([[7, 8, 9, 10]])).last_hidden_state


def test_a_merged_language_says_what_the_adapted_one_said(chat, adapted, tmp_path):
    changed, parts = adapted
    file = tmp_path / "projector.safetensors"
    write_part(file, about(scale=SCALE), parts.state_dict())
    plain = said(chat)
    found = read_trained(file)
    found.merge(chat)
    torch.testing.assert_close(said(chat), said(changed))
    assert (said(chat) - plain).abs().max() > 0.1
    torch.testing.assert_close(found.centre, parts.centre.detach())
    torch.testing.assert_close(found.projector["weight"], parts.projector.weight.detach())


def test_adapters_begin_as_nothing(chat):
    changed = copy.deepcopy(chat)
    adapters = adapt(changed, 2, SCALE)
    assert len(adapters) == TEXT["num_hidden_layers"] * len(ADAPTED)
    torch.testing.assert_close(said(changed), said(chat))


def test_the_centre_is_not_trained_by_gradients(adapted):
    _, parts = adapted
    assert not parts.centre.requires_grad
    trained = [half.weight for pair in parts.adapters.values() for half in pair.values()]
    assert all(weight.requires_grad for weight in trained)


def test_adapters_of_another_language_are_refused(adapted, tmp_path):
    _, parts = adapted
    file = tmp_path / "projector.safetensors"
    write_part(file, about(scale=SCALE), parts.state_dict())
    other = LlamaModel(LlamaConfig(**{**TEXT, "hidden_size": 16, "num_hidden_layers": 1}))
    with pytest.raises(ConfigurationError, match=r"no weight of the language fits layers"):
        read_trained(file).merge(other)


def test_a_file_without_a_centre_is_of_another_version(tmp_path):
    file = tmp_path / "projector.safetensors"
    write_part(file, about(), {"projector.weight": torch.zeros(2, 2)})
    with pytest.raises(ConfigurationError, match="lacks 'centre': it was trained by another"):
        read_trained(file)
