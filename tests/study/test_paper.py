"""The paper's own study, 300 pairs by 10 raters: played through HTTP, exported, analysed, and counted again."""

import io
import json
import re
import urllib.parse
import urllib.request

import pytest

from benchmarks.study.serving import Served, play
from e2ed2.study.analysis.analyze import analyze
from e2ed2.study.analysis.report import write_report
from e2ed2.study.analysis.simulate import Population
from e2ed2.study.create import create_study
from e2ed2.study.export import read_any_votes
from e2ed2.study.folder import read_study
from e2ed2.study.votes import CRITERIA, read_votes
from tests.study.conftest import write_images

GROUPS = {"researcher": 3, "artist": 3, "layperson": 4}
OURS, BASELINE = "ours", "baseline"


def exported(served: Served, password: str) -> bytes:
    """The CSV file that the organiser downloads."""
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    form = urllib.parse.urlencode({"password": password}).encode()
    opener.open(f"{served.address}/organiser/sign-in", form).read()
    return opener.open(f"{served.address}/organiser/votes.csv").read()


@pytest.mark.slow
def test_the_figure_shows_what_a_few_lines_of_pandas_count(tmp_path):
    import pandas

    prompts = [f"prompt {i}" for i in range(300)]
    models = [str(write_images(tmp_path / name, level, prompts)) for name, level in ((OURS, 4), (BASELINE, 40))]
    password = create_study(models, tmp_path / "study", groups=GROUPS, seed=1)
    study = read_study(tmp_path / "study")
    served = Served(tmp_path / "study")
    try:
        play(served, study, Population({OURS: 0.5, BASELINE: 0.0}))
        csv = exported(served, password)
    finally:
        served.kill()
    (tmp_path / "votes.csv").write_bytes(csv)
    votes = read_votes(tmp_path / "votes.csv")
    assert len(votes) == 10 * 3 * 330 and votes == read_any_votes(tmp_path / "study")
    found = analyze(votes, BASELINE)
    write_report(found, "a test", tmp_path / "analysis")

    table = pandas.read_csv(io.BytesIO(csv), keep_default_na=False)
    main = table[table.kind == "main"]
    assert len(main) == 10 * 3 * 270 and main.groupby("group").rater.nunique().to_dict() == GROUPS
    chosen = main.left.where(main.choice == "left", main.right.where(main.choice == "right", "tie"))
    shares = chosen.groupby(main.criterion).value_counts(normalize=True).unstack()[[OURS, "tie", BASELINE]]
    (contest,) = found.contests
    written = json.loads((tmp_path / "analysis" / "analysis.json").read_text())["contests"][0]["overall"]
    svg = (tmp_path / "analysis" / "figure.svg").read_text()
    drawn = [int(share) for share in re.findall(r">(\d+)%<", svg)]
    for criterion in CRITERIA:
        preference = contest.overall[criterion]
        counted = tuple(shares.loc[criterion])
        assert (preference.win.value, preference.tie.value, preference.loss.value) == pytest.approx(counted, abs=1e-12)
        assert written[criterion]["win"]["value"] == pytest.approx(counted[0], abs=1e-12)
        assert all(round(100 * share) in drawn for share in counted)
