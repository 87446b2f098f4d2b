"""What is told of sampler and learner when actors drew the batch."""

import pytest

from posttrain.rl.probe import larger_gap


@pytest.mark.parametrize(("staleness", "expected"), [(0.0, 0.5), (1.0, 1e-7)])
def test_tokens_drawn_unlike_they_are_scored_show_at_equal_weights(staleness, expected):
    """At older weights the drawn tokens' difference is the policy's own way since."""
    of_actors = {"staleness": staleness, "logp_gap": 1e-7, "waited": 0.1}
    told = larger_gap(of_actors, {"logp_gap": 0.5, "score": 1.0})
    assert told == of_actors | {"logp_gap": expected}


def test_without_actors_the_batch_tells_its_own_gap():
    assert larger_gap({}, {"logp_gap": 0.5}) == {}
