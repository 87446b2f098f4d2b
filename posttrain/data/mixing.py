"""Which rows of a source are used, and in what order: the same on any machine, with any version of any library."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from posttrain.data.content import fingerprint
from posttrain.data.rows import Row


def keyed_order(keys: Iterable[str], seed: int, purpose: str) -> list[int]:
    """The positions of ``keys`` in a random order drawn from (seed, purpose, key) alone; equal keys by position.

    Sorts by a keyed hash, since the shuffles of ``random`` and numpy may change with their versions. A row keeps its
    place among the others when rows are added or removed elsewhere.
    """
    salt = hashlib.blake2b(f"{seed}\0{purpose}".encode(), digest_size=32).digest()

    def digest(key: str) -> bytes:
        return hashlib.blake2b(key.encode(), key=salt, digest_size=16).digest()

    digests = [digest(key) for key in keys]
    return sorted(range(len(digests)), key=lambda position: (digests[position], position))


def requested(
    available: int, *, fraction: float | None = None, count: int | None = None, repeat: int | None = None
) -> int:
    """How many rows a source was asked for. Halves of a row are rounded to the even count."""
    if fraction is not None:
        return round(fraction * available)
    if count is not None:
        return count
    return available * (repeat or 1)


def select(
    ids: Sequence[str],
    *,
    fraction: float | None = None,
    count: int | None = None,
    repeat: int | None = None,
    seed: int,
    source: str,
) -> list[int]:
    """The positions that are used, ascending: of a random ``fraction``, of ``count``, or all of them ``repeat`` times.

    A count beyond what is there gives what is there: rows are repeated only by ``repeat``.
    """
    if repeat is not None:
        return [*range(len(ids))] * repeat
    wanted = min(len(ids), requested(len(ids), fraction=fraction, count=count))
    return sorted(keyed_order(ids, seed, f"select {source}")[:wanted])


@dataclass(frozen=True)
class Fresh:
    """Rows whose content is new: their positions, the fingerprints of their content, and by source, how many of the
    others repeat a row of it."""

    positions: list[int]
    fingerprints: list[str]
    copies_of: Counter[str]


def without_duplicates(rows: Iterable[Row], used: Mapping[str, str], source: str) -> Fresh:
    """The first of each content that is not in ``used`` (fingerprint → source)."""
    positions, own, repeated = [], dict[str, None](), Counter[str]()
    for position, row in enumerate(rows):
        content = fingerprint(row)
        if content in used:
            repeated[used[content]] += 1
        elif content in own:
            repeated[source] += 1
        else:
            own[content] = None
            positions.append(position)
    return Fresh(positions, list(own), repeated)


def unique_ids(ids: Iterable[str]) -> Iterator[str]:
    """Later rows of an id get ``#2``, ``#3``…: randomness and records are keyed by id."""
    seen: set[str] = set()
    copies: Counter[str] = Counter()
    for id in ids:
        fresh = id
        while fresh in seen:
            copies[id] += 1
            fresh = f"{id}#{copies[id] + 1}"
        seen.add(fresh)
        yield fresh
