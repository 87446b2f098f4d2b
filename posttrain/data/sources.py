"""Where the rows of a mixture's part come from: a local file or folder, or a dataset of the Hugging Face hub."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from posttrain.artifacts.hashing import digest_file
from posttrain.artifacts.hub import looks_like_hub_id, resolve_commit
from posttrain.data.columns import RowKind
from posttrain.data.layouts import AS_PUBLISHED, Layout
from posttrain.data.readers import read_rows, rows_from_records
from posttrain.data.records import SUFFIXES, Record
from posttrain.data.rejects import Rejects
from posttrain.data.rows import Row
from posttrain.errors import PosttrainError


@dataclass(frozen=True)
class LocalSource:
    """One file. ``name`` is the same on any machine: the hub id that it stands for, the stage, or the file's own name.

    ``place`` is what messages and rejects call it.
    """

    name: str
    path: Path
    place: str
    layout: Layout = AS_PUBLISHED

    def rows(self, kind: RowKind, *, rejects: Rejects | None, limit: int | None) -> Iterator[Row]:
        names = {"source": self.name, "place": self.place}
        return read_rows(self.path, kind, rejected=rejects, limit=limit, layout=self.layout, **names)

    @property
    def provenance(self) -> dict[str, str]:
        """What the rows hang on: in the manifest, so that the same rows can be had again."""
        return {"file": self.path.name, "sha256": digest_file(self.path)}


@dataclass(frozen=True)
class HubSource:
    """One split of a hub dataset at one commit."""

    name: str
    split: str
    commit: str
    layout: Layout = AS_PUBLISHED

    def rows(self, kind: RowKind, *, rejects: Rejects | None, limit: int | None) -> Iterator[Row]:
        place, records = f"{self.name}@{self.commit[:12]}/{self.split}", islice(self._records(), limit)
        rows = rows_from_records(records, kind, place=place, rejects=rejects, source=self.name, layout=self.layout)
        return (row for _, row in rows)

    def _records(self) -> Iterator[Record]:
        import datasets

        try:
            rows = datasets.load_dataset(self.name, revision=self.commit, split=self.split, streaming=True)
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            raise PosttrainError(f"{self.name} at {self.commit}, split {self.split}: {error}") from error
        return enumerate(rows, start=1)

    @property
    def provenance(self) -> dict[str, str]:
        return {"hub": self.name, "commit": self.commit, "split": self.split}


def find_source(
    reference: str | Path,
    *,
    hub_mirror: Mapping[str, str],
    revision: str | None = None,
    split: str = "train",
    name: str | None = None,
    layout: Layout = AS_PUBLISHED,
) -> LocalSource | HubSource:
    """The source behind a mirrored hub id, a local path (always, if it is a Path) or a hub id, in that order.

    A folder stands for the file ``data`` or ``SPLIT`` in it, with any suffix that is read. ``name`` is the source's
    name where it has another than the reference gives it, such as ``stage:NAME``. Raises PosttrainError where there is
    no such file, or the hub cannot be asked.
    """
    path = Path(reference).expanduser()
    if isinstance(reference, Path):
        return _local(path, split, name, layout)
    if reference in hub_mirror:
        return _local(Path(hub_mirror[reference]).expanduser(), split, name or reference, layout)
    if path.exists() or not looks_like_hub_id(reference):
        return _local(path, split, name, layout)
    _, commit = resolve_commit(reference, revision, prefer="dataset")
    return HubSource(reference, split, commit, layout)


def _local(path: Path, split: str, name: str | None, layout: Layout) -> LocalSource:
    file = _file(path, split, name or str(path))
    if name is None:
        return LocalSource(file.name if path.is_file() else f"{path.name}/{file.name}", file, str(file), layout)
    return LocalSource(name, file, name if name.endswith(file.name) else f"{name} ({file.name})", layout)


def _file(path: Path, split: str, name: str) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise PosttrainError(f"{name}: no file or folder {path}. Check the path in the recipe.")
    for stem in ("data", split):
        for suffix in SUFFIXES:
            if (path / f"{stem}{suffix}").is_file():
                return path / f"{stem}{suffix}"
    raise PosttrainError(f"{name}: the folder {path} holds neither data nor {split} with one of {', '.join(SUFFIXES)}.")
