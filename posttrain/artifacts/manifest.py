"""What made an artifact: the record that every number in a report leads back to."""

import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any

from posttrain.artifacts.hashing import folder_digests
from posttrain.errors import PosttrainError

NAME = "manifest.json"

# Packages whose release can change what a stage writes.
PACKAGES = (
    "posttrain",
    "torch",
    "transformers",
    "tokenizers",
    "datasets",
    "safetensors",
    "numpy",
    "scipy",
    "pyarrow",
    "pydantic",
    "sympy",
    "antlr4-python3-runtime",
    "langdetect",
    "nltk",
    "emoji",
    "syllapy",
)


def read_manifest(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The manifest of a finished artifact. Raises PosttrainError where there is none or it is damaged."""
    path = Path(folder) / NAME
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PosttrainError(f"{path}: no such file, so {folder} is no finished artifact.") from None
    except ValueError as error:
        raise PosttrainError(f"{path}: damaged ({error}). Remove {folder} and run again.") from error
    if not isinstance(manifest, dict):
        raise PosttrainError(f"{path}: damaged (no JSON object). Remove {folder} and run again.")
    return manifest


def described_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Relative path → ``{"sha256", "bytes"}`` of everything in the artifact but its manifest."""
    return {
        name: {"sha256": digest, "bytes": (folder / name).stat().st_size}
        for name, digest in folder_digests(folder).items()
        if name != NAME
    }


def package_versions() -> dict[str, str]:
    """Installed versions of the packages that can change an output, and Python's own."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # an optional one that is not installed here
    return versions


def hardware(device: str, threads: int) -> dict[str, Any]:
    """The machine, without its name or any path: processor, memory in GiB, threads used, device."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    found: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(pages / 2**30, 1),
        "threads": threads,
        "device": device,
    }
    if device.startswith("cuda"):
        import torch

        found["gpu"] = torch.cuda.get_device_name()
    return found


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:  # no /proc on macOS
        pass
    return platform.processor() or platform.machine()
