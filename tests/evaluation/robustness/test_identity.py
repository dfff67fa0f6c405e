import pytest

from service.errors import ConfigurationError
from service.evaluation.robustness.config import Config
from service.evaluation.robustness.identity import claim

SMALL = {
    "model": "somebody", "pictures": "somewhere", "count": 4,
    "defences": [{"smoothing": "FS"}],
    "attacks": [{"goal": "matching"}],
    "budgets": [{"norm": "l2", "epsilon": 0.5}],
}  # fmt: skip


def run(folder, revision="r", pictures="p", surrogates=None, **changes):
    claim(folder, Config.model_validate({**SMALL, **changes}), revision, pictures, surrogates or {})


def test_the_same_run_goes_on_and_may_ask_for_less_in_between(tmp_path):
    more = [{"goal": "matching"}, {"goal": "crops"}]
    run(tmp_path, attacks=more)
    run(tmp_path)
    run(tmp_path, attacks=more, sweep=[1, 2])
    with pytest.raises(ConfigurationError, match="'crops-pgd that knows the encoder'"):
        run(tmp_path, attacks=[{"goal": "crops", "steps": 2}])  # remembered all the while


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"revision": "other"}, "the model, or how it is computed,"),
        ({"pictures": "other"}, "`pictures`"),
        ({"surrogates": {"vit": "d"}}, "`surrogates`"),
        ({"count": 5}, "`count`"),
        ({"budgets": [{"norm": "l2", "epsilon": 1.0}]}, "`budgets`"),
        ({"attacks": [{"goal": "matching", "steps": 2}]}, "'matching-pgd that knows the encoder'"),
    ],
)
def test_what_decides_a_cell_must_be_as_it_was(tmp_path, change, reason):
    run(tmp_path)
    with pytest.raises(ConfigurationError, match=reason):
        run(tmp_path, **change)


def test_a_row_whose_parts_changed_is_another_row(tmp_path):
    mapper = tmp_path / "mapper.safetensors"
    mapper.write_bytes(b"one")
    row = {"defences": [{"smoothing": "FS+Mapper"}]}
    run(tmp_path, **row, mappers={"FS+Mapper": mapper})
    mapper.write_bytes(b"two")
    for mappers in ({"FS+Mapper": mapper}, {}):  # another file; the model's own
        with pytest.raises(ConfigurationError, match=r"'FS\+Mapper' of `defences`"):
            run(tmp_path, **row, mappers=mappers)


@pytest.mark.parametrize("text", ["{", "{}", "[]", '{"revision": "r"}'])
def test_a_folder_of_another_version_is_told(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigurationError, match="of another version"):
        run(tmp_path)


def test_a_part_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ConfigurationError, match="cannot read"):
        run(tmp_path, defences=[{"smoothing": "FS+PSM"}], mappers={"FS+PSM": tmp_path / "absent"})
