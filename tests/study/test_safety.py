"""Everything that somebody might try from outside, through HTTP."""

import asyncio
import base64
import re
import time

import pytest
from itsdangerous import URLSafeSerializer

from e2ed2.study.app.door import FREE_TRIES, Door
from e2ed2.system.server.guard import LARGEST_BODY, Guard
from tests.study.conftest import HTML, MODELS

PAGES = ("", "/0", "/0/part", "/0/left.png", "/news")


def forged(link: str) -> list[str]:
    """Links that look like ours."""
    name, signature = link.removeprefix("/r/").split(".")
    other = base64.urlsafe_b64encode(b'["rater-2",1]').decode().rstrip("=")
    guess = URLSafeSerializer("guess", salt="rater's link").dumps(["rater-1", 1])
    changed = f"{name}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}"
    return [f"{other}.{signature}", changed, name, f"{name}.", guess, "rater-1", "x" * 5000, "%00", "..."]


def test_a_forged_link_opens_nothing(running):
    running.vote(running.links[0], 0)
    for token in forged(running.links[0]):
        for page in PAGES:
            assert running.client.get(f"/r/{token}{page}").status_code == 404
        assert running.vote(f"/r/{token}", 0, "right").status_code == 404
        assert running.client.post(f"/r/{token}/finish").status_code == 404
    assert running.store.num_decisions() == 1


def test_a_revoked_link_is_forgotten_and_a_new_one_replaces_all_before(running):
    old = running.links[0]
    running.vote(old, 0)
    running.store.revoke("rater-1")
    for page in PAGES:
        assert running.client.get(old + page).status_code == 404
    assert running.vote(old, 1).status_code == 404
    assert "not valid" in running.client.get(old, headers=HTML).text
    running.store.issue_link("rater-1")
    new = running.study.link("rater-1", 2)
    assert running.client.get(old).status_code == 404 and running.client.get(new).status_code == 200
    assert running.vote(new, 1).status_code == 200 and running.store.num_decisions() == 2


def test_a_rater_reaches_nobody_elses_votes(running):
    """An id is its rater's own: the same one sent by another makes another vote, and changes none."""
    one, two = running.links[:2]
    running.vote(one, 0, "left", "the-same-id")
    running.vote(two, 0, "right", "the-same-id")
    assert running.store.choice("rater-1", 0) == "left" and running.store.choice("rater-2", 0) == "right"
    page = running.client.get(f"{two}/0", headers=HTML).text
    assert one not in page and "rater-1" not in page


@pytest.mark.parametrize(
    "path",
    ["/static/../guard.py", "/static/..%2fguard.py", "/static/%2e%2e/%2e%2e/folder.py", "/static//etc/passwd",
     "/static/study.css%00", "/pictures/x.png", "/study.json", "/secret.json", "/links.csv", "/votes.db",
     "/r/LINK/0/..%2f..%2fsecret.json", "/r/LINK/0/left.png/../../secret.json", "/r/LINK/-1", "/r/LINK/0/both.png",
     "/r/LINK/99999999999999999999/left.png", "/r/LINK/votes/x", "/openapi.json", "/docs", "/organiser/raters/x/link"],
)  # fmt: skip
def test_no_way_to_the_file_system(running, path):
    response = running.client.get(path.replace("LINK", running.links[0].removeprefix("/r/")))
    assert response.status_code in (404, 405, 422)
    assert not any(word in response.text for word in ("signing_key", "root:", *MODELS, "def "))


def test_markup_in_prompts_is_text(running):
    link = running.links[0]
    number = next(s.number for s in running.study.raters["rater-1"].screens if "<script>" in s.prompt)
    for screen in range(number):
        running.vote(link, screen)
    page = running.client.get(f"{link}/{number}").text
    assert "&lt;script&gt;alert(" in page and "<script>alert" not in page


def test_what_a_browser_may_do(running):
    """On every answer, errors too: no script but ours, no frame, no address passed on; pages are not kept."""
    link = running.links[0]
    for path in (link, f"{link}/0", "/organiser", "/nothing", "/static/rater.js", f"{link}/0/left.png"):
        headers = running.client.get(path, headers=HTML).headers
        policy = dict(part.strip().partition(" ")[::2] for part in headers["content-security-policy"].split(";"))
        assert policy["default-src"] == policy["frame-ancestors"] == "'none'" and policy["script-src"] == "'self'"
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "same-origin"
        assert "server" not in headers
    assert running.client.get(link).headers["cache-control"] == "no-store"
    for name in ("rater.html.j2", "organiser.html.j2"):
        assert not re.search(r"\son\w+=|\sstyle=|<script>", running.client.get(f"{link}/0").text), name


@pytest.mark.parametrize(
    "headers",
    [{"origin": "https://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"},
     {"sec-fetch-site": "same-site"}, {"origin": "http://testserver.evil.example"}],
)  # fmt: skip
def test_posts_of_other_sites_are_refused(running, headers):
    link, client = running.links[0], running.client
    running.sign_in()
    body = {"screen": 0, "choice": "left", "seconds": 1.0}
    assert client.put(f"{link}/votes/vote-0001", json=body, headers=headers).status_code == 403
    assert client.post("/organiser/pause", data={"paused": "1"}, headers=headers).status_code == 403
    assert client.post("/organiser/sign-in", data={"password": running.password}, headers=headers).status_code == 403
    assert running.store.num_decisions() == 0 and not running.store.is_paused()


