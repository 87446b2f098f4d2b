"""Files of rows as token ids ready to train on; rows that leave nothing to learn are set aside and counted."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from transformers import PreTrainedTokenizerBase

from posttrain.data.columns import RowKind, columns_from_row
from posttrain.data.readers import numbered_rows
from posttrain.data.records import SUFFIXES
from posttrain.data.rejects import BadRow, Rejects
from posttrain.data.rows import Conversation, PreferencePair, Row
from posttrain.data.tokenize import Tokenized, TrainOn, tokenize_conversation
from posttrain.errors import PosttrainError

T = TypeVar("T")

BESIDE_ROWS = ("decontamination.json", "mixture.json", "rejected.jsonl", "manifest.json")


@dataclass(frozen=True, eq=False)
class TokenizedPair:
    """A preference pair; both sides hold the whole conversation."""

    id: str
    chosen: Tokenized
    rejected: Tokenized

    def __len__(self) -> int:
        return max(len(self.chosen), len(self.rejected))

    @cached_property
    def shared_tokens(self) -> int:
        """How many tokens both sides begin with."""
        both = min(len(self.chosen), len(self.rejected))
        differ = self.chosen.input_ids[:both] != self.rejected.input_ids[:both]
        return int(differ.argmax()) if differ.any() else both

    @property
    def trained_tokens(self) -> int:
        return int(self.chosen.trained.sum() + self.rejected.trained.sum())


@dataclass(frozen=True)
class RowCounts:
    """For the manifest. ``truncated`` rows are trained on, shorter; ``set_aside`` rows stand in rejected.jsonl."""

    used: int
    truncated: int
    set_aside: int


def tokenized_conversations(
    path: Path, tokenizer: PreTrainedTokenizerBase, *, max_tokens: int, train_on: TrainOn, rejected: Path
) -> tuple[list[Tokenized], RowCounts]:
    """Every usable conversation in ``path`` (a file, or a folder with one data file), in its order."""

    def tokenize(row: Row) -> Tokenized:
        assert isinstance(row, Conversation)
        return tokenize_conversation(tokenizer, row.id, row.messages, max_tokens=max_tokens, train_on=train_on)

    rows, set_aside = _usable(path, "conversation", tokenize, rejected)
    return rows, RowCounts(len(rows), sum(row.cut > 0 for row in rows), set_aside)


def tokenized_pairs(
    path: Path, tokenizer: PreTrainedTokenizerBase, *, max_tokens: int, train_on: TrainOn, rejected: Path
) -> tuple[list[TokenizedPair], RowCounts]:
    """Every pair in ``path`` of which both sides leave something to learn, in its order."""

    def tokenize(row: Row) -> TokenizedPair:
        assert isinstance(row, PreferencePair)
        sides = (
            tokenize_conversation(tokenizer, row.id, turns, max_tokens=max_tokens, train_on=train_on)
            for turns in (row.chosen, row.rejected)
        )
        return TokenizedPair(row.id, *sides)

    pairs, set_aside = _usable(path, "preference", tokenize, rejected)
    return pairs, RowCounts(len(pairs), sum(p.chosen.cut > 0 or p.rejected.cut > 0 for p in pairs), set_aside)


def data_file(path: Path) -> Path:
    """``path`` itself; of a folder its data.jsonl, which stages write, or else the one file of rows that it holds."""
    if not path.is_dir():
        return path
    if (path / "data.jsonl").is_file():
        return path / "data.jsonl"
    files = sorted(file for file in path.iterdir() if file.name.endswith(SUFFIXES) and file.name not in BESIDE_ROWS)
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise PosttrainError(f"{path} should hold one file of rows; it holds {names}. Name one, as in stage:NAME/FILE")
    return files[0]


def _usable(path: Path, kind: RowKind, tokenize: Callable[[Row], T], rejected: Path) -> tuple[list[T], int]:
    path, rejects = data_file(path), Rejects(rejected)
    usable: list[T] = []
    for line, row in numbered_rows(path, kind, rejected=rejects):
        try:
            usable.append(tokenize(row))
        except BadRow as bad:
            rejects.add(str(path), line, bad, columns_from_row(row))
    if not usable:
        reason, count = rejects.reasons.most_common(1)[0]
        raise PosttrainError(f"{path}: no row is left to train on; most often ({count} rows): {reason}")
    return usable, rejects.count
