"""The pool: order, limits, replaced workers, and every item answered once."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest

from posttrain.errors import PosttrainError
from posttrain.verifiers.pool import VerifierPool

# A keyword is a regular expression of the label's; this one backtracks for ages in the interpreter's C code, where no
# signal handler and no thread could stop it.
HANGS = (
    "ifeval",
    "a" * 60 + "!",
    json.dumps([{"instruction_id": ["keywords:existence"], "kwargs": [{"keywords": ["(a+)+$"]}]}]),
)


def sums(count):
    """Items of which each third is wrong."""
    return [("gsm8k", f"It is {i}.", str(i if i % 3 else i + 1)) for i in range(count)]


def outcomes(verdicts):
    return [verdict.outcome for verdict in verdicts]


def expected(count):
    return ["correct" if i % 3 else "wrong" for i in range(count)]


@pytest.fixture(scope="module")
def pool():
    with VerifierPool(2, 2.0) as shared:
        yield shared


def test_results_come_in_order_and_workers_are_reused(pool):
    assert outcomes(pool.verify(iter(sums(1000)))) == expected(1000)
    processes = [worker.process.pid for worker in pool._workers]
    assert outcomes(pool.verify(sums(10))) == expected(10)
    assert [worker.process.pid for worker in pool._workers] == processes
    assert pool.verify([]) == []


def test_a_late_item_is_a_timeout_and_costs_no_other(pool):
    items = sums(300)
    items[7] = items[200] = HANGS
    found = outcomes(pool.verify(items))
    wanted = expected(300)
    wanted[7] = wanted[200] = "timeout"
    assert found == wanted
    assert outcomes(pool.verify(sums(5))) == expected(5)


def handed_out(pool):
    """The batches that the pool makes from now on, as they are made."""
    batches, hand_out = {}, pool._hand_out

    def watched(items, pending):
        hand_out(items, pending)
        batches.update({(worker, tuple(worker.batch)): worker.batch for worker in pool._workers if worker.batch})

    pool._hand_out = watched
    return batches.values()


def test_answers_to_one_label_are_judged_together():
    items = [("gsm8k", f"It is {i}.", str(i // 20)) for i in range(2000)]
    with VerifierPool(2, 60.0) as pool:
        batches = handed_out(pool)
        assert outcomes(pool.verify(items)) == ["correct" if i == i // 20 else "wrong" for i in range(2000)]
    first = {}  # of what is handed out twice, the first
    for number, batch in enumerate(batches):
        first |= {index: first.get(index, number) for index in batch}
    assert all(len({first[index] for index in range(at, at + 20)}) == 1 for at in range(0, 1800, 20))


def test_what_a_slow_batch_has_not_begun_is_handed_out_again():
    slow = ("ifeval", "a" * 24 + "!", HANGS[2])
    with VerifierPool(2, 60.0) as pool:
        pool.verify(sums(100))
        processes, batches = [worker.process.pid for worker in pool._workers], handed_out(pool)
        found = outcomes(pool.verify([slow] * 4 + sums(300)))
        assert found == ["wrong"] * 4 + expected(300)
        assert sum(8 in batch for batch in batches) > 1
        assert [worker.process.pid for worker in pool._workers] == processes


def test_an_unreadable_label_is_an_error_of_that_item_alone(pool):
    verdicts = pool.verify([("gsm8k", "3", "three"), ("gsm8k", "3", "3"), ("ifeval", "x", "{}")])
    assert outcomes(verdicts) == ["error", "correct", "error"]
    assert "holds no number" in verdicts[0].detail and verdicts[0].score == 0.0


def test_an_unknown_verifier_stops_before_anything_is_judged(pool):
    with pytest.raises(PosttrainError, match="nearest"):
        pool.verify([("gsm8k", "3", "3"), ("nonesuch", "3", "3")])


def test_any_text_travels(pool):
    texts = ["\ud800 lone surrogate", "\x00\x02\x03", "é\n" * 10, "", "x" * 2_000_000]
    verdicts = pool.verify([("exact_match", text, "é") for text in texts])
    assert outcomes(verdicts) == ["wrong"] * len(texts)


def test_as_finished_answers_each_index_once(pool):
    seen = [index for index, _ in pool.verify_as_finished(sums(500))]
    assert sorted(seen) == list(range(500))


def test_leaving_early_leaves_a_usable_pool(pool):
    iterator = pool.verify_as_finished([*sums(300), HANGS])
    next(iterator)
    iterator.close()
    assert outcomes(pool.verify(sums(20))) == expected(20)


def test_threads_may_share_a_pool(pool):
    results = {}

    def judge(name):
        results[name] = outcomes(pool.verify(sums(200)))

    threads = [threading.Thread(target=judge, args=(name,)) for name in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found == expected(200) for found in results.values()) and len(results) == 3


def test_a_worker_killed_from_outside_is_replaced_and_its_item_tried_again():
    with VerifierPool(1, 60.0) as pool:
        pool.verify(sums(1))
        victim = pool._workers[0].process
        threading.Timer(0.7, victim.kill).start()
        # Slow enough to be caught at it once, then quick by comparison with the limit.
        slow = ("ifeval", "a" * 24 + "!", HANGS[2])
        found = outcomes(pool.verify([*sums(100), slow, *sums(100)]))
        assert found[:100] == found[101:] == expected(100)
        assert found[100] in ("wrong", "correct")


def test_an_item_whose_worker_dies_twice_is_an_error():
    with VerifierPool(1, 60.0) as pool:
        done, killed = threading.Event(), []

        def kill_who_is_at_one_item_for_long():
            while not done.wait(0.05):
                for worker in list(pool._workers):
                    if worker.batch and worker.at()[0] >= 0 and time.monotonic() - worker.at()[1] > 1.0:
                        os.kill(worker.process.pid, signal.SIGKILL)
                        killed.append(worker.process.pid)

        killer = threading.Thread(target=kill_who_is_at_one_item_for_long)
        killer.start()
        items, wanted = sums(40), expected(40)
        items[5], wanted[5] = HANGS, "error"
        try:
            found = pool.verify(items)
        finally:
            done.set()
            killer.join()
        assert outcomes(found) == wanted and "died twice" in found[5].detail
        assert len(set(killed)) == 2


def test_the_workers_memory_is_bounded():
    with VerifierPool(1, 5.0, memory_bytes=2**30) as pool:
        pool.verify(sums(1))
        limits = open(f"/proc/{pool._workers[0].process.pid}/limits").read()
    assert str(2**30) in next(line for line in limits.splitlines() if line.startswith("Max address space"))


def test_a_worker_that_cannot_start_is_reported(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with VerifierPool(1, 1.0) as pool, pytest.raises(PosttrainError, match="verifier workers in a row"):
        pool.verify(sums(3))


def test_close_ends_the_workers_and_refuses_more():
    pool = VerifierPool(2, 1.0)
    pool.verify(sums(50))
    processes = [worker.process for worker in pool._workers]
    assert processes
    pool.close()
    assert all(process.poll() is not None for process in processes)
    with pytest.raises(PosttrainError, match="closed"):
        pool.verify(sums(1))


def test_workers_end_with_the_process_that_made_them():
    code = (
        "import os\nfrom posttrain.verifiers.pool import VerifierPool\n"
        "pool = VerifierPool(1, 5.0)\npool.verify([('gsm8k', '3', '3')])\n"
        "print(pool._workers[0].process.pid, flush=True)\nos._exit(1)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    orphan = int(ran.stdout)
    until = time.monotonic() + 10
    while os.path.exists(f"/proc/{orphan}") and "Z" not in open(f"/proc/{orphan}/stat").read().split()[2]:
        assert time.monotonic() < until, "the worker outlived its parent"
        time.sleep(0.05)


def test_impossible_pools_are_refused():
    for arguments in ((0, 1.0), (1, 0.0)):
        with pytest.raises(PosttrainError):
            VerifierPool(*arguments)
    with pytest.raises(PosttrainError, match="mode"):
        VerifierPool(1, 1.0, "lenient")


@pytest.mark.long
def test_under_fire_every_item_is_answered_once():
    count = 15_000  # a killed worker takes seconds to begin anew on a busy machine
    with VerifierPool(2, 5.0) as pool:
        done = threading.Event()

        kills, rng = [], random.Random(0)

        def shoot():
            while not done.wait(rng.uniform(0.05, 0.2)):
                # One that has only begun would never get on, however slow the machine.
                judging = [worker for worker in list(pool._workers) if worker.batch and worker.done]
                for worker in rng.sample(judging, k=min(1, len(judging))):
                    worker.process.kill()
                    kills.append(worker.process.pid)

        gunner = threading.Thread(target=shoot)
        gunner.start()
        items = [("math", rf"\boxed{{\frac{{{i}}}{{7}}}}", f"{i}/7 + x - x" if i % 3 else "2") for i in range(count)]
        try:
            answered = list(pool.verify_as_finished(items))
        finally:
            done.set()
            gunner.join()
    assert sorted(index for index, _ in answered) == list(range(count))
    judged = [(index, verdict) for index, verdict in answered if verdict.outcome != "error"]
    assert len(judged) > count - 50 and len(set(kills)) >= 5
    assert all((verdict.outcome == "correct") == (index % 3 != 0) for index, verdict in judged)
