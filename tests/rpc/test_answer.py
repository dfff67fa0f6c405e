"""gRPC `Answer` on a real server, with a tiny random language model."""

import base64

import grpc
import pytest
from google.protobuf.json_format import MessageToDict

from service.rpc.generated import fcs_pb2 as pb
from tests.conftest import start_server, stop_server
from tests.models.answerer import tiny_mllms
from tests.rest.test_answer import SEED, picture, post

SAMPLING = {
    "samples": 40,
    "selection_samples": 4,
    "radii": [0.05, 0.1],
    "sigma": 0.25,
    "seed": SEED,
}


def asked(pictures=(0,), sampling=None, **fields):
    images = [base64.b64decode(picture(i)) for i in pictures]
    embed = pb.EmbedRequest(images=images, **{**SAMPLING, **(sampling or {})})
    return pb.AnswerRequest(embed=embed, max_tokens=6, **{"prompt": "what is this ?", **fields})


@pytest.fixture(scope="module")
def seeing(tmp_path_factory):
    folder = tiny_mllms.write("smolvlm", tmp_path_factory.mktemp("mllm") / "tiny-smolvlm")
    running = start_server("--model", str(folder), "--allow-client-seed")
    yield running
    stop_server(running)


@pytest.fixture(scope="module")
def stub(seeing):
    channel, stub = seeing.stub()
    yield stub
    channel.close()


def test_pieces_of_text_and_then_the_whole_as_rest_gives_it(seeing, stub):
    told = list(stub.Answer(asked()))
    assert [one.WhichOneof("event") for one in told[:-1]] == ["text"] * (len(told) - 1)
    result = told[-1].result
    assert "".join(one.text for one in told[:-1]) == result.answer
    rest = post(
        seeing, inputs=picture(0), prompt="what is this ?", max_tokens=6, samples=40,
        answer_samples=4, radii=[0.05, 0.1], sigma=0.25, seed=SEED,
    )  # fmt: skip
    assert result.answer == rest["answer"]
    assert result.finish_reason == rest["finish_reason"]
    assert result.statement == rest["statement"]
    (certificate,) = result.certificates
    assert [b.bound for b in certificate.bounds] == [
        b["bound"] for b in rest["certificate"]["bounds"]
    ]
    assert result.answer_tokens == rest["usage"]["completion_tokens"]


def test_several_pictures_and_messages(stub):
    messages = [
        pb.Message(role="system", parts=[pb.Part(text="a dog")]),
        pb.Message(
            role="user", parts=[pb.Part(image=True), pb.Part(text="a"), pb.Part(image=True)]
        ),
    ]
    request = asked((0, 1), messages=messages)
    request.ClearField("prompt")
    result = list(stub.Answer(request))[-1].result
    assert len(result.certificates) == 2
    assert [b.radius for b in result.joint] == [0.05, 0.1]
    assert result.joint_confidence == pytest.approx(0.998)


def test_votes_on_a_closed_answer_are_those_of_rest(seeing, stub):
    request = asked(choices=["yes", "no"], votes=30)
    request.ClearField("max_tokens")
    text, last = list(stub.Answer(request))
    rest = post(
        seeing, inputs=picture(0), prompt="what is this ?", choices=["yes", "no"], votes=30,
        samples=40, answer_samples=4, radii=[0.05, 0.1], sigma=0.25, seed=SEED,
    )  # fmt: skip
    assert text.text == last.result.answer == rest["answer"]
    assert (
        MessageToDict(
            last.result.vote,
            preserving_proto_field_name=True,
            always_print_fields_with_no_presence=True,
        )
        == rest["vote"]
    )
    assert not last.result.HasField("stability")


def test_stability_over_further_draws(stub):
    result = list(stub.Answer(asked((0, 1), stability_draws=3)))[-1].result
    assert result.stability.draws == 3
    assert 0 <= result.stability.lower <= result.stability.agreeing / 3 <= 1
    assert not list(stub.Answer(asked()))[-1].result.HasField("stability")


def test_a_call_that_is_cancelled_leaves_room_for_others(stub):
    calls = [stub.Answer(asked(sampling={"samples": 100_000})) for _ in range(3)]
    for call in calls:
        next(call)
        call.cancel()
    assert list(stub.Answer(asked()))[-1].HasField("result")


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (pb.AnswerRequest(prompt="what ?"), "0 pictures"),
        (asked(prompt="<image>"), "a mark of the model's own"),
        (asked(temperature=9.0), "temperature is 9.0"),
        (asked(messages=[pb.Message(role="user", parts=[pb.Part(text="a")])]), "one of the two"),
        (asked(sampling={"receipt": True}), "a receipt is of an embedding"),
    ],
)
def test_what_cannot_be_answered_is_refused(stub, request_, reason):
    with pytest.raises(grpc.RpcError) as refused:
        list(stub.Answer(request_))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason in refused.value.details()


def test_a_deadline_ends_the_answer(stub):
    request = asked(sampling={"samples": 100_000, "timeout_ms": 300})
    with pytest.raises(grpc.RpcError) as late:
        list(stub.Answer(request))
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_info_tells_who_answers(stub):
    assert stub.Info(pb.InfoRequest()).models[0].answers
