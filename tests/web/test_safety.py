"""Everything that somebody might try from outside, through HTTP."""

import re
import stat
import time

import pytest

from e2ed2.system.errors import UserError
from e2ed2.web.app.door import COOKIE, Door, users_key
from e2ed2.web.processes import checked_name
from tests.web.conftest import ADDRESS, HTML, KEY, MARKUP, TOKEN, write_run

PATHS = ("/", "/list", "/run/one", "/state/one", "/body/one", "/report/one", "/picture/0/0/0/one", "/try", "/start")
POSTS = ("/stop", "/go-on", "/try/draw", "/start/look", "/start/go")


def test_nobody_comes_in_without_the_address_that_was_printed(stranger):
    for path in PATHS:
        for query in ("", "?token=", "?token=guess", f"?token={TOKEN}x", f"?Token={TOKEN}", "?token=%C3%A9"):
            assert stranger.get(path + query).status_code == 403, path
    for path in POSTS:
        assert stranger.post(f"{path}?token={TOKEN}").status_code == 403, "nothing is done on the way in"
    assert stranger.get("/static/watch.css").status_code == 200


def test_the_token_opens_once_and_leaves_the_address(stranger):
    response = stranger.get(f"/run/one?token={TOKEN}&more=1", follow_redirects=False)
    cookie = response.headers["set-cookie"].lower()
    assert response.status_code == 303 and response.headers["location"] == "/run/one?more=1"
    assert "httponly" in cookie and "samesite=strict" in cookie and TOKEN not in cookie
    assert stranger.get("/run/one").status_code == 200
    stranger.cookies.clear()
    assert stranger.get(f"{ADDRESS}//evil.example/?token={TOKEN}", follow_redirects=False).headers["location"] == (
        "/evil.example/"
    )


def test_a_cookie_is_for_one_folder_and_for_a_while(client, runs, tmp_path):
    door = Door(client.app, TOKEN, KEY, runs)
    assert door.knows(door.pass_until(time.time() + 9)) and not door.knows(door.pass_until(time.time() - 9))
    assert not Door(client.app, TOKEN, KEY, tmp_path).knows(door.pass_until(time.time() + 9))
    assert not Door(client.app, TOKEN, b"x" * 32, runs).knows(door.pass_until(time.time() + 9))
    end = int(time.time() + 9)
    later = door.pass_until(end).replace(str(end), str(end + 1))
    for forged in (later, str(end), f"{end}.", "", ".", "x", "9" * 5000, "é", f"{end}.é"):
        assert not door.knows(forged)
    client.cookies.clear()
    for cookie in (f"{COOKIE}={later}", f"{COOKIE}", f"{COOKIE}=;;;=", "\x00"):
        assert client.get("/", headers={"cookie": cookie}).status_code == 403


def test_a_browser_is_known_after_the_server_was_started_again(client, runs):
    from fastapi.testclient import TestClient

    from e2ed2.web.app.build import create_app

    again = TestClient(create_app(runs, "another-token", KEY), base_url=str(client.base_url), cookies=client.cookies)
    assert again.get("/").status_code == 200
    again.cookies.clear()
    assert again.get(f"/?token={TOKEN}").status_code == 403, "the address of an earlier start is not good any more"


def test_the_key_is_its_users_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("E2ED2_CONFIG", str(tmp_path / "config"))
    key = users_key()
    path = tmp_path / "config" / "watch.key"
    assert key == users_key() and len(key) == 32 and stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_bytes(b"short")
    with pytest.raises(UserError, match="watch.key: is not a key"):
        users_key()


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "", "10.0.0.1", "[::2]", "@", "["]
)
def test_a_name_of_theirs_that_leads_here_is_refused(client, host):
    for path in ("/", f"/?token={TOKEN}", "/static/watch.css"):
        assert client.get(path, headers={"host": host}).status_code == 421


@pytest.mark.parametrize("host", ["127.0.0.1:9000", "localhost:8765", "localhost", "[::1]:80"])
def test_a_tunnel_has_another_port(client, host):
    assert client.get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [{"origin": "https://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"},
     {"sec-fetch-site": "same-site"}, {"origin": "http://127.0.0.1:9999"}, {"origin": "http://["}],
)  # fmt: skip
def test_posts_of_other_sites_are_refused(client, runs, headers):
    write_run(runs / "stopped", "interrupted")
    for path in POSTS:
        assert client.post(path, data={"run": "stopped", "name": "x"}, headers=headers).status_code == 403
    assert not (runs / "stopped" / "console.log").exists() and not (runs / "x").exists()
    assert (
        client.get("/go-on").status_code
        == client.get("/stop").status_code
        == client.get("/start/go").status_code
        == 405
    )


