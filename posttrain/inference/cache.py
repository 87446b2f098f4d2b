"""The keys and values of every running completion, one slot each, behind transformers' cache interface."""

import torch
from transformers.cache_utils import Cache

# A CPU reads all of a slot's room in less time than part of it, as the gaps between slots defeat its prefetcher: per
# layer, 60 of 60 positions take 1.1 ms, 60 of 72 take 2.8, 96 of 96 take 1.7 (256 rows of 6 heads of 32, one core). So
# the room is kept tight, and is read whole unless most of it is unused.
_MOST = 3


class SlotCache(Cache):
    """Keys and values per layer, shape [slots, heads, room, head dimension], filled from position 0 in every slot.

    ``prefill``: the next forward runs over whole prompts; their keys and values are kept aside in ``fresh`` until
    ``insert`` writes them into slots. ``decode``: the next forward runs over one token of each of the first B slots,
    writes each row's key and value at its own position and attends over as many positions as ``decode`` returns. What
    lies beyond a row's position is stale or zero and must be masked by the caller.
    """

    def __init__(self, slots: int):
        super().__init__(layers=[])
        self.slots = slots
        self.room = 0
        self.fresh: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._stored: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._positions_B: torch.Tensor | None = None
        self._written_BH: torch.Tensor | None = None
        self._attended = 0

    def prefill(self) -> None:
        self.fresh = []
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
        if self._positions_B is None:
            self.fresh.append((key_states, value_states))
            return key_states, value_states
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
        length = self.fresh[0][0].shape[2]
        self._reserve(length)
        for layer, fresh in enumerate(self.fresh):
            if layer == len(self._stored):
                self._stored.append((self._new_room(fresh[0]), self._new_room(fresh[1])))
            for stored, new in zip(self._stored[layer], fresh, strict=True):
                stored[slots_S, :, :length] = new[sources_S]
        self.fresh = []

    def copy(self, targets_S: torch.Tensor, sources_S: torch.Tensor, length: int) -> None:
        """Copies the first ``length`` positions of slots ``sources_S`` to slots ``targets_S``."""
        for layer in self._stored:
            for stored in layer:
                stored[targets_S, :, :length] = stored[sources_S, :, :length]

    def _reserve(self, length: int) -> None:
        if length <= self.room:
            return
        self.room = length + length // 4 + 8  # a quarter to grow into: few copies, little read in vain
        for layer, (keys, values) in enumerate(self._stored):
            self._stored[layer] = (self._grown(keys), self._grown(values))

    def _grown(self, stored: torch.Tensor) -> torch.Tensor:
        grown = self._new_room(stored)
        grown[:, :, : stored.shape[2]] = stored
        return grown

    def _new_room(self, like: torch.Tensor) -> torch.Tensor:
        # Zeros, not empty: a masked position has weight 0, and 0 times a stray NaN would be NaN.
        return like.new_zeros(self.slots, like.shape[1], self.room, like.shape[3])

    # What transformers asks in order to build the causal mask of a prefill: nothing is there before the prompt.
    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return query_length, 0
