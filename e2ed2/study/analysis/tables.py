"""Figures of a study in words and tables: for the terminal, for a paper, for the page."""

import re

from e2ed2.study.analysis.analyze import Analysis, ByCriterion, Contest
from e2ed2.study.analysis.crossed import LEAST, Interval
from e2ed2.study.analysis.preferences import Preference
from e2ed2.study.analysis.reliability import MOST_FAILED
from e2ed2.system.drawing.markdown import markdown_table

TITLES = {"alignment": "Text-image alignment", "faithfulness": "Faithfulness", "quality": "Overall quality"}
HEADS = ("criterion", "win", "tie", "loss", "preference", "prompts for / against", "raters for / against")
LATEX = {"&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}", "\\": r"\textbackslash{}"}
LATEX |= {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


def percent(interval: Interval | None) -> str:
    """`66.2% [58.9, 72.7]`; without its interval where there is none."""
    if interval is None:
        return "-"
    limits = "" if interval.limits is None else " [{:.1f}, {:.1f}]".format(*(100 * limit for limit in interval.limits))
    return f"{100 * interval.value:.1f}%{limits}"


def p_value(p: float) -> str:
    """`p = 0.021`, `p < 0.001`."""
    return f"p = {p:.3f}" if p >= 0.001 else "p < 0.001"


def preferred(contest: Contest, found: Preference) -> str:
    """The model that the interval speaks for; empty where it holds no difference, or there is none."""
    low, high = found.preference.limits or (0.0, 1.0)
    return contest.first if low > 0.5 else contest.second if high < 0.5 else ""


def cells(preferences: ByCriterion) -> list[list[str]]:
    """A row of `HEADS` for each criterion."""
    return [
        [
            TITLES[criterion],
            *(percent(share) for share in (found.win, found.tie, found.loss, found.preference)),
            *(f"{test.first} / {test.second}, {p_value(test.p)}" for test in (found.by_prompt, found.by_rater)),
        ]
        for criterion, found in preferences.items()
    ]


def notes(analysis: Analysis) -> list[str]:
    """What a reader must know of these figures."""
    found = []
    if len(analysis.raters) < LEAST or analysis.prompts < LEAST:
        found.append(
            f"No intervals: they take {LEAST} raters and {LEAST} prompts, and there are {len(analysis.raters)} and "
            f"{analysis.prompts}. What other raters would say of other prompts cannot be told from these votes."
        )
    if all(p.tie.value == 1 for contest in analysis.contests for p in contest.overall.values()):
        found.append("Every vote is for neither image.")
    for criterion, strengths in analysis.strengths.items():
        if strengths is None:
            found.append(
                f"No finite strengths fit the votes by {criterion}: a model wins or loses always, all votes are ties, "
                "or some models were never compared."
            )
    if analysis.careless:
        found.append(
            f"{', '.join(analysis.careless)} failed more than {MOST_FAILED:.0%} of their attention checks. All votes "
            "count in the figures but where it says that they are left out."
        )
        if len(analysis.careless) == len(analysis.raters):
            found.append("No rater is left without them.")
    sides = analysis.side_bias.limits if analysis.side_bias else None
    if sides and not sides[0] <= 0.5 <= sides[1]:
        found.append(
            f"Raters chose the left image in {percent(analysis.side_bias)} of their decisions. Where each model is on "
            "the left as often as on the right, this widens intervals and favours none."
        )
    return found


def markdown(analysis: Analysis) -> str:
    """All of it that fits a terminal."""
    parts = []
    for contest in analysis.contests:
        parts.append(f"{contest.first} against {contest.second}:\n\n{markdown_table(HEADS, cells(contest.overall))}")
        if contest.attentive:
            rows = [row[:5] for row in cells(contest.attentive)]
            parts.append(f"Without {', '.join(analysis.careless)}:\n\n{markdown_table(HEADS[:5], rows)}")
    if any(analysis.strengths.values()):
        heads, rows = strength_cells(analysis)
        parts.append(f"Strength (Bradley-Terry-Davidson, natural logarithm):\n\n{markdown_table(heads, rows)}")
    agreement = ", ".join(
        f"{criterion} {'-' if alpha is None else f'{alpha:.2f}'}" for criterion, alpha in analysis.agreement.items()
    )
    parts.append(f"Krippendorff's alpha: {agreement}. Left among decisions: {percent(analysis.side_bias)}.\n")
    return "\n".join([*parts, *(f"Note: {note}\n" for note in notes(analysis))])


def strength_cells(analysis: Analysis) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of the models' strengths, a column a criterion where there are finite ones."""
    fitted = {criterion: strengths for criterion, strengths in analysis.strengths.items() if strengths}
    rows = [[model, *(signed(s.log_strength[model]) for s in fitted.values())] for model in analysis.models]
    return ["model", *(TITLES[criterion] for criterion in fitted)], rows


def signed(interval: Interval) -> str:
    """`+0.52 [+0.27, +0.77]`."""
    limits = "" if interval.limits is None else " [{:+.2f}, {:+.2f}]".format(*interval.limits)
    return f"{interval.value:+.2f}{limits}"


def latex(analysis: Analysis) -> str:
    """Win, tie, loss and preference for a paper; it takes the package booktabs."""
    lines = [
        f"% {analysis.votes} votes of {len(analysis.raters)} raters on {analysis.prompts} prompts; 95% intervals over "
        "raters and prompts",
        r"\begin{tabular}{lrrrr}",
        r"\toprule",
        r"Criterion & Win (\%) & Tie (\%) & Loss (\%) & Preference (\%) \\",
    ]
    for contest in analysis.contests:
        lines += [r"\midrule", rf"\multicolumn{{5}}{{l}}{{{_tex(contest.first)} against {_tex(contest.second)}}} \\"]
        for row in cells(contest.overall):
            lines.append(" & ".join([row[0], *(cell.replace("%", "") for cell in row[1:5])]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _tex(name: str) -> str:
    return re.sub(r"[&%$#_{}~^\\]", lambda found: LATEX[found[0]], name)
