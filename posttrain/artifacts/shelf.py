"""Values by number on the disk: what a stage knows of all its prompts may be larger than memory."""

import errno
import os
import pickle
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from posttrain.artifacts.atomic import disk_full

T = TypeVar("T")
Shown = TypeVar("Shown", covariant=True)


class Numbered(Protocol[Shown]):
    """A list or a `Shelf`: read by number, or from the start as often as is wanted."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> Shown: ...

    def __iter__(self) -> Iterator[Shown]: ...


class Shelf(Generic[T]):
    """Values by number from 0, pickled into a nameless file in ``folder``, which goes when nobody refers to it.

    In memory are 8 bytes a number. Numbers may be filled in any order; a value put again replaces the old one. A full
    disk raises PosttrainError.
    """

    def __init__(self, folder: Path | None = None):
        self._folder = folder or Path(tempfile.gettempdir())
        self._folder.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115: read for as long as the values are
        self._begins = array("q")  # -1: empty

    @classmethod
    def of(cls, values: Iterable[T], folder: Path | None = None) -> "Shelf[T]":
        shelf = cls(folder)
        for value in values:
            shelf.put(len(shelf), value)
        return shelf

    def put(self, number: int, value: T) -> None:
        if number >= len(self._begins):
            self._begins.extend([-1] * (number + 1 - len(self._begins)))
        begin = self._file.seek(0, os.SEEK_END)
        try:
            self._file.write(pickle.dumps(value, pickle.HIGHEST_PROTOCOL))
            self._file.flush()
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise disk_full(self._folder, written=begin) from error
            raise
        self._begins[number] = begin

    def get(self, number: int) -> T | None:
        """None: nothing was put there."""
        return self[number] if number in self else None

    def __contains__(self, number: int) -> bool:
        return number < len(self._begins) and self._begins[number] >= 0

    def __len__(self) -> int:
        return len(self._begins)

    def __getitem__(self, number: int, /) -> T:
        """Raises IndexError for a number where nothing was put."""
        begin = self._begins[number]
        if begin < 0:
            raise IndexError(number)
        self._file.seek(begin)
        return pickle.load(self._file)

    def __iter__(self) -> Iterator[T]:
        return (self[number] for number in range(len(self)))
