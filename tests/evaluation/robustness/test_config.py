import pytest

from service.errors import ConfigurationError
from service.evaluation.robustness.config import load_config, shipped

SMALL = """
model: somebody
pictures: somewhere
count: 4
defences: [{smoothing: none}, {smoothing: FS}]
attacks: [{goal: matching}]
budgets: [{norm: linf, epsilon: 8}, {norm: l2, epsilon: 0.5}]
"""


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_config_is_valid(name):
    config = load_config(name)
    assert len({attack.name + attack.knows for attack in config.attacks}) == len(config.attacks)


def test_an_epsilon_of_the_maximum_norm_is_in_levels(tmp_path):
    file = tmp_path / "small.yaml"
    file.write_text(SMALL)
    linf, l2 = (budget.value() for budget in load_config(str(file)).budgets)
    assert linf.epsilon == pytest.approx(8 / 255)
    assert l2.epsilon == 0.5


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (SMALL + "surprise: 1\n", "surprise"),
        (SMALL.replace("norm: l2", "norm: l7"), "budgets.1.norm"),
        (SMALL.replace("goal: matching", "goal: fame"), "attacks.0.goal"),
        (SMALL.replace("[{smoothing: none}, {smoothing: FS}]", "[]"), "defences"),
        ("a: [", "not valid YAML"),
        (
            SMALL.replace("[{goal: matching}]", "[{goal: matching}, {goal: matching, steps: 9}]"),
            "matching-pgd that knows the encoder is there twice",
        ),
        (SMALL.replace("smoothing: none}", "smoothing: FS}"), "FS is there twice"),
        (
            SMALL.replace("smoothing: none}", "smoothing: FS, encoder: X}"),
            "no encoder 'X' is named",
        ),
        (SMALL.replace("epsilon: 8", "epsilon: 0.5"), "a whole number of levels"),
        (SMALL.replace("epsilon: 0.5", "epsilon: 0.001"), "at least 1/255"),
        (SMALL.replace("epsilon: 8", "epsilon: .inf"), "finite number"),
        ("sweep: [2, 2]" + SMALL, "sweep: 2 is there twice"),
        ("encoders: {original: a}" + SMALL, "neither original, none nor FS"),
        ("encoders: {../up: a}" + SMALL, "letters, digits"),
        (
            SMALL.replace("matching}", "matching, knows: defence, defences: [none]}"),
            "none of its defences has anything more",
        ),
        (
            SMALL.replace("goal: matching", "goal: matching, knows: surrogates"),
            "no surrogates are named",
        ),
        (
            "surrogates: [a]" + SMALL.replace("matching", "tokens, knows: surrogates"),
            "tokens are none of the model's",
        ),
        (
            "surrogates: [a]" + SMALL.replace("matching", "matching, ensemble: true"),
            "an ensemble is for crops",
        ),
        (
            SMALL.replace("goal: matching", "goal: matching, defences: [FS+PSM]"),
            "no defence 'FS.PSM' is named",
        ),
    ],
)
def test_what_is_wrong_with_a_config_is_told(tmp_path, text, reason):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=reason):
        load_config(str(file))


def test_a_config_that_is_not_there_names_those_that_are():
    with pytest.raises(ConfigurationError, match="one of demo"):
        load_config("nothing.yaml")
