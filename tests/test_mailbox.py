import asyncio

from service.mailbox import Mailbox


def test_a_newer_value_takes_the_place_of_an_older_one_of_its_key():
    async def scenario():
        box = Mailbox()
        for n in range(1000):
            box.put("a", n)
            box.put("b", -n)
        box.close()
        return [await box.get() for _ in range(3)]

    assert asyncio.run(scenario()) == [999, -999, None]


def test_a_reader_waits_for_news_and_for_the_end():
    async def scenario():
        box = Mailbox()
        first = asyncio.create_task(box.get())
        await asyncio.sleep(0)
        box.put(1, "news")
        assert await first == "news"
        second = asyncio.create_task(box.get())
        await asyncio.sleep(0)
        box.close()
        box.put(2, "too late")
        return await second

    assert asyncio.run(scenario()) is None


def test_a_reader_that_gave_up_waiting_loses_nothing():
    async def scenario():
        box = Mailbox()
        waiting = asyncio.create_task(box.get())
        await asyncio.sleep(0)
        box.put(1, "news")
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        return await box.get()

    assert asyncio.run(scenario()) == "news"
