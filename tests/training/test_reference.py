"""Reference log-probabilities that are not finite: kept over a kill, and the loop's to judge."""

import math
from types import SimpleNamespace

import pytest
import torch

from posttrain.artifacts.jsonl import read_jsonl
from posttrain.training.reference import cached_reference

QUIET = SimpleNamespace(start=lambda *_, **__: None, advance=lambda *_, **__: None, note=lambda _: None)
CHOSEN = {0: -1.5, 1: -math.inf, 2: math.nan}


def score(group: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor([CHOSEN[group]]), torch.tensor([-2.0 - group])


@pytest.mark.parametrize("killed_at", [None, 1, 2])
def test_what_is_not_finite_is_nan_and_the_others_are_kept(tmp_path, killed_at):
    def dies(group):
        if group == killed_at:
            raise KeyboardInterrupt
        return score(group)

    share = [[0], [1], [2]]
    if killed_at:
        with pytest.raises(KeyboardInterrupt):
            cached_reference(tmp_path, 3, share, dies, QUIET)
        assert len(list(read_jsonl(tmp_path / "reference-0-of-1.jsonl"))) == killed_at
    found = cached_reference(tmp_path, 3, share, score, QUIET)
    assert found["chosen"][0] == -1.5 and found["chosen"][1:].isnan().all()
    assert found["rejected"].tolist() == [-2.0, -3.0, -4.0]
