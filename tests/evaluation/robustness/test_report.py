import pytest

from service.evaluation.robustness.cells import Cell
from service.evaluation.robustness.report import markdown, summarise


def cell(**changes):
    values = {
        "defence": "FS", "attack": "matching-pgd", "knows": "encoder", "norm": "l2", "epsilon": 0.5,
        "picture": "a", "kind": "animal", "target": "tool", "label": "animal", "caption": "animal",
        "is_own": True, "is_target": False, "cosine": 0.9, "l2": 0.5, "bound": 0.3,
        "contradicted": False, "certified_radius": None, "certified_right": None, "seconds": 1.0,
    }  # fmt: skip
    return Cell(**{**values, **changes})


def test_shares_are_of_right_answers_and_of_those_the_attack_wanted():
    cells = [cell(), cell(label="tool", is_target=True), cell(label="plant", is_own=False), cell()]
    (line,) = summarise(cells, (0.1,))
    assert line.accuracy["class"][0] == 0.5
    assert line.success["class"][0] == 0.25
    assert line.accuracy["caption"][0] == 1.0
    assert line.accuracy["vqa"][0] == 6 / 8  # own kind and the target's, of each picture
    assert line.success["vqa"] == pytest.approx((0.25, 0.0063, 0.8059, 4), abs=1e-4)
    assert line.contradicted == (0, 4)


def test_a_bound_is_the_mean_of_those_there_are_and_their_number_is_told():
    (line,) = summarise([cell(), cell(bound=0.5), cell(bound=-1.0)], ())
    assert (line.bound, line.bounded) == (pytest.approx(0.4), 2)
    (line,) = summarise([cell(bound=-1.0)], ())
    assert (line.bound, line.bounded) == (-1.0, 0)


def test_certified_accuracy_counts_right_classes_that_reach_the_radius():
    clean = {"attack": "none", "norm": "none", "epsilon": 0.0, "contradicted": None}
    cells = [
        cell(**clean, certified_radius=0.3, certified_right=True),
        cell(**clean, certified_radius=0.1, certified_right=True),
        cell(**clean, certified_radius=0.3, certified_right=False),
        cell(**clean, certified_radius=0.0, certified_right=True),
    ]
    (line,) = summarise(cells, (0.0, 0.1, 0.2, 0.4))
    assert [line.certified[radius][0] for radius in (0.0, 0.1, 0.2, 0.4)] == [0.5, 0.5, 0.25, 0.0]


def test_the_strongest_attack_on_each_task_is_told_with_what_it_was():
    weak, strong = cell(), cell(epsilon=2.0, label="tool", is_target=True, is_own=False)
    adaptive = cell(knows="defence", label="plant")
    table = markdown(summarise([weak, strong, adaptive], ()), {})
    assert (
        "| FS, plain | 1.00 (matching-pgd, ℓ2 2) | 1.00 (matching-pgd, ℓ2 2) |"
        " 0.00 (matching-pgd, ℓ2 2) | 0.00 (matching-pgd, ℓ2 2) |"
    ) in table
    assert "| FS, adaptive | 0.00 (matching-pgd, ℓ2 0.5) |" in table


def test_the_table_has_a_row_a_line_and_its_sizes_in_words():
    lines = summarise([cell(), cell(norm="linf", epsilon=8.0, bound=-1.0, contradicted=None)], ())
    table = markdown(lines, {"FS": 0.25}).splitlines()
    assert "ℓ2 0.5" in table[2]
    assert "0 of 1" in table[2]
    assert "ℓ∞ 8/255" in table[3]
    assert len({row.count("|") for row in table[:4]}) == 1
    assert "| FS | 0.25 |" in table
    assert table[-1] == "Certificates judged under attack: 1; contradicted: 0."


def test_of_a_model_without_a_language_the_class_alone_is_told():
    mute = {"caption": None, "is_own": None, "is_target": None}
    lines = summarise([cell(**mute), cell(**mute, label="tool")], ())
    assert set(lines[0].accuracy) == set(lines[0].success) == {"class"}
    row = markdown(lines, {}).splitlines()[2]
    assert [part.strip() for part in row.split("|")][8:12] == ["", "", "", ""]


def test_a_black_box_is_told_apart():
    table = markdown(summarise([cell(), cell(knows="surrogates")], ()), {})
    assert "| FS, plain |" in table
    assert "| FS, black box |" in table