@pytest.mark.parametrize(
    "name",
    ["%2e%2e/secret", "..%2fsecret", "one/../../secret", "/etc/passwd", "//etc/passwd", "one/",
     "one/samples", "one%00", "two", ".hidden", "linked", "suite", "out"],
)  # fmt: skip
def test_no_way_to_files_outside_the_runs(client, runs, name):
    secret = write_run(runs.parent / "secret")
    (secret / "report.html").write_text("secret")
    write_run(runs / ".hidden")
    (runs / "linked").symlink_to(secret)
    (runs / "out").mkdir()
    (runs / "out" / "evaluation.json").symlink_to(secret / "state.json")
    for kind in ("run", "state", "body", "report", "picture/0/0/0", "measured", "compared"):
        response = client.get(f"/{kind}/{name}", follow_redirects=False)
        assert response.status_code in (404, 405, 307), (kind, name, response.text[:200])
        assert "secret" not in response.text.lower()
    assert client.get("/beside", params={"run": ["one", name]}).status_code == 404
    for path in ("/stop", "/go-on"):
        assert client.post(path, data={"run": name}).status_code == 404
    assert "secret" not in client.get("/list").text


@pytest.mark.parametrize(
    "file", ["config.yaml", "metrics.jsonl", "report.html", "samples", "state.json", "console.log"]
)
def test_a_run_with_links_to_elsewhere_is_named_and_not_read(client, runs, tmp_path, file):
    target = tmp_path / "secret"
    target.mkdir() if file == "samples" else target.write_text("stage: SECRET\n")
    run = write_run(runs / "crafted")
    path = run / file
    if path.is_dir():
        for inner in path.iterdir():
            inner.unlink()
        path.rmdir()
    path.unlink(missing_ok=True)
    path.symlink_to(target)
    text = client.get("/list").text
    assert "crafted" in text and f"{file} is a link" in text and "/run/one" in text, "and the rest is shown"
    for kind in ("run", "state", "body", "report"):
        assert client.get(f"/{kind}/crafted").status_code == 404


def test_a_preview_that_is_a_link_is_none(client, runs, tmp_path):
    (tmp_path / "secret.png").write_bytes((runs / "one" / "samples" / "step-000020.png").read_bytes())
    (runs / "one" / "samples" / "step-000030.png").symlink_to(tmp_path / "secret.png")
    assert client.get("/picture/20/0/0/one").status_code == 200 and client.get("/picture/30/0/0/one").status_code == 404
    for step, row, column in ((0, 9, 0), (0, 0, 9), (99, 0, 0)):
        assert client.get(f"/picture/{step}/{row}/{column}/one").status_code == 404
    assert client.get("/picture/-1/0/0/one").status_code in (404, 422)


def test_markup_in_what_a_run_holds_is_text(client, runs):
    write_run(runs / f"named {MARKUP.replace('/', '')}", "failed", why=MARKUP, model=MARKUP, data=MARKUP)
    (runs / "one" / "console.log").write_text(f"{MARKUP}\x1b[31m\n")
    for path in ("/", "/run/one", "/state/one", "/beside?run=one&run=suite/row/seed-0", f"/try?prompt={MARKUP}"):
        text = client.get(path).text
        assert not re.search(r"<script>\s*alert", text) and "&lt;script&gt;" in text, path
    assert "\x1b" not in client.get("/state/one").text


def test_what_a_browser_may_do(client, runs):
    for path in (*PATHS, "/nothing", "/static/live.js"):
        headers = client.get(path).headers
        policy = dict(part.strip().partition(" ")[::2] for part in headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'" and headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin" and "server" not in headers
    for path in ("/", "/run/one", "/try", "/start", "/beside?run=one&run=suite/row/seed-0"):
        text = client.get(path).text
        assert not re.search(r"\son\w+=|\sstyle=|<script>|<style", text), path


def test_a_page_that_a_run_wrote_runs_in_a_sandbox(client, runs):
    (runs / "one" / "report.html").write_text("<script>fetch('/stop', {method: 'POST'})</script>")
    policy = client.get("/report/one").headers["content-security-policy"]
    assert "sandbox allow-scripts" in policy and "same-origin" not in policy and "connect-src" not in policy
    assert policy.startswith("default-src 'none'")


def test_errors_never_repeat_markup_and_large_bodies_are_not_read(client):
    page = client.get(f"/run/{MARKUP}", headers=HTML)
    assert page.status_code == 404 and "<script>alert" not in page.text
    response = client.post("/try/draw", data={"model": MARKUP, "prompt": "x", "seed": "0", "steps": "1"})
    assert response.status_code == 422 and "<script>alert" not in response.text and "there is none" in response.text
    assert client.post("/start/look", content=b"x" * 40_000).status_code == 413


@pytest.mark.parametrize("name", ["", "..", ".", "a/b", "/tmp/x", "-rf", ".x", "a b", "x" * 65, "a\n", "é", "a\0"])
def test_names_of_new_runs_lead_nowhere(client, runs, name):
    with pytest.raises(UserError, match="give 1 to 64 letters"):
        checked_name(name)
    before = sorted(runs.rglob("*"))
    fields = {"model": "emoji-lcm", "data": "x", "name": name}
    if name.strip() == name:
        assert client.post("/start/go", data=fields).status_code == 422
    assert sorted(runs.rglob("*")) == before
