"""Figure 6: win, tie and loss by criterion, as stacked bars."""

from e2ed2.study.analysis.analyze import Analysis
from e2ed2.study.analysis.preferences import Preference
from e2ed2.study.analysis.tables import TITLES
from e2ed2.system.drawing.charts import Outcome, outcome_chart


def outcomes_svg(analysis: Analysis) -> str:
    """The chart, to be coloured by the page around it or by `charts.figure`."""
    is_one = len(analysis.contests) == 1
    rows = [
        _bar(TITLES[criterion] if is_one else f"{contest.first} / {contest.second}: {criterion}", found)
        for contest in analysis.contests
        for criterion, found in contest.overall.items()
    ]
    first, second = (analysis.contests[0].first, analysis.contests[0].second) if is_one else ("first", "second")
    told = "; ".join(f"{row.label}: {' / '.join(f'{100 * share:.0f}%' for share in row.shares)}" for row in rows)
    names = (f"{first} preferred", "no preference", f"{second} preferred")
    return outcome_chart(rows, names, f"{' / '.join(names)}. {told}")


def _bar(label: str, found: Preference) -> Outcome:
    limits = {}
    if found.win.limits and found.loss.limits:
        low, high = found.loss.limits
        limits = {"win": found.win.limits, "loss": (1 - high, 1 - low)}  # the bar of a loss begins at the right
    return Outcome(label, (found.win.value, found.tie.value, found.loss.value), limits)
