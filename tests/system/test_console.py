"""Progress where no terminal is: a line now and then, and how long it will still take at this run's own speed."""

import pytest

from e2ed2.system import console
from e2ed2.system.console import Waiting
from e2ed2.system.drawing.figures import duration


@pytest.fixture
def clock(monkeypatch):
    """Seconds that the test sets, and a line every ten of them."""
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(console, "LINE_EVERY", 10.0)
    return now


def row(total: float) -> dict[str, float]:
    return {"total": total, "images_per_second": 8.0}


def test_a_line_tells_what_is_left_at_the_speed_of_this_run(clock, capsys):
    waiting = Waiting()
    for step in range(501, 531):  # resumed at 500; an update takes a second
        clock[0] += 1
        waiting.tick(step, 740, row(0.5))
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "training 510/740, loss 0.5, 8.00 images/s, 4 min left",  # 230 s
        "training 520/740, loss 0.5, 8.00 images/s, 4 min left",
        "training 530/740, loss 0.5, 8.00 images/s, 4 min left",
    ]


def test_the_same_work_once_more_begins_a_new_count(clock, capsys):
    waiting = Waiting()
    for done, seconds in ((1, 0), (50, 100), (1, 100), (2, 103), (3, 106)):
        clock[0] = seconds
        waiting("sampling", done, 100)
    clock[0] = 111
    waiting("sampling", 4, 100)
    clock[0] = 125
    waiting("sampling", 100, 100)
    clock[0] = 140
    waiting("scanning", 5, 0)
    assert capsys.readouterr().err.splitlines() == [
        "sampling 50/100, 2 min left",
        "sampling 4/100, 6 min left",  # 96 at 3 in 11 seconds
        "sampling 100/100",
    ]


def test_the_first_line_promises_nothing_without_a_speed(clock, capsys):
    waiting = Waiting()
    clock[0] = 60
    waiting.tick(21, 40, row(1.0))
    assert capsys.readouterr().err == "training 21/40, loss 1, 8.00 images/s\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (40.4, "40 s"), (89, "89 s"), (90, "2 min"), (3599, "1 h 0 min"), (11_100, "3 h 5 min"),
     (187_200, "2 d 4 h")],
)  # fmt: skip
def test_a_duration_is_told_as_people_do(seconds, text):
    assert duration(seconds) == text
