"""The organiser's page through HTTP."""

import io
import re
from random import Random

import pytest

from e2ed2.study.analysis.agreement import alpha
from e2ed2.study.app.live import _ago
from e2ed2.study.app.pages import languages
from e2ed2.study.export import votes_of
from e2ed2.study.store import Decision
from e2ed2.study.votes import COLUMNS, CRITERIA, read_votes
from tests.study.conftest import MODELS


def test_progress_hands_and_replies(running):
    running.sign_in()
    for screen in range(4):
        running.vote(running.links[1], screen, seconds=2.0)
    running.client.post(f"{running.links[1]}/hands", json={"id": "hand-0001", "screen": 3, "text": "unsure <b>"})
    page = running.client.get("/organiser").text
    total = len(running.study.raters["rater-2"].screens)
    assert f"4 / {total}" in page and "2.0 s" in page and "unsure &lt;b&gt;" in page and "1 waiting" in page
    assert page.count("not begun") == 2 and page.count("active") == 1
    assert not any(model in page for model in MODELS)  # which one is ahead, nobody sees before the end
    running.client.post("/organiser/hands/1/reply", data={"text": "Follow your taste"})
    assert "Follow your taste" in running.client.get(f"{running.links[1]}/news").text
    live = running.client.get("/organiser/live").text
    assert "Follow your taste" in live and 'data-waiting="0"' in live
    assert running.client.post("/organiser/hands/1/reply", data={"text": " "}).status_code == 422
    assert running.client.post("/organiser/hands/1/reply", data={"text": "a\0b"}).status_code == 422


def test_states_of_raters(running):
    import time

    running.sign_in()
    for rater, age in (("rater-1", 3600), ("rater-2", 3 * 86400)):
        running.store.decide(rater, Decision("some-id-00", 0, "left", 1.0, time.time() - age)).result()
    page = running.client.get("/organiser").text
    assert ">away<" in page and ">dropped out?<" in page and "60 min ago" not in page and "3 days ago" in page


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(5, ("now", 0)), (60, ("minutes", 1)), (3599, ("minutes", 59)), (3600, ("hours", 1)), (47 * 3600, ("hours", 47)),
     (48 * 3600, ("days", 2)), (100 * 86400, ("days", 100))],
)  # fmt: skip
def test_ago(seconds, expected):
    assert _ago(seconds) == expected


def test_links_are_revoked_and_renewed(running):
    running.sign_in()
    running.client.post("/organiser/raters/rater-1/revoke")
    assert "link revoked" in running.client.get("/organiser").text
    assert running.client.get(running.links[0]).status_code == 404
    running.client.post("/organiser/raters/rater-1/link")
    page = running.client.get("/organiser").text
    (link,) = re.findall(r'data-copy="(/r/[^"]+)" aria-label="Copy: Link rater-1"', page)
    assert link != running.links[0] and running.client.get(link).status_code == 200
    assert running.client.post("/organiser/raters/nobody/revoke").status_code == 404


def test_pause_and_go_on(running):
    running.sign_in()
    running.client.post("/organiser/pause", data={"paused": "1"})
    assert running.vote(running.links[0], 0).status_code == 503
    running.client.post("/organiser/pause", data={"paused": "0"})
    assert running.vote(running.links[0], 0).status_code == 200


def test_export_is_the_table_of_votes(running, tmp_path):
    import pyarrow.parquet

    running.sign_in()
    for i, choice in enumerate(("left", "right", "none", "left")):
        running.vote(running.links[0], i, choice)
    response = running.client.get("/organiser/votes.csv")
    assert response.headers["content-disposition"].startswith('attachment; filename="votes-')
    (tmp_path / "votes.csv").write_bytes(response.content)
    assert read_votes(tmp_path / "votes.csv") == votes_of(running.study, running.store)
    table = pyarrow.parquet.read_table(io.BytesIO(running.client.get("/organiser/votes.parquet").content))
    assert tuple(table.column_names) == COLUMNS and table.num_rows == 4
    assert running.client.get("/organiser/votes.xlsx").status_code == 404


def test_export_before_the_first_vote_has_a_head(running):
    running.sign_in()
    assert running.client.get("/organiser/votes.csv").text.strip() == ",".join(COLUMNS)


def test_agreement_is_that_of_the_analysis(running):
    running.sign_in()
    draw = Random(0)
    for link, rater in zip(running.links, running.study.raters.values(), strict=True):
        for shown in rater.screens:
            running.vote(link, shown.number, draw.choice(("left", "right", "none")))
    page = running.client.get("/organiser").text
    main = [vote for vote in votes_of(running.study, running.store) if vote.kind == "main"]
    found = re.findall(r'<dd class="number">(-?[\d.]+)</dd>', page)
    assert found == [f"{alpha([v for v in main if v.criterion == criterion]):.2f}" for criterion in CRITERIA]


def keys(values, path=""):
    if not isinstance(values, dict):
        placeholders = tuple(sorted(re.findall(r"\{\w+\}", str(values))))
        return {(path, len(values) if isinstance(values, list) else 0, placeholders)}
    return {key for name, inner in values.items() for key in keys(inner, f"{path}.{name}")}


def test_every_language_says_everything():
    first, *others = (keys(words) for words in languages().values())
    assert others and all(other == first for other in others)
