"""A rater's pages through HTTP: what they show, what is kept, and in what order."""

import time

import pytest

from e2ed2.study.export import votes_of
from e2ed2.study.store import Decision
from e2ed2.study.votes import CRITERIA
from tests.study.conftest import HTML, MODELS, screens


def decide_all(running, link: str, choice: str = "left") -> int:
    total = len(running.study.raters["rater-1"].screens)
    for screen in range(total):
        assert running.vote(link, screen, choice).status_code == 200
    return total


def test_from_guidelines_to_handing_in(running):
    link, client = running.links[0], running.client
    assert "Guidelines" in client.get(link).text and f'href="{link}/0"' in client.get(link).text
    total = decide_all(running, link)
    assert f'href="{link}/{total}"' in client.get(link).text
    end = client.get(f"{link}/{total}", headers=HTML)
    assert "Hand in" in end.text and screens(end.text) == [str(total)]
    assert "Handed in" in client.post(f"{link}/finish", headers=HTML).text
    assert running.vote(link, 0, "right", "another-id").status_code == 409
    assert [d.choice for _, d in running.store.decisions()] == ["left"] * total
    assert 'data-choice="left" aria-pressed="true"' in client.get(f"{link}/0").text  # to look at, no longer to change
    assert client.get(f"{link}/0").text.count("disabled") >= 3


def test_a_page_shows_prompt_question_and_nothing_of_models(running):
    link = running.links[0]
    decide_all(running, link)
    for shown in running.study.raters["rater-1"].screens:
        page = running.client.get(f"{link}/{shown.number}", headers=HTML).text
        assert page.count("<img") == 3 and all(model not in page for model in MODELS)
        assert shown.pair not in page and not any(file in page for file in shown.files)


def test_addresses_are_the_same_whatever_model_is_on_a_side(running):
    for link, rater in zip(running.links, running.study.raters.values(), strict=True):
        for shown in rater.screens[:3]:
            page = running.client.get(f"{link}/{shown.number}/part").text
            for side in ("left", "right"):
                assert f'src="{link}/{shown.number}/{side}.png"' in page


def test_both_pictures_come_with_equal_headers_and_length(running):
    link, seen = running.links[0], []
    for side in ("left", "right"):
        response = running.client.get(f"{link}/0/{side}.png")
        seen.append({name: value for name, value in response.headers.items() if name != "date"})
        file = running.study.raters["rater-1"].screens[0].files[side == "right"]
        assert response.content == (running.study.folder / "pictures" / file).read_bytes()
    assert seen[0] == seen[1] and "last-modified" not in seen[0] and "etag" not in seen[0]


def test_a_vote_sent_twice_is_there_once_and_a_replay_after_a_revision_changes_nothing(running):
    link = running.links[0]
    for _ in range(2):
        assert running.vote(link, 0, "left", "first-vote").json() == {"reached": 1}
    assert running.vote(link, 0, "right", "second-vote").status_code == 200
    assert running.vote(link, 0, "left", "first-vote").status_code == 200
    assert running.store.choice("rater-1", 0) == "right" and running.store.num_decisions() == 2
    assert running.vote(link, 0, "none", "first-vote").status_code == 409  # another vote of the same id
    (vote,) = votes_of(running.study, running.store)
    assert (vote.choice, vote.revised) == ("right", 1)


def test_the_same_choice_again_is_no_revision(running):
    for i, (choice, seconds) in enumerate([("left", 2.0), ("left", 9.0), ("none", 3.0), ("none", 8.0)]):
        running.vote(running.links[0], 0, choice, f"vote-number-{i}", seconds=seconds)
    (vote,) = votes_of(running.study, running.store)
    assert (vote.choice, vote.revised, vote.seconds) == ("none", 1, 3.0)


def test_screens_come_in_order_and_a_few_may_be_fetched_ahead(running):
    link, client = running.links[0], running.client
    assert running.vote(link, 1).status_code == 409
    assert client.get(f"{link}/5", follow_redirects=False).headers["location"] == f"{link}/0"
    assert client.get(f"{link}/3/part").status_code == 200 and client.get(f"{link}/4/part").status_code == 404
    assert client.get(f"{link}/3/left.png").status_code == 200 and client.get(f"{link}/4/left.png").status_code == 404
    running.vote(link, 0)
    assert client.get(f"{link}/4/part").status_code == 200
    assert screens(client.get(f"{link}/7").text) == ["1"]


def test_a_vote_that_waited_for_a_connection_is_dated_back(running):
    running.vote(running.links[0], 0, waited=3600)
    ((_, decision),) = running.store.decisions()
    assert abs(time.time() - 3600 - decision.decided_at) < 30


