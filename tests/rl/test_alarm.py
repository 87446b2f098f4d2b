"""The alarm on recorded and made-up traces."""

import json
import math
import random
from pathlib import Path

import pytest

from posttrain.rl.alarm import Look, OveroptimisationAlarm, paired_difference

TRACES = Path(__file__).with_name("traces.json")


def looks(rewards, shares, prompts=200, kls=None, seed=0):
    """Looks at the same prompts, of which each share is answered right; which ones overlaps as much as it can."""
    order = list(range(prompts))
    random.Random(seed).shuffle(order)
    for step, (reward, share) in enumerate(zip(rewards, shares, strict=True)):
        scores = [0.0] * prompts
        for at in order[: round(share * prompts)]:
            scores[at] = 1.0
        yield Look(10 * step, reward, kls[step] if kls else 0.5, tuple(scores))


def reasons(alarm, trace):
    return [alarm.observe(look) for look in trace]


def test_a_reward_that_rises_while_held_out_falls_is_reported_with_both():
    found = reasons(OveroptimisationAlarm(), looks([2, 5, 9], [0.6, 0.62, 0.4]))
    assert found[:2] == [None, None]
    assert found[2] and "5.00 to 9.00 since step 10" in found[2] and "62.0% to 40.0%" in found[2]


@pytest.mark.parametrize(
    ("rewards", "shares"),
    [
        ([2, 5, 9], [0.60, 0.65, 0.70]),  # both rise
        ([5, 4, 3], [0.60, 0.50, 0.40]),  # both fall: bad, but no over-optimisation
        ([2, 5, 9], [0.60, 0.60, 0.595]),  # one of 200 prompts: noise
    ],
)
def test_it_stays_silent_otherwise(rewards, shares):
    assert reasons(OveroptimisationAlarm(), looks(rewards, shares)) == [None] * 3


def told(rewards, shares):
    """The same looks, driven as the stage does: a look before any training, then one after each interval."""
    alarm, found = OveroptimisationAlarm(), []
    for look, reward in zip(looks([0, *rewards], shares), [None, *rewards], strict=True):
        if reward is not None:
            alarm.record(reward, 0.5)
            alarm.record(reward, 0.5)
        found.append(alarm.look(look.step, look.scores))
    return found


def test_the_first_interval_is_measured_against_its_own_first_batch():
    """The weights of the first look drew it: a run of one interval can be alarmed, too."""
    for rewards, alarmed in (([2.0, 5.0, 9.0], True), ([5.0, 5.0, 5.0], False), ([9.0, 5.0, 2.0], False)):
        alarm = OveroptimisationAlarm()
        first, last = looks([0, 0], [0.6, 0.4])
        assert alarm.look(0, first.scores) is None
        for reward in rewards:
            alarm.record(reward, 0.5)
        assert bool(alarm.look(30, last.scores)) == alarmed, rewards


def test_before_the_first_interval_there_is_no_reward_to_have_risen_from():
    assert told([5, 4, 3], [0.6, 0.5, 0.4, 0.3]) == [None] * 4  # held-out falls, and so does the reward
    found = told([-9, -6, -3], [0.6, 0.6, 0.4, 0.3])  # a negative reward that rises
    assert found[:2] == [None, None] and found[2] and "from -9.00 to -6.00" in found[2]


def test_a_prompt_that_could_not_be_judged_counts_neither_way():
    look = Look(0, None, None, (1.0, None, 0.0, 1.0))
    assert look.mean == pytest.approx(2 / 3)
    assert paired_difference([1, None, 0, 0, 1], [0, 1, 0, 1, 1]) == paired_difference([1, 0, 0, 1], [0, 0, 1, 1])


def test_a_verifier_that_breaks_on_a_prompt_neither_raises_the_alarm_nor_makes_the_best():
    """After the second look no answer changes: a right one is not judged in the third, two wrong ones in the fourth."""
    alarm = OveroptimisationAlarm()
    scores = [(1, 0, 0, 0), (1, 1, 0, 0), (1, None, 0, 0), (1, 1, None, None)]
    found = reasons(alarm, [Look(10 * i, float(i), 0.5, of_look) for i, of_look in enumerate(scores)])
    assert found == [None] * 4 and alarm.best is alarm.looks[1]


def test_kl_over_its_bound_is_reported_whatever_the_scores():
    found = reasons(OveroptimisationAlarm(kl_bound=4), looks([2, 5, 9], [0.6, 0.65, 0.7], kls=[0.1, 3.9, 4.9]))
    assert found[:2] == [None, None] and found[2] and "4.90 nats" in found[2]


def test_a_restart_remembers_the_best():
    trace = list(looks([2, 5, 9], [0.6, 0.62, 0.4]))
    whole = OveroptimisationAlarm()
    reasons(whole, trace[:2])
    whole.record(8, 0.5)
    second = OveroptimisationAlarm(state=whole.state())
    second.record(10, 0.5)
    whole.record(10, 0.5)
    assert second.best == whole.best == trace[1]
    assert second.look(20, trace[2].scores) == whole.look(20, trace[2].scores)
    assert second.state() == whole.state() and second.looks[-1].reward == 9


def test_the_error_is_that_of_paired_differences():
    # Differences 1, 0, −1, 0: mean 0, variance 2/3.
    assert paired_difference([1, 0, 0, 1], [0, 0, 1, 1]) == (0.0, pytest.approx(math.sqrt(2 / 3 / 4)))
    assert paired_difference([1], [0]) == (1, math.inf)


def replayed(name: str) -> list[str | None]:
    """What the alarm says to a run on file: each step's reward and KL, and the looks between them."""
    trace = json.loads(TRACES.read_text())[name]
    alarm, told = OveroptimisationAlarm(trace["kl_bound"]), []
    for step in range(len(trace["reward"]) + 1):
        if scores := trace["looks"].get(str(step)):
            told.append(alarm.look(step, [float(score) for score in scores]))
        if step < len(trace["reward"]):
            alarm.record(trace["reward"][step], trace["kl"][step])
    return told


def test_a_recorded_hack_is_told_at_every_look_after_the_first():
    """The keyword verifier of tests/stages/test_rlvr.py, GRPO, 30 steps."""
    first, *later = replayed("keyword")
    assert first is None and len(later) == 3 and all(reason and "fell from 100.0%" in reason for reason in later)


def test_it_stays_silent_on_the_recorded_quickstart():
    """PPO, seed 1, 200 preference prompts held out (docs/rlvr.md); fewer are right at step 4, within the noise."""
    assert replayed("quickstart") == [None] * 7
