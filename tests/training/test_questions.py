import numpy as np
import pytest
from PIL import Image

from service.pictures.meanings import KINDS, Meaning
from service.training.questions import Questions, main_colour

KNOWN = [
    Meaning("animal", "cat"),
    Meaning("animal", "dog"),
    Meaning("food", "bread"),
    Meaning("food", "pear"),
    Meaning("person"),
]


def turns(meaning, count=600, colour=None):
    asker, rng = Questions(KNOWN), np.random.default_rng(0)
    return [turn for _ in range(count // 3) for turn in asker.draw(meaning, colour, 3, rng)]


def test_every_answer_is_right():
    """By the meaning alone, whatever the words of the question."""
    for turn in turns(Meaning("animal", "cat"), colour="brown"):
        asked = turn.question.lower()
        match turn.about:
            case "kind":
                assert turn.answer == "animal"
            case "is kind":
                assert turn.answer == ("yes" if "an animal" in asked else "no")
            case "which kind":
                assert turn.answer == "an animal"
                assert "an animal" in asked
            case "name":
                assert turn.answer == "cat"
            case "is name":
                assert turn.answer == ("yes" if "a cat?" in asked else "no")
            case "colour":
                assert turn.answer == "brown"


def test_half_of_the_answers_to_yes_or_no_are_yes():
    """Of 400 fair draws, 40 from the middle is four deviations: one false alarm in 16,000."""
    closed = [t.answer for t in turns(Meaning("animal", "cat"), 2000) if t.answer in {"yes", "no"}]
    assert len(closed) > 400
    assert abs(closed[:400].count("yes") - 200) < 40


def test_what_has_no_name_is_not_asked_for_one():
    assert {t.about for t in turns(Meaning("person"))} == {"kind", "is kind", "which kind"}


def test_the_turns_of_a_picture_differ():
    asker, rng = Questions(KNOWN), np.random.default_rng(1)
    for _ in range(50):
        asked = [turn.question for turn in asker.draw(KNOWN[0], "red", 4, rng)]
        assert len(set(asked)) == 4


def test_a_picture_is_asked_for_its_own_kind_and_for_another():
    """Always saying the same is then worth one half, for every picture."""
    asker, rng = Questions(KNOWN), np.random.default_rng(2)
    turns = asker.draw(KNOWN[0], "red", 7, rng)
    assert sorted(turn.answer for turn in turns if turn.about == "is kind") == ["no", "yes"]


@pytest.mark.parametrize(
    ("rgb", "colour"),
    [
        ((220, 30, 30), "red"), ((240, 140, 20), "orange"), ((250, 220, 40), "yellow"),
        ((40, 160, 60), "green"), ((40, 90, 220), "blue"), ((120, 40, 180), "purple"),
        ((255, 160, 190), "pink"), ((110, 70, 40), "brown"), ((10, 10, 10), "black"),
        ((250, 250, 250), "white"), ((128, 128, 128), "gray"),
    ],
)  # fmt: skip
def test_the_main_colour_is_that_of_most_opaque_pixels(rgb, colour):
    picture = Image.new("RGBA", (20, 20), (0, 255, 0, 0))
    picture.paste((*rgb, 255), (4, 4, 16, 16))
    assert main_colour(picture) == colour


def test_a_motley_picture_and_one_without_an_outline_have_no_main_colour():
    motley = Image.new("RGBA", (30, 30), (0, 0, 0, 0))
    for i, rgb in enumerate(((220, 30, 30), (40, 160, 60), (40, 90, 220))):
        motley.paste((*rgb, 255), (5, 5 + 6 * i, 25, 11 + 6 * i))
    assert main_colour(motley) is None
    assert main_colour(Image.new("RGBA", (20, 20), (220, 30, 30, 255))) is None


def test_questions_name_kinds_as_they_are_named_elsewhere():
    asked = {t.question for t in turns(Meaning("food", "bread")) if t.about == "is kind"}
    assert asked <= {f"Is this {KINDS[kind]}?" for kind in ("animal", "food", "person")}
