"""What `e2ed2 study analyze` writes and prints, whatever the votes are like."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image
from PIL.ImageFont import load_default

from e2ed2.study.analysis.analyze import Analysis, analyze
from e2ed2.study.analysis.report import write_report
from e2ed2.study.analysis.simulate import Population, simulate_votes
from e2ed2.study.analysis.tables import latex, markdown
from e2ed2.study.votes import to_csv
from e2ed2.system.drawing import pictures
from tests.study.analysis.test_preferences import VOTES, of
from tests.test_cli import run

CHECK = {"kind": "check", "expected": "left"}
PROMPTS = {f"p{i}": "uv"[i % 2] for i in range(8)}


def study(**strength: float) -> Analysis:
    raters = {f"r{i}": "xy"[i % 2] for i in range(6)}
    shown = {"raters": raters, "prompts": PROMPTS, "repeats": 2, "checks": 4}
    return analyze(simulate_votes(Population(strength), **shown, careless=["r5"]))


def percents(svg: str) -> list[int]:
    return [int(found) for found in re.findall(r'class="within \w+"[^>]*>(\d+)%<', svg)]


def test_the_page_the_figure_and_the_tables_have_the_figures_of_the_analysis(tmp_path):
    found = study(a=0.8, b=0.0)
    files = {path.name: path for path in write_report(found, "votes.csv", tmp_path / "out")}
    assert set(files) == {"report.html", "figure.svg", "figure.png", "table.tex", "analysis.json"}
    assert json.loads(files["analysis.json"].read_text()) == json.loads(json.dumps(found.to_json()))
    page, svg = files["report.html"].read_text(), files["figure.svg"].read_text()
    ElementTree.fromstring(svg)
    shares = [s.value for p in found.contests[0].overall.values() for s in (p.win, p.tie, p.loss)]
    assert percents(svg) == percents(page) == [round(100 * share) for share in shares]
    with Image.open(files["figure.png"]) as picture:
        assert picture.width > 1500 and len(picture.convert("RGB").getcolors(2**20)) > 50
    win = found.contests[0].overall["quality"].win
    cell = f"{100 * win.value:.1f}", f"[{100 * win.low:.1f}, {100 * win.high:.1f}]"
    assert f"{cell[0]}%<small>{cell[1]}</small>" in page and f"& {' '.join(cell)} &" in files["table.tex"].read_text()
    assert "By rater group" in page and "By prompt category" in page and "Without r5" in page
    assert "http" not in page, "nothing is loaded from elsewhere"


def test_three_models_have_strengths_and_all_their_pairs(tmp_path):
    found = study(a=0.8, b=0.0, c=0.3)
    page = write_report(found, "votes.csv", tmp_path)[0].read_text()
    assert "Strength of each model" in page and len(percents((tmp_path / "figure.svg").read_text())) >= 9
    assert all(f"{pair} against {other}" in page for pair, other in ("ab", "ac", "bc"))
    assert "| a | +" in markdown(found) and latex(found).count(r"\midrule") == 3


def test_names_are_text_wherever_they_stand(tmp_path):
    odd = '<b>&_%"'
    votes = [vote.model_copy(update={"left": odd, "group": odd}) for vote in VOTES if vote.left == "a"]
    found = analyze([*votes, of("zed", "p", "none", odd, "b", group=odd)])
    page = write_report(found, odd, tmp_path)[0].read_text()
    assert "<b>" not in page and "&lt;b&gt;" in page
    ElementTree.fromstring((tmp_path / "figure.svg").read_text())
    assert r"<b>\&\_\%" in (tmp_path / "table.tex").read_text()


@pytest.mark.parametrize(
    ("votes", "said"),
    [
        ([of(rater, prompt, "none") for rater in "xyz" for prompt in "pqr"], "Every vote is for neither image"),
        ([of(rater, prompt, "left") for rater in "xyz" for prompt in "pqr"], "a against b"),
        ([of(rater, "p", "left", *("ab", "ac", "bc")[i]) for i, rater in enumerate("xyz")], "No finite strengths"),
        ([of("ann", prompt, "left") for prompt in "pqr"], "No intervals: they take 3 raters and 3 prompts"),
        ([of("ann", "p", "none")], "No intervals"),
        ([*VOTES, *(of(r, "c", "none", "a", "a", **CHECK) for r in ("ann", "bob", "cid"))], "No rater is left"),
    ],
    ids=["ties", "one side, one model", "three models, each pair once", "one rater", "one vote", "all careless"],
)  # fmt: skip
def test_odd_votes_are_said_to_be_odd(tmp_path, votes, said):
    found = analyze(votes)
    assert said in markdown(found)
    page = write_report(found, "votes.csv", tmp_path)[0].read_text()
    assert said in page and not re.search(r"\b(nan|None|inf)\b", page + markdown(found) + latex(found))


def test_without_fonts_the_figure_still_has_its_words(tmp_path, monkeypatch):
    word = '<text font-family="sans-serif" y="15">word</text>'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" width="90" height="20">{word}</svg>'
    monkeypatch.setattr(pictures, "font", lambda: load_default(14))
    (tmp_path / "figure.png").write_bytes(pictures.svg_png(svg))
    with Image.open(tmp_path / "figure.png") as picture:
        assert picture.getchannel("A").getextrema() == (0, 255)


@pytest.fixture
def exported(tmp_path) -> Path:
    (tmp_path / "votes.csv").write_bytes(to_csv(VOTES))
    return tmp_path / "votes.csv"


def test_the_command_prints_tables_or_json(exported, monkeypatch, capsys):
    assert run(monkeypatch, "study", "analyze", exported, "--baseline", "a") == 0
    assert "b against a" in capsys.readouterr().out and (exported.parent / "analysis" / "report.html").is_file()
    assert run(monkeypatch, "study", "analyze", exported, "--json", "--out", exported.parent / "other") == 0
    assert json.loads(capsys.readouterr().out)["models"] == ["a", "b"]
    assert (exported.parent / "other" / "figure.png").is_file()


def test_a_name_in_a_table_of_votes_steers_no_terminal(exported, monkeypatch, capsys):
    exported.write_bytes(to_csv([*VOTES, of("zed", "p", "none", "a", "\x1b[2Jb")]))
    assert run(monkeypatch, "study", "analyze", exported) == 0
    out = capsys.readouterr().out
    assert "?[2Jb" in out and "\x1b" not in out


@pytest.mark.parametrize(
    ("content", "arguments", "said"),
    [
        (to_csv([]), [], "no votes on main pairs yet"),
        (to_csv(VOTES), ["--baseline", "c"], "name one of a, b"),
        (b"rater,group\n", [], "column 'criterion' is missing"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(exported, content, arguments, said, monkeypatch, capsys):
    exported.write_bytes(content)
    assert run(monkeypatch, "study", "analyze", exported, *arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and said in err and err.startswith("error: ") and err.count("\n") == 1
    assert not (exported.parent / "analysis").exists()


def test_power_is_printed_as_a_table(monkeypatch, capsys):
    assert run(monkeypatch, "study", "power", "--preference", "0.6") == 0
    assert capsys.readouterr().out.startswith("| raters | 20 prompts |")
    assert run(monkeypatch, "study", "power", "--preference", "1.6") == 2
