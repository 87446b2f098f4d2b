"""Random numbers keyed by (seed, prompt_id, sample_index, position) alone.

A sample is therefore the same whatever else is in the batch, whatever the order of the requests, and after a restart:
there is no generator state to save.
"""

from hashlib import blake2b

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_SHIFT_30, _SHIFT_27, _SHIFT_31, _SHIFT_12 = (np.uint64(n) for n in (30, 27, 31, 12))


def stream_key(seed: int, prompt_id: str, sample_index: int) -> int:
    """The 64-bit name of one completion's stream of random numbers."""
    # The numbers come first and hold no separator, so no two triples render to the same bytes.
    name = f"{seed}|{sample_index}|{prompt_id}".encode()
    return int.from_bytes(blake2b(name, digest_size=8).digest(), "little")


def uniforms(keys_B: np.ndarray, positions_B: np.ndarray) -> np.ndarray:
    """One number per row, uniform on [0, 1): the ``positions_B[b]``-th of stream ``keys_B[b]`` (integers, shape [B]).

    SplitMix64 (Steele, Lea and Flood 2014, figure 15), a counter through a 64-bit mixer, so any position is reached
    at once. 52 bits are kept: u * total then rounds below total for every total, and a draw cannot fall off the end of
    a cumulative sum.
    """
    with np.errstate(over="ignore"):
        state_B = keys_B.astype(np.uint64) + (positions_B.astype(np.uint64) + np.uint64(1)) * _GOLDEN
        state_B = (state_B ^ (state_B >> _SHIFT_30)) * _MIX_1
        state_B = (state_B ^ (state_B >> _SHIFT_27)) * _MIX_2
        state_B = state_B ^ (state_B >> _SHIFT_31)
    return (state_B >> _SHIFT_12).astype(np.float64) * 2.0**-52
