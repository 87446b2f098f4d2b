"""Digests of values, files and folders: sha256, in hexadecimal."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from posttrain.errors import PosttrainError


def digest_json(value: Any) -> str:
    """Of the canonical JSON: sorted keys, no spaces, UTF-8. Equal values give equal digests, 1 and 1.0 differ."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def digest_file(path: str | os.PathLike[str]) -> str:
    """Of the file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_folder(path: str | os.PathLike[str]) -> str:
    """Of the relative path and bytes of every file below ``path``; names that begin with a dot are left out."""
    return digest_json(folder_digests(path))


def folder_digests(path: str | os.PathLike[str]) -> dict[str, str]:
    """Relative POSIX path → digest of every file below ``path``, sorted; names that begin with a dot are left out."""
    path = Path(path)
    if not path.is_dir():
        raise PosttrainError(f"{path}: no such folder.")
    files = (file for file in path.rglob("*") if file.is_file())
    relative = sorted(file.relative_to(path) for file in files)
    return {
        name.as_posix(): digest_file(path / name)
        for name in relative
        if not any(part.startswith(".") for part in name.parts)
    }


def digest_path(path: str | os.PathLike[str]) -> str:
    """Of a file or a folder, whichever it is. A missing path raises PosttrainError."""
    path = Path(path)
    if path.is_dir():
        return digest_folder(path)
    if not path.is_file():
        raise PosttrainError(f"{path}: no such file or folder.")
    return digest_file(path)
