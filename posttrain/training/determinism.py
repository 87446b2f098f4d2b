"""Same seed, same threads, same bits."""

import os
import random

import numpy as np
import torch


def make_deterministic(seed: int, threads: int | None = None) -> None:
    """Seeds Python, numpy and torch, and makes torch refuse nondeterministic kernels.

    ``threads``: CPU threads of one operation; None leaves them. Sums are split by thread count, so the same bits need
    the same count: checkpoints record it and a resume sets it again.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it at its first call
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)
    # By default it also fills every new tensor with NaN, a debugging aid that costs a pass over memory.
    setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010
    if threads is not None:
        torch.set_num_threads(threads)