@pytest.mark.parametrize(
    "body",
    [
        {"screen": "0"}, {"screen": -1}, {"screen": 10**9}, {"choice": "both"}, {"seconds": -1}, {"seconds": 1e30},
        {"seconds": "x"}, {"more": 1}, {"waited": -5},
    ],
)  # fmt: skip
def test_what_is_no_vote_is_refused(running, body):
    values = {"screen": 0, "choice": "left", "seconds": 1.0} | body
    assert running.client.put(f"{running.links[0]}/votes/some-vote-id", json=values).status_code == 422
    assert running.store.num_decisions() == 0


def test_numbers_that_are_none_and_ids_that_are_none(running):
    vote = '{"screen":0,"choice":"left","seconds":%s}'
    for text in (vote % "NaN", vote % "Infinity", "[", ""):
        response = running.client.put(
            f"{running.links[0]}/votes/some-vote-id", content=text, headers={"content-type": "application/json"}
        )
        assert response.status_code == 422
    for id in ("short", "x" * 65, "with space", "with'quote--"):
        assert running.vote(running.links[0], 0, id=id).status_code == 422
    assert running.store.num_decisions() == 0


def test_a_pause_keeps_votes_out_until_it_ends(running):
    running.store.pause(True)
    assert running.vote(running.links[0], 0).status_code == 503
    assert 'data-paused="1"' in running.client.get(f"{running.links[0]}/0").text
    running.store.pause(False)
    assert running.vote(running.links[0], 0).status_code == 200


def test_a_raised_hand_its_reply_and_that_it_was_read(running):
    link, client = running.links[0], running.client
    question = {"id": "hand-0001", "screen": 0, "text": "What if <b>both</b> are bad?"}
    for _ in range(2):
        assert client.post(f"{link}/hands", json=question).status_code == 200
    for text in ("a\0b", "a\nb\0"):
        assert client.post(f"{link}/hands", json=question | {"id": "hand-0002", "text": text}).status_code == 422
    assert client.post(f"{running.links[2]}/hands", json=question | {"text": "two\nlines\n"}).status_code == 200
    (hand,) = running.store.hands("rater-1")
    assert 'data-waiting="1"' in client.get(f"{link}/news").text
    running.store.reply(hand.number, "Then press <i>X</i>")
    news = client.get(f"{link}/news").text
    assert "Then press &lt;i&gt;X&lt;/i&gt;" in news and "&lt;b&gt;both" in news and 'data-waiting="0"' in news
    assert "Then press" not in client.get(f"{running.links[1]}/news").text
    client.post(f"{link}/news/read")
    assert "Then press" not in client.get(f"{link}/news").text


def test_blocks_practice_and_counter(running):
    """The first screen of a block and of its main part begin with a word about it; the counter counts the part."""
    link, rater = running.links[2], running.study.raters["rater-3"]
    for shown in rater.screens:
        part = running.client.get(f"{link}/{shown.number}/part").text
        own = [s for s in rater.screens if s.criterion == shown.criterion and s.is_practice == shown.is_practice]
        assert f"<strong>{own.index(shown) + 1}</strong> / {len(own)}" in part
        assert ("interlude" in part) == (shown is own[0]), shown
        running.vote(link, shown.number)


@pytest.mark.parametrize(
    ("asked", "cookie", "accepted", "expected"),
    [("", "", "", "en"), ("", "", "zh-CN,zh;q=0.9,en;q=0.8", "zh"), ("", "zh", "en", "zh"), ("en", "zh", "zh", "en"),
     ("../../etc", "xx", "fr,zh;q=.5", "zh")],
)  # fmt: skip
def test_language(running, asked, cookie, accepted, expected):
    headers = {"accept-language": accepted} | ({"cookie": f"language={cookie}"} if cookie else {})
    page = running.client.get(running.links[0] + (f"?language={asked}" if asked else ""), headers=headers)
    assert f'<html lang="{expected}">' in page.text


def test_the_votes_of_a_study_say_what_was_shown(running):
    """Every column against the screen that was on, for all three raters; checks answered right by who looks."""
    for link, rater in zip(running.links, running.study.raters.values(), strict=True):
        for shown in rater.screens:
            running.vote(link, shown.number, shown.expected or "none")
    votes = votes_of(running.study, running.store)
    assert len(votes) == sum(len(rater.screens) for rater in running.study.raters.values())
    assert {vote.group for vote in votes} == {"artist", "lay"} and {vote.criterion for vote in votes} == set(CRITERIA)
    for vote in votes:
        if vote.kind == "check":
            assert vote.choice == vote.expected and vote.left == vote.right
        else:
            assert {vote.left, vote.right} == set(MODELS) and vote.expected == ""


def test_decisions_survive_a_new_start(running, folder):
    from e2ed2.study.export import read_any_votes

    running.store.decide("rater-2", Decision("an-id-of-mine", 0, "right", 2.5, 1_800_000_000.0)).result()
    (vote,) = read_any_votes(folder[0])
    assert (vote.rater, vote.choice, vote.seconds) == ("rater-2", "right", 2.5)
    assert vote.decided_at.isoformat() == "2027-01-15T08:00:00+00:00"
