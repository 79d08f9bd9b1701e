"""What streams of batches have in common: a position, which is their whole state, and a look ahead.

Resuming seeks and replays nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from typing import Generic, Self, TypeVar

B = TypeVar("B")
Part = TypeVar("Part")


class Pending(Generic[B]):
    """A batch that threads are preparing, or that is prepared when it is asked for.

    Args:
        parts: each returns a part of the batch.
        whole: makes the batch of them.
        executor: whose threads prepare the parts; None does it on demand.
    """

    def __init__(
        self,
        parts: Sequence[Callable[[], Part]],
        whole: Callable[[list[Part]], B],
        executor: Executor | None,
    ) -> None:
        self._futures = [executor.submit(one) for one in parts] if executor else []
        ready = [one.result for one in self._futures] if executor else parts
        self._result: Callable[[], B] = lambda: whole([one() for one in ready])

    def result(self) -> B:
        """Return the batch when it is whole; raises what a part or `whole` raised."""
        return self._result()

    def cancel(self) -> None:
        """Cancel the parts that no thread has started."""
        for one in self._futures:
            one.cancel()


class AheadStream(ABC, Generic[B]):
    """An endless stream of batches, of which the next ones are being prepared.

    Args:
        prefetch: batches that are prepared ahead of their use.
    """

    def __init__(self, prefetch: int) -> None:
        self.position = 0
        self._prefetch = prefetch
        self._pending: deque[Pending[B]] = deque()

    @abstractmethod
    def _start(self, step: int) -> Pending[B]:
        """Begin to prepare the batch at a position."""

    def __iter__(self) -> Iterator[B]:
        return self

    def __next__(self) -> B:
        """Return the batch at `position`, and go on to the next.

        Raises:
            RequestError: the pool lacks what is wanted, such as masks.
            StoreError: a shard does not exist.
            DataError: a shard differs from its manifest, or images or boxes are damaged that may
                not be replaced: all those of the batch are named. The position does not change.
        """
        while len(self._pending) <= self._prefetch:
            self._pending.append(self._start(self.position + len(self._pending)))
        try:
            batch = self._pending[0].result()
        except BaseException:
            self._drop_pending()  # so that the next call tries again
            raise
        self._pending.popleft()
        self.position += 1
        return batch

    def state_dict(self) -> dict[str, int]:
        """Return the position: the number of batches taken."""
        return {"step": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to a position, forward or back."""
        self._drop_pending()
        self.position = state["step"]

    def close(self) -> None:
        """Stop the threads and close the files."""
        self._drop_pending()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _drop_pending(self) -> None:
        for pending in self._pending:
            pending.cancel()
        self._pending.clear()
