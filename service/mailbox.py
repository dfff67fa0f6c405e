"""News for one slow reader: of each key only the newest is kept, so memory is bounded by the keys.

On the event loop only.
"""

import asyncio
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Mailbox(Generic[K, V]):
    """Values in the order in which their keys came in; a newer one takes the place of the older."""

    def __init__(self) -> None:
        self._waiting: dict[K, V] = {}
        self._changed = asyncio.Event()
        self._closed = False

    def put(self, key: K, value: V) -> None:
        """Leave a value for the reader; never waits. After `close` it is dropped."""
        if not self._closed:
            self._waiting[key] = value
            self._changed.set()

    def close(self) -> None:
        """Nothing more will come; what waits can still be taken."""
        self._closed = True
        self._changed.set()

    async def get(self) -> V | None:
        """The next value; None once the box is closed and empty. One reader at a time."""
        while not self._waiting:
            if self._closed:
                return None
            self._changed.clear()
            await self._changed.wait()
        return self._waiting.pop(next(iter(self._waiting)))
