import io

import pytest

from posttrain.pipeline.progress import LiveDisplay, PlainDisplay, duration


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_lines_tell_rate_and_time_left_of_this_run_alone():
    clock, out = Clock(), io.StringIO()
    display = PlainDisplay(out, interval=5, clock=clock)
    display.start("training", 100, "steps", done=60)  # 60 were made before a restart
    for _ in range(20):
        clock.now += 0.5
        display.advance(1, loss=1.25)
    clock.now += 10
    display.advance(20)
    display.close()
    assert out.getvalue().splitlines() == [
        "  training: goes on at 60/100 steps",
        "  training: 70/100 steps  2 steps/s  15s left  loss=1.25",
        "  training: 80/100 steps  2 steps/s  10s left  loss=1.25",
        "  training: 100/100 steps  2 steps/s  loss=1.25",
        "  training: 100 steps in 20s  2 steps/s  loss=1.25",
    ]


def test_a_short_task_prints_one_line():
    clock, out = Clock(), io.StringIO()
    display = PlainDisplay(out, interval=5, clock=clock)
    display.start("reading", 1000, "rows")
    clock.now += 2
    display.advance(1000)
    display.start("next", 1, "rows")
    display.close()
    assert out.getvalue() == "  reading: 1,000 rows in 2.0s  500 rows/s\n"


def test_the_live_display_takes_the_same_calls(capsys):
    display = LiveDisplay()
    display.note("[not markup]")
    display.start("sampling", 0, "tokens")
    display.advance(3, score=1.0)
    display.start("training", 3, "steps", done=1)
    display.advance(2)
    display.close()
    told = capsys.readouterr().out
    assert "[not markup]" in told and "training: 3 steps" in told


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.04, "0.0s"),
        (9.94, "9.9s"),
        (9.97, "10s"),
        (59.6, "1m00s"),
        (185, "3m05s"),
        (3599.7, "1h00m"),
        (7620, "2h07m"),
    ],
)
def test_durations_are_short(seconds, shown):
    assert duration(seconds) == shown
