"""Charts: nothing is cut off, and a loss that depends on its start is several lines."""

import re

import pytest

from e2ed2.system.drawing.charts import (
    BAR,
    BAR_WIDTH,
    HEIGHT,
    LEFT,
    LETTER,
    WIDTH,
    Outcome,
    line_chart,
    lines_chart,
    outcome_chart,
    ticks,
)

LABEL = re.compile(r'<text class="tick" x="([\d.]+)" y="[\d.]+" dy="4" text-anchor="end">([^<]+)</text>')
UPDATES = [float(i) for i in range(1, 201)]


@pytest.mark.parametrize("rate", [1e-12, 2.5e-7, 1e-5, 3e-4, 0.015, 1.0])
@pytest.mark.parametrize("warmup", [0, 4])
def test_the_axis_of_a_rate_is_whole(rate, warmup):
    """Every label begins inside the picture and says another number; the first updates of a warm-up are on it too."""
    rates = [rate * min(1.0, i / (warmup + 1)) for i in UPDATES]
    svg = line_chart(UPDATES, rates, "rate", is_noisy=False)
    labels = LABEL.findall(svg)
    assert len({text for _, text in labels}) == len(labels) >= 2
    assert all(float(right) - LETTER * len(text) >= 0 for right, text in labels)
    assert warmup or rate in [float(text) for _, text in labels]
    points = [tuple(map(float, p.split(","))) for p in re.findall(r'points="([^"]*)"', svg)[-1].split()]
    assert points[0][1] == max(y for _, y in points) < HEIGHT - 26, "not pressed onto the edge"
    assert len({y for _, y in points}) == warmup + 1


def test_short_labels_leave_the_axis_where_it_was():
    assert f'x1="{LEFT}"' in line_chart([1, 2], [0.1, 0.2], "loss")


def test_ticks_of_tiny_numbers_are_round_too():
    assert ticks(0, 1e-13, 5) == [0, 2e-14, 4e-14, 6e-14, 8e-14, 1e-13]


def test_every_line_has_its_colour_its_dots_and_its_name():
    svg = lines_chart({"1 of 2": ([1, 3, 5], [1.6, 1.5, 1.4]), "2 <of> 2": ([2, 4], [0.1, 0.1])}, "two starts")
    assert svg.count('class="points"') == 2 and len(set(re.findall(r'stroke="([^"]+)"', svg))) == 2
    paths = re.findall(r'class="points".*?d="(.*?)"', svg)
    noise, late = ([float(y) for y in re.findall(r",([\d.]+)h0", path)] for path in paths)
    assert (len(noise), len(late)) == (3, 2) and max(noise) < min(late), "larger values lie higher"
    assert noise == sorted(noise) and late[0] == late[1]
    assert ">1 of 2</text>" in svg and ">2 &lt;of&gt; 2</text>" in svg


def test_names_take_as_many_rows_as_they_need():
    few, many = (lines_chart({f"{i} of 12": ([1], [i]) for i in range(1, n + 1)}, "starts") for n in (2, 12))
    heights = [float(svg.partition('viewBox="0 0 360 ')[2].partition('"')[0]) for svg in (few, many)]
    assert HEIGHT < heights[0] < heights[1]
    names = re.findall(r'<text class="tick" x="([\d.]+)" y="[\d.]+">([^<]+)<', many)
    assert len(names) == 12 and all(float(x) + LETTER * len(name) <= WIDTH for x, name in names)


def test_bars_of_outcomes_fill_the_row_and_lie_beside_each_other():
    first = Outcome("a <b>", (0.5, 0.2, 0.3), {"win": (0.4, 0.6), "loss": (0.65, 0.75)})
    svg = outcome_chart([first, Outcome("c", (1.0, 0.0, 0.0), {})], ("one", "neither", "other"), "two rows")
    bars = re.findall(rf'<rect class="(\w+)" x="([\d.]+)" y="\d+" width="([\d.]+)" height="{BAR}"/>', svg)
    assert [kind for kind, *_ in bars] == ["win", "tie", "loss"] * 2
    for row in (bars[:3], bars[3:]):
        ends = [(float(x), float(x) + float(width)) for _, x, width in row]
        assert ends[-1][1] - ends[0][0] == pytest.approx(BAR_WIDTH) and ends[0][1] == ends[1][0]
    assert re.findall(r">(\d+)%</text>", svg)[6:] == ["50", "20", "30", "100"], "after six ticks"
    starts = [float(x) - float(bars[0][1]) for x in re.findall(r'class="limits \w+" d="M([\d.]+)', svg)]
    assert starts == pytest.approx([0.4 * BAR_WIDTH, 0.65 * BAR_WIDTH]) and "a &lt;b&gt;" in svg