def test_posts_of_our_own_pages_are_taken(running):
    headers = {"origin": "http://testserver", "sec-fetch-site": "same-origin"}
    body = {"screen": 0, "choice": "left", "seconds": 1.0}
    assert running.client.put(f"{running.links[0]}/votes/vote-0001", json=body, headers=headers).status_code == 200


def test_oversized_bodies_are_not_read(running):
    link, client = running.links[0], running.client
    assert client.post(f"{link}/hands", content=b"x" * (LARGEST_BODY + 1)).status_code == 413
    chunks = (b"x" * 8192 for _ in range(100_000))  # no length said
    assert client.post(f"{link}/hands", content=chunks).status_code == 413
    assert client.post(f"{link}/hands", content=b"{}", headers={"content-length": "-5"}).status_code in (400, 413)
    long = {"id": "hand-0001", "screen": 0, "text": "x" * 2001}
    assert client.post(f"{link}/hands", json=long).status_code == 422
    assert running.store.hands() == []


def test_half_a_body_of_a_sender_who_went_away_reaches_nothing():
    half = {"type": "http.request", "body": b"paused=1", "more_body": True}
    messages, called = [half, {"type": "http.disconnect"}], []

    async def called_by(*of) -> None:
        called.append(of)

    async def receive() -> dict:
        return messages.pop(0)

    scope = {"type": "http", "method": "POST", "path": "/", "headers": []}
    asyncio.run(Guard(called_by)(scope, receive, called_by))
    assert called == [] and messages == []


def test_the_organisers_pages_are_shut(running):
    number = 1
    for method, path in (
        ("get", "/organiser/live"), ("get", "/organiser/votes.csv"), ("get", "/organiser/votes.parquet"),
        ("post", "/organiser/pause"), ("post", "/organiser/raters/rater-1/revoke"),
        ("post", "/organiser/raters/rater-1/link"), ("post", f"/organiser/hands/{number}/reply"),
        ("post", "/organiser/sign-out"),
    ):  # fmt: skip
        for cookie in ("", "organiser=", "organiser=guess", "organiser=" + "x" * 3000):
            response = running.client.request(method, path, headers={"cookie": cookie}, follow_redirects=False)
            assert response.status_code == 403, (path, cookie)
    assert "Password" in running.client.get("/organiser").text
    assert running.store.progress()[0].issue == 1 and not running.store.progress()[0].is_revoked


def test_a_session_ends_when_it_is_signed_out_and_its_cookie_is_not_good_again(running):
    running.sign_in()
    token = running.client.cookies["organiser"]
    assert running.client.get("/organiser/live").status_code == 200
    running.client.post("/organiser/sign-out")
    replayed = running.client.get("/organiser/live", headers={"cookie": f"organiser={token}"})
    assert replayed.status_code == 403


def test_a_session_ends_by_itself(running):
    running.store.begin_session("old", -1)
    assert not running.store.is_session("old")


def test_the_cookie_is_kept_from_scripts_and_other_sites(running):
    response = running.client.post("/organiser/sign-in", data={"password": running.password}, follow_redirects=False)
    cookie = response.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie and "path=/organiser" in cookie


def test_a_password_tried_many_times(running):
    """After a few wrong ones not even the right one is heard, for a while that grows."""
    post = running.client.post
    statuses = [post("/organiser/sign-in", data={"password": f"guess {i}"}).status_code for i in range(FREE_TRIES)]
    assert statuses == [403] * FREE_TRIES
    refused = post("/organiser/sign-in", data={"password": running.password}, follow_redirects=False)
    assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1
    time.sleep(2.1)
    assert post("/organiser/sign-in", data={"password": running.password}, follow_redirects=False).status_code == 303


def test_waits_double(running, monkeypatch):
    now = [0.0]
    door = Door(running.study.secret, lambda: now[0])
    monkeypatch.setattr(type(running.study.secret), "is_password", lambda self, word: word == "right")
    waits = []
    for _ in range(FREE_TRIES + 9):
        now[0] += door.wait()
        assert door.try_password("wrong") is False
        waits.append(door.wait())
    assert waits == [0.0] * (FREE_TRIES - 1) + [2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 300.0, 300.0]
    for _ in range(1100):
        now[0] += door.wait()
        assert door.try_password("wrong") is False and door.wait() == 300
    assert door.try_password("right") is None
    now[0] += 300
    assert door.try_password("right") is True and door.wait() == 0


def test_errors_are_pages_for_people_and_never_repeat_what_was_sent(running):
    page = running.client.get("/<script>alert(1)</script>", headers=HTML)
    assert page.status_code == 404 and "<script>alert" not in page.text and "This page is not here" in page.text
    body = {"screen": "<script>", "choice": "left", "seconds": 1}
    response = running.client.put(f"{running.links[0]}/votes/vote-0001", json=body)
    assert response.status_code == 422 and "<script>" not in response.text
