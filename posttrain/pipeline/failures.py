"""Failures of the machine, told apart from mistakes in the program: a full disk, memory that ran out."""

import errno
import shutil
from pathlib import Path
from typing import Any

from posttrain.errors import PosttrainError

# Libraries written in C++ and Rust lose the error number on the way to Python and keep the text.
_DISK_FULL = ("no space left on device", "disk quota exceeded", "os error 28")
_OUT_OF_MEMORY = (
    "can't allocate memory",
    "cannot allocate memory",
    "out of memory",
    "defaultcpuallocator",
    "bad_alloc",
)
_SIZES = ("micro_batch_tokens", "batch_tokens", "prompts_per_step", "max_response_tokens", "max_tokens")


def explained(error: BaseException, stage: str, settings: Any, folder: Path) -> PosttrainError | None:
    """The clear message for a failure of the machine anywhere in the chain of causes; None for anything else."""
    chain: BaseException | None = error
    seen: set[int] = set()
    while chain is not None and id(chain) not in seen:
        seen.add(id(chain))
        text = str(chain).lower()
        full = isinstance(chain, OSError) and chain.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or any(sign in text for sign in _DISK_FULL):
            free = shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists())).free
            place = getattr(chain, "filename", None) or folder
            return PosttrainError(
                f"stage {stage}: {place}: the disk is full ({free:,} bytes are free). Finished stages and this stage's "
                "checkpoints are kept: free some space, or give another place with --runs, and run the command again."
            )
        short = isinstance(chain, RuntimeError) and any(sign in text for sign in _OUT_OF_MEMORY)
        if isinstance(chain, MemoryError) or short:
            knobs = [f"{name} (now {getattr(settings, name)})" for name in _SIZES if hasattr(settings, name)]
            way_out = f"Lower stages.{stage}: {' or '.join(knobs)}" if knobs else "Free some memory"
            what = next(iter(str(chain).splitlines()), type(chain).__name__)
            return PosttrainError(
                f"stage {stage}: memory ran out ({what}). "
                f"{way_out}, and run the same command again; finished stages are kept."
            )
        chain = chain.__cause__ or chain.__context__
    return None
