"""Where finished work lives: one folder per (stage, key), written whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.artifacts.atomic import fsync_folder, write_json
from posttrain.artifacts.lock import Lock
from posttrain.artifacts.manifest import NAME as MANIFEST
from posttrain.artifacts.manifest import described_files, read_manifest
from posttrain.errors import PosttrainError


@dataclass(frozen=True)
class Artifact:
    """A finished stage output: ``path`` is its folder, ``key`` the hash of all that made it."""

    stage: str
    key: str
    path: Path

    @property
    def manifest(self) -> dict[str, Any]:
        """What made it: kind, settings, inputs, files, versions, seeds, hardware, started, seconds, rows, metrics."""
        return read_manifest(self.path)


@dataclass(frozen=True)
class Building:
    """An artifact being made: ``output`` starts empty, ``checkpoints`` as an earlier, killed attempt left it."""

    stage: str
    key: str
    output: Path
    checkpoints: Path


class Store:
    """The artifacts of one recipe under ``root/<recipe>/<stage>/<key>/``, and, to read, those of its siblings."""

    def __init__(self, root: str | os.PathLike[str], recipe: str):
        self.root, self.recipe = Path(root), recipe
        self.folder = self.root / recipe

    def find(self, stage: str, key: str) -> Artifact | None:
        """The finished artifact, in this recipe or else in a sibling under the same root; None if there is none.

        A finished artifact with a file missing or of another size raises PosttrainError: it is never reused in silence.
        """
        siblings = sorted(folder for folder in self.root.glob("*/") if folder != self.folder)
        for recipe in (self.folder, *siblings):
            path = recipe / stage / key
            if (path / MANIFEST).is_file():
                _check_whole(path)
                return Artifact(stage, key, path)
        return None

    @contextmanager
    def build(self, stage: str, key: str) -> Iterator[Building]:
        """Locks (stage, key) and gives a fresh output folder; ``finish`` inside the block makes it the artifact.

        Left without ``finish``, the output folder is removed and the checkpoints stay for the next attempt. A live
        builder elsewhere raises PosttrainError.
        """
        parent = self.folder / stage
        parent.mkdir(parents=True, exist_ok=True)
        with Lock(parent / f".lock-{key}", f"{self.recipe}/{stage} {key}"):
            output, checkpoints = parent / f".building-{key}", self._checkpoints(stage, key)
            shutil.rmtree(output, ignore_errors=True)  # of a killed attempt: we hold the lock, so nobody writes there
            output.mkdir()
            checkpoints.mkdir(exist_ok=True)
            try:
                yield Building(stage, key, output, checkpoints)
            finally:
                shutil.rmtree(output, ignore_errors=True)
                if checkpoints.is_dir() and not any(checkpoints.iterdir()):
                    checkpoints.rmdir()

    def finish(self, building: Building, manifest: dict[str, Any]) -> Artifact:
        """Adds the digests of its files to the manifest, makes everything durable, and renames it into place."""
        final = self.folder / building.stage / building.key
        manifest = {"stage": building.stage, "key": building.key, **manifest, "files": described_files(building.output)}
        write_json(building.output / MANIFEST, manifest)
        _fsync_tree(building.output)
        os.rename(building.output, final)
        fsync_folder(final.parent)
        shutil.rmtree(building.checkpoints, ignore_errors=True)
        return Artifact(building.stage, building.key, final)

    def drop_checkpoints(self, stage: str, key: str) -> None:
        """Removes checkpoints that a kill between rename and removal left beside a finished artifact."""
        checkpoints = self._checkpoints(stage, key)
        if checkpoints.is_dir():
            with Lock(checkpoints.parent / f".lock-{key}", f"{self.recipe}/{stage} {key}"):
                shutil.rmtree(checkpoints)

    def has_checkpoints(self, stage: str, key: str) -> bool:
        """Whether an earlier attempt left something to continue from."""
        checkpoints = self._checkpoints(stage, key)
        return checkpoints.is_dir() and any(checkpoints.iterdir())

    def _checkpoints(self, stage: str, key: str) -> Path:
        return self.folder / stage / f".checkpoints-{key}"


def _check_whole(path: Path) -> None:
    for name, file in read_manifest(path)["files"].items():
        found = path / name
        if not found.is_file() or found.stat().st_size != file["bytes"]:
            state = f"has {found.stat().st_size:,} bytes, not {file['bytes']:,}" if found.is_file() else "is missing"
            raise PosttrainError(f"{found} {state}: the artifact is damaged. Remove {path} to have it built again.")


def _fsync_tree(folder: Path) -> None:
    for parent, _, files in os.walk(folder):
        for name in files:
            descriptor = os.open(Path(parent) / name, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        fsync_folder(Path(parent))
