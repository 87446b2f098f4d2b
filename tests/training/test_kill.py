"""Kill -9 at random moments, twenty times over SFT, DPO and the reward model: the same weights to the bit."""

import multiprocessing
import random
import time

import pytest
from safetensors.torch import load_file

from tests.stages.conftest import conversations, pairs, tiny_model, write_lines  # noqa: F401 — fixtures
from tests.training.rank_work import run_stage

KILLS = {"sft": 7, "dpo": 7, "reward_model": 6}
EPOCHS = 20


def work(kind: str, settings: dict, folder) -> None:
    import torch

    torch.set_num_threads(1)
    run_stage(kind, settings, folder)


def killed_after(line: int, delay: float, process, log) -> bool:
    """Kills ``process`` once its log has so many lines, ``delay`` seconds later; False when it was done before."""
    process.start()
    while process.is_alive() and (not log.exists() or log.read_bytes().count(b"\n") < line):
        time.sleep(0.001)
    time.sleep(delay)
    process.kill()
    process.join()
    return process.exitcode == -9


@pytest.mark.long
@pytest.mark.parametrize("kind", KILLS)
def test_killed_runs_end_in_the_weights_of_one_that_was_not(tmp_path, tiny_model, conversations, pairs, kind):  # noqa: F811
    settings = dict(model=str(tiny_model), chat_template="tulu", learning_rate=1e-3, max_tokens=96, dtype="float32")
    settings |= dict(batch_size=5, micro_batch_tokens=96, checkpoint_every=2, epochs=EPOCHS, unchecked="a test")
    settings |= {"data": conversations if kind == "sft" else pairs}
    start = multiprocessing.get_context("forkserver")
    start.set_forkserver_preload(["tests.training.rank_work"])
    straight, killed = tmp_path / "straight", tmp_path / "killed"

    def process(folder):
        return start.Process(target=work, args=(kind, settings, folder))

    whole = process(straight)
    whole.start()
    whole.join()
    assert whole.exitcode == 0
    log = "metrics.jsonl"
    steps = (straight / "output" / log).read_bytes().count(b"\n")
    rng = random.Random(kind)
    for number in range(KILLS[kind]):
        span = steps // (KILLS[kind] + 1)
        line = number * span + rng.randint(1, span)
        assert killed_after(line, rng.uniform(0, 0.05), process(killed), killed / "checkpoints" / log), number
    last = process(killed)
    last.start()
    last.join()
    assert last.exitcode == 0
    assert (killed / "output" / log).read_bytes().count(b"\n") == steps
    expected, found = (load_file(folder / "output" / "model.safetensors") for folder in (straight, killed))
    assert expected.keys() == found.keys()
    assert all((expected[name] == found[name]).all() for name in expected)
