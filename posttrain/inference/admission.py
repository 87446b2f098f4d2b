"""How many requests fly at once: more while all goes well, half when the server complains, none while it is down.

Additive increase and multiplicative decrease as in TCP (RFC 5681): the limit doubles per round trip up to the threshold
that the last complaint set, then grows by one per round trip. A run of failures opens the breaker: after a pause, twice
as long each time, one request probes.
"""

import asyncio
from collections import deque
from collections.abc import Callable

FIRST = 8.0  # requests in flight at the start
BREAKER = 8  # failures in a row that open it, at least; and one round of all that fly
UNANSWERED = 60.0  # seconds of patience with a server that has answered nothing yet: more likely a wrong address
SHORTEST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds


class Admission:
    """The gate of one endpoint and model. All methods belong to one event loop.

    ``patience``: seconds without any success after which ``down`` turns true for good; before the first success at
    most `UNANSWERED`.
    """

    def __init__(self, most: int, patience: float, clock: Callable[[], float]):
        self.most, self._clock = most, clock
        self.patience = min(patience, UNANSWERED)
        self._patience = patience
        self.limit = min(FIRST, float(most))
        self.flying = 0
        self.down = False
        self._threshold = float(most)
        self._failures = 0
        self._closed_until = 0.0
        self._pause = SHORTEST_PAUSE
        self._last_cut = 0.0
        self._trouble_since: float | None = None
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    async def enter(self) -> float:
        """Waits for a place in flight; returns the time of entry."""
        if self._waiting or not self._free():
            place = asyncio.get_running_loop().create_future()
            self._waiting.append(place)
            self._admit()
            await place
        else:
            self._take()
        return self._clock()

    def leave(self) -> None:
        self.flying -= 1
        self._admit()

    def success(self) -> None:
        self.patience = self._patience
        self._failures, self._trouble_since = 0, None
        self._closed_until, self._pause = 0.0, SHORTEST_PAUSE
        grown = self.limit + (1.0 if self.limit < self._threshold else 1.0 / self.limit)
        self.limit = min(grown, float(self.most))

    def complaint(self, entered: float, *, overload: bool, wait: float | None = None) -> None:
        """A failure of a request that entered then. ``overload``: the server has too much to do (429, 503, time-out).

        ``wait``: seconds that the server asked for.
        """
        now = self._clock()
        self._trouble_since = self._trouble_since or now
        self._failures += 1
        if overload and entered >= self._last_cut:  # those that flew at the last cut do not cut again
            self._threshold = self.limit = max(self.limit / 2, 1.0)
            self._last_cut = now
        if wait is not None:
            self._close(min(wait, LONGEST_PAUSE))
        if self._failures >= max(BREAKER, self.flying) and now >= self._closed_until:
            self._threshold, self.limit = max(self.limit / 2, 1.0), 1.0
            self._close(self._pause)
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
        if now - self._trouble_since > self.patience:
            self.down = True
            self._admit()

    def _close(self, seconds: float) -> None:
        self._closed_until = max(self._closed_until, self._clock() + seconds)

    def _free(self) -> bool:
        # While failures run on, one probe is enough.
        limit = 1 if self._pause > SHORTEST_PAUSE else int(self.limit)
        return self.down or (self.flying < limit and self._clock() >= self._closed_until)

    def _take(self) -> None:
        self.flying += 1

    def _admit(self) -> None:
        while self._waiting and self._free():
            place = self._waiting.popleft()
            if not place.done():
                self._take()
                place.set_result(None)
        late = self._closed_until - self._clock()
        if self._waiting and late > 0 and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(late, self._reopen)

    def _reopen(self) -> None:
        self._timer = None
        self._admit()
