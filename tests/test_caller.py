"""Who asks: what runs inside knows, what runs beside does not."""

import asyncio

import pytest

from service.caller import Caller, calling, present, request_id


def test_tasks_and_threads_started_inside_know_the_caller_and_those_beside_do_not():
    async def inside(name):
        with calling(Caller(name)):
            await asyncio.sleep(0.01)
            task = asyncio.create_task(asyncio.to_thread(present))
            return (await task).request_id, present().request_id

    async def scenario():
        return await asyncio.gather(inside("one"), inside("two")), present()

    (one, two), outside = asyncio.run(scenario())
    assert one == ("one", "one")
    assert two == ("two", "two")
    assert outside is None


@pytest.mark.parametrize("given", [None, "", "a b", "x" * 129, "evil\nline", "ü", 'q"uote'])
def test_an_id_that_may_not_stand_in_a_log_line_is_replaced(given):
    made = request_id(given)
    assert made != given
    assert request_id(made) == made  # what is made is well formed
