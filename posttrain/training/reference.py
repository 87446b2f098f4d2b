"""Reference log-probabilities: computed once by the initial policy, kept on disk, never again."""

from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch

from posttrain.artifacts.atomic import write_bytes


def cached_reference(path: Path, compute: Callable[[], dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The tensors in ``path`` (safetensors), made by ``compute`` and written whole when it is not there.

    Call it BEFORE a checkpoint is loaded: ``compute`` then always sees the initial policy, and a run that is killed and
    resumed reads what the initial policy said.
    """
    if not path.exists():
        write_bytes(path, safetensors.torch.save({name: t.contiguous() for name, t in compute().items()}))
    return safetensors.torch.load_file(path)
