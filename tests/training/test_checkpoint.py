import pytest
import torch
from safetensors.torch import load_file, save_file

from service.errors import ConfigurationError
from service.training.checkpoint import FILE, State, held, restore, save

IDENTITY = {"kind": "line", "sigmas": [0.1, 0.25]}


def state(steps=0):
    """A line after so many steps down the same hill."""
    torch.manual_seed(0)
    module = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(module.parameters(), 0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        module(torch.ones(1, 3)).square().sum().backward()
        optimizer.step()
    average = {name: value.detach() / 2 for name, value in module.named_parameters()}
    return State(
        module, average, optimizer, steps, [{"step": steps, "loss": 1.5}], [0.5], [(0, "a")]
    )


def test_what_was_saved_is_restored_to_the_last_bit_and_goes_on_alike(tmp_path):
    old, new = state(5), state()
    save(tmp_path, old, IDENTITY)
    assert restore(tmp_path, new, IDENTITY)
    assert (new.step, new.history, new.recent) == (5, old.history, [0.5])
    assert new.commands == [(0, "a")]
    assert all(torch.equal(new.average[name], value) for name, value in old.average.items())
    for one in (old, new):
        one.optimizer.zero_grad()
        one.module(torch.ones(1, 3)).square().sum().backward()
        one.optimizer.step()
    for ours, theirs in zip(old.module.parameters(), new.module.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_folder_without_a_checkpoint_begins_anew(tmp_path):
    assert not restore(tmp_path / "nothing", state(), IDENTITY)


def test_a_folder_is_one_process_and_free_again_after_it(tmp_path):
    refused = pytest.raises(ConfigurationError, match="another process trains in")
    with held(tmp_path / "run"), refused, held(tmp_path / "run"):
        pass
    with held(tmp_path / "run"):
        assert (tmp_path / "run").is_dir()


def test_a_folder_that_cannot_be_is_told_before_anything_is_trained(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"cannot write .*file"), held(tmp_path / "file"):
        pass


def test_saving_leaves_one_whole_file_and_no_other(tmp_path):
    for steps in (1, 2):
        save(tmp_path, state(steps), IDENTITY)
    assert [file.name for file in tmp_path.iterdir()] == [FILE]


def test_a_write_that_fails_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    save(tmp_path, state(3), IDENTITY)

    def full(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr("service.training.checkpoint.save_file", full)
    with pytest.raises(ConfigurationError, match="no space"):
        save(tmp_path, state(4), IDENTITY)
    new = state()
    assert restore(tmp_path, new, IDENTITY)
    assert new.step == 3


@pytest.mark.parametrize(
    "identity", [{**IDENTITY, "sigmas": [0.1]}, {"kind": "line"}, {**IDENTITY, "more": 1}]
)
def test_a_run_of_something_else_is_not_continued(tmp_path, identity):
    save(tmp_path, state(3), IDENTITY)
    with pytest.raises(ConfigurationError, match="choose another folder, or the same"):
        restore(tmp_path, state(), identity)


def test_a_safetensors_file_of_another_kind_is_no_checkpoint(tmp_path):
    save(tmp_path, state(3), IDENTITY)
    save_file(load_file(tmp_path / FILE), tmp_path / FILE)  # its metadata lost
    with pytest.raises(ConfigurationError, match="cannot resume from"):
        restore(tmp_path, state(), IDENTITY)
