"""The plan of a run: every row once an epoch, or as many batches as a token budget takes."""

from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from posttrain.training.metrics import MetricsLog
from posttrain.training.plan import plan_steps, plan_tokens


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 3))
def test_every_row_stands_in_each_epoch_once(rows, batch_size, epochs):
    orders = [list(range(rows))[::-1] for _ in range(epochs)]
    plan = plan_steps(orders, batch_size)
    assert sum(plan, []) == sum(orders, [])
    assert all(0 < len(batch) <= batch_size for batch in plan)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=20), st.integers(1, 6), st.integers(1, 200))
def test_a_token_budget_is_met_with_the_last_batch_and_not_before(tokens, batch_size, budget):
    plan = plan_tokens((list(range(len(tokens))) for _ in count()), batch_size, tokens, budget)
    spent = [sum(tokens[i] for i in batch) for batch in plan]
    assert sum(spent) >= budget > sum(spent[:-1])


def test_the_metrics_log_drops_steps_that_are_made_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, 0)
    for step in (1, 2, 3):
        log.append(step, loss=step / 2)
    log.close()
    with open(path, "a") as file:
        file.write('{"step": 4, "lo')
    log = MetricsLog(path, 2)
    log.append(3, loss=9.0)
    log.close()
    assert path.read_text() == '{"step":1,"loss":0.5}\n{"step":2,"loss":1.0}\n{"step":3,"loss":9.0}\n'
