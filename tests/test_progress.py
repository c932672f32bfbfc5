"""Progress: what a log holds that is no terminal, and what a rate counts."""

import re
import sys
import time

import pytest

from keras_meduda import progress
from keras_meduda.progress import StepBar, track


def test_short_work_leaves_no_line_and_long_work_some(monkeypatch, capsys):
    assert list(track(range(50), 50, "quick")) == list(range(50))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(progress, "LONG", 0.01)
    for _ in track(range(30), 30, "slow"):
        time.sleep(0.005)
    lines = capsys.readouterr().err.splitlines()
    assert 1 <= len(lines) <= 15
    assert all(re.fullmatch(r"slow \d+/30  \d+ s left", line) for line in lines)


def test_the_rate_counts_training_alone_and_the_time_left_validations_too(capsys):
    with StepBar(20, 0, validate_every=5) as bar:
        bar.advance(1)
        began = time.perf_counter()
        for step in range(2, 6):
            time.sleep(0.01)
            bar.advance(step)
        trained = time.perf_counter() - began
        with bar.validating(5):
            time.sleep(0.6)
        left = bar.seconds_left(5)
        bar.show(20, {"loss": 0.5, "dice": 0.25})
    # 15 steps at this rate and 3 validations of 0.6 s
    assert left == pytest.approx(15 * trained / 4 + 1.8, rel=0.2)
    said = capsys.readouterr().err
    assert "step 20/20" in said and "loss 0.5 dice 0.25" in said


def test_slow_steps_and_validations_have_a_line_each(monkeypatch, capsys):
    monkeypatch.setattr(progress, "LONG", 0.01)
    with StepBar(400, 0) as bar:
        for step in (1, 2):
            time.sleep(0.07)
            bar.advance(step)
        with bar.validating(2):
            time.sleep(0.02)
    first, second, third = capsys.readouterr().err.splitlines()
    assert first.startswith("step 1/400  ") and first.endswith("for the first, which compiles")
    assert re.match(r"step 2/400  [\d.]+ steps/s  \d+ (min|s).* left", second)
    assert third.startswith("step 2/400  validation took")


def test_a_terminal_has_one_display_that_others_join(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with StepBar(3, 0) as bar:
        bar.advance(1)
        seen = [list(progress._shown) for _ in track(range(2), 2, "validating")]
        assert seen == [[bar.bar]] * 2 and len(bar.bar.tasks) == 1
    assert progress._shown == [] and list(track([1], 1, "alone")) == [1]
