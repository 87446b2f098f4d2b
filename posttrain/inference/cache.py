"""The keys and values of every running completion, one slot each, behind transformers' cache interface."""

from collections.abc import Iterable

import torch
from transformers.cache_utils import Cache

KeysAndValues = list[tuple[torch.Tensor, torch.Tensor]]  # one pair per layer, [rows, heads, T, head dimension]

# A CPU reads all of a slot's room in less time than part of it, as the gaps between slots defeat its prefetcher: per
# layer, 60 of 60 positions take 1.1 ms, 60 of 72 take 2.8, 96 of 96 take 1.7 (256 rows of 6 heads of 32, one core). So
# the room is kept tight, and is read whole unless most of it is unused.
_MOST = 3


class SlotCache(Cache):
    """Keys and values per layer, shape [slots, heads, room, head dimension], filled from position 0 in every slot.

    ``prefill``: the next forward runs over whole prompts, or over what follows a ``prefix`` of theirs that such a
    forward left in ``fresh``; their keys and values are kept aside in ``fresh`` until ``insert`` writes them into
    slots, the prefix before them. ``decode``: the next forward runs over one token of each of the first B slots, writes
    each row's key and value at its own position and attends over as many positions as ``decode`` returns. What lies
    beyond a row's position is stale or zero and must be masked by the caller.
    """

    def __init__(self, slots: int):
        super().__init__(layers=[])
        self.slots = slots
        self.room = 0
        self.fresh: KeysAndValues = []
        self._prefix: KeysAndValues = []
        self._stored: KeysAndValues = []
        self._positions_B: torch.Tensor | None = None
        self._written_BH: torch.Tensor | None = None
        self._attended = 0

    def prefill(self, prefix: KeysAndValues | None = None) -> None:
        """``prefix``: of one row, shared by all rows of the next forward, whose positions begin behind it."""
        self.fresh, self._prefix = [], prefix or []
        self._positions_B = None

    def decode(self, positions_B: torch.Tensor, longest: int) -> int:
        """``longest``: the number of positions that the longest row will hold after this token.

        Returns how many positions the forward attends over, which hangs on this cache's own history alone.
        """
        self._reserve(longest)
        self._positions_B, self._written_BH = positions_B, None
        self._attended = self.room if longest * _MOST > self.room else longest
        return self._attended

    def update(self, key_states, value_states, layer_idx, *args, **kwargs):
        """Called by each attention layer with its new keys and values, [B, heads, T, head dimension]."""
        # Under autocast rotary angles in fp32 make fp32 of a key, which attention would round again at every step.
        key_states = key_states.to(value_states.dtype)
        if self._positions_B is None:
            self.fresh.append((key_states, value_states))
            if not self._prefix:
                return key_states, value_states
            keys, values = self._prefix[layer_idx]
            rows = len(key_states)
            return (
                torch.cat([keys.expand(rows, -1, -1, -1), key_states], 2),
                torch.cat([values.expand(rows, -1, -1, -1), value_states], 2),
            )
        if layer_idx == len(self._stored):  # all running prompts are one token long: nothing was ever prefilled
            self._stored.append((self._new_room(key_states), self._new_room(value_states)))
        keys, values = self._stored[layer_idx]
        for stored, new in ((keys, key_states), (values, value_states)):
            stored.view(-1, stored.shape[3]).index_copy_(0, self._written(stored), new.reshape(-1, new.shape[3]))
        rows = len(self._positions_B)
        return keys[:rows, :, : self._attended], values[:rows, :, : self._attended]

    def _written(self, stored: torch.Tensor) -> torch.Tensor:
        """Where in [slots · heads · room] a step writes, the same in all layers: half the time of a write by slot."""
        if self._written_BH is None:
            assert self._positions_B is not None
            device, heads = stored.device, stored.shape[1]
            rows_BH = torch.arange(len(self._positions_B) * heads, device=device).view(-1, heads)
            self._written_BH = (rows_BH * self.room + self._positions_B[:, None]).flatten()
        return self._written_BH

    def insert(self, slots_S: torch.Tensor, sources_S: torch.Tensor) -> None:
        """Copies prefilled prompt ``sources_S[i]`` into slot ``slots_S[i]``, for all layers."""
        start = self._seen
        end = start + self.fresh[0][0].shape[2]
        self._reserve(end)
        for layer, fresh in enumerate(self.fresh):
            if layer == len(self._stored):
                self._stored.append((self._new_room(fresh[0]), self._new_room(fresh[1])))
            for part, (stored, new) in enumerate(zip(self._stored[layer], fresh, strict=True)):
                stored[slots_S, :, start:end] = new[sources_S]
                if start:
                    stored[slots_S, :, :start] = self._prefix[layer][part]
        self.fresh = []

    def keep(self, slots: int) -> None:
        """No slot from ``slots`` on is used again: room that is made from now on is for those before it alone."""
        self.slots = slots

    def copy(self, targets_S: torch.Tensor, sources_S: torch.Tensor, length: int) -> None:
        """Copies the first ``length`` positions of slots ``sources_S`` to slots ``targets_S``."""
        for layer in self._stored:
            for stored in layer:
                stored[targets_S, :, :length] = stored[sources_S, :, :length]

    def reserve(self, lengths: Iterable[int]) -> None:
        """Makes at once the room that prompts of these lengths, inserted one by one, come to need."""
        room = self.room
        for length in lengths:
            room = roomy(length, room)
        self._resize(room)

    def _reserve(self, length: int) -> None:
        self._resize(roomy(length, self.room))

    def _resize(self, room: int) -> None:
        if room == self.room:
            return
        self.room = room
        for layer, (keys, values) in enumerate(self._stored):
            self._stored[layer] = (self._grown(keys), self._grown(values))

    def _grown(self, stored: torch.Tensor) -> torch.Tensor:
        _, heads, held, dimension = stored.shape
        grown = stored.new_empty(self.slots, heads, self.room, dimension)
        grown[:, :, :held] = stored[: self.slots]
        grown[:, :, held:] = 0
        return grown

    def _new_room(self, like: torch.Tensor) -> torch.Tensor:
        # Zeros, not empty: a masked position has weight 0, and 0 times a stray NaN would be NaN.
        return like.new_zeros(self.slots, like.shape[1], self.room, like.shape[3])

    @property
    def _seen(self) -> int:
        return self._prefix[0][0].shape[2] if self._prefix else 0

    # What transformers asks in order to build the causal mask of a prefill: what is there before its first token.
    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self._seen

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return self._seen

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return self._seen + query_length, 0


def roomy(length: int, room: int) -> int:
    """The room that a slot of ``room`` has once it must hold ``length``: a quarter more, for few copies of it."""
    return room if length <= room else length + length // 4 + 8
