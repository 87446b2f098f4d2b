"""Which sequences begin alike, so that their common beginning is computed once for all of them."""

from collections.abc import Iterable, Mapping, Sequence

from posttrain.inference.cache import KeysAndValues

LEAST = 64  # tokens; a shorter beginning is computed again with each sequence


def shared_prefixes(sequences: Iterable[Sequence[int]], least: int = LEAST) -> dict[tuple[int, ...], int]:
    """Sequence → how many of its first tokens it shares with its group; 0: it stands alone.

    Sorted, sequences that begin alike are neighbours. A group takes in its next neighbour while the tokens saved, (size
    - 1) times the common beginning, do not get fewer. Two tokens of each sequence always stay its own: one to go on
    from, and one that the last of the common beginning predicts.
    """
    ordered = sorted({tuple(sequence) for sequence in sequences})
    lengths = dict.fromkeys(ordered, 0)
    start, common = 0, 0
    for end in range(1, len(ordered) + 1):
        size = end - start
        if end < len(ordered):
            alike = _alike(ordered[end - 1], ordered[end])
            together = alike if size == 1 else min(common, alike)
            if together >= least and size * together >= (size - 1) * common:
                common = together
                continue
        if size > 1:
            lengths |= dict.fromkeys(ordered[start:end], common)
        start, common = end, 0
    return lengths


def _alike(a: Sequence[int], b: Sequence[int]) -> int:
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return min(low - 1, len(a) - 2, len(b) - 2)


class Beginnings:
    """The common beginnings of listed prompts, and the keys and values of the last one that was computed."""

    def __init__(self, lengths: Mapping[tuple[int, ...], int]):
        self._lengths = lengths
        self.held: tuple[int, ...] = ()
        self.computed: KeysAndValues = []

    def groups(self, prompts: Iterable[tuple[int, ...]]) -> list[tuple[tuple[int, ...], list[tuple[int, ...]]]]:
        """(beginning, the prompts that have it), the one at hand first."""
        found: dict[tuple[int, ...], list[tuple[int, ...]]] = {self.held: []}
        for prompt in prompts:
            found.setdefault(prompt[: self._lengths.get(prompt, 0)], []).append(prompt)
        return [(prefix, own) for prefix, own in found.items() if own]

    def hold(self, prefix: tuple[int, ...], computed: KeysAndValues) -> None:
        self.held, self.computed = prefix, computed
