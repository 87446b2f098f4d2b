"""Seeds derived from the run's seed: the same on every machine, process and Python version."""

import hashlib


def derived_seed(*parts: int | str) -> int:
    """A seed in [0, 2⁶³) that depends on every part and their order, e.g. ``derived_seed(seed, "shuffle", step)``."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
