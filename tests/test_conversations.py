import pytest

from service.conversations import conversation
from service.errors import ServiceError
from service.types import Message


def test_a_prompt_comes_after_its_pictures():
    assert conversation("what?", [], 2) == (Message("user", (None, None, "what?")),)


def test_pictures_without_places_stand_before_the_first_word_of_the_user():
    told = [Message("system", ("be brief",)), Message("user", ("what?",))]
    assert conversation(None, told, 1)[1] == Message("user", (None, "what?"))


def test_pictures_keep_the_places_they_are_given():
    told = [Message("user", ("a", None)), Message("assistant", ("b",)), Message("user", (None,))]
    assert conversation(None, told, 2) == tuple(told)


@pytest.mark.parametrize(
    ("prompt", "messages", "pictures", "reason"),
    [
        (None, [], 1, "give a prompt or messages"),
        ("a", [Message("user", ("b",))], 1, "give a prompt or messages"),
        (None, [Message("user", (None, "b"))], 2, "1 image parts for 2 pictures"),
        (None, [Message("tool", ("b",))], 1, "unknown role 'tool'; allowed are system, user"),
        (None, [Message("user", ())], 1, "0 parts in one message"),
        (None, [Message("user", ("a",)), Message("assistant", ("b",))], 1, "must be the user's"),
        (None, [Message("user", ("a",))] * 201, 1, "201 messages"),
        (" ", [], 1, "the prompt says nothing"),
        (None, [Message("user", (" ",))], 1, "the last message says nothing"),
    ],
)
def test_what_is_no_conversation_is_refused(prompt, messages, pictures, reason):
    with pytest.raises(ServiceError, match=reason):
        conversation(prompt, messages, pictures)
