"""The table of votes: what is written is read, and what is wrong is one line with file, row, column and value."""

import io

import pandas
import pyarrow.parquet
import pytest

from e2ed2.study.votes import COLUMNS, Vote, check_votes, read_votes, to_csv, to_parquet
from e2ed2.system.errors import UserError
from tests.mangle import mangled_bytes, share_taken

ROW = {
    "rater": "ann", "group": "artist", "criterion": "quality", "pair": "p1", "kind": "main", "repeat_of": "",
    "prompt": 'a "red" apple,\n🍎 on a table', "category": "", "left": "emoji-lcm", "right": "emoji-e2ed2",
    "choice": "left", "expected": "", "seconds": 1.25, "revised": 2, "decided_at": "2026-01-31T12:00:00.123456+02:00",
}  # fmt: skip


def vote(**changes: object) -> Vote:
    return Vote.model_validate({**ROW, **changes})


VOTES = [
    vote(),
    vote(pair="p2", choice="none", seconds=0, category="food"),
    vote(pair="p3", kind="repeat", repeat_of="p1", choice="right"),
    vote(pair="p4", kind="check", right="emoji-lcm", expected="right", rater="=1+2"),
]


@pytest.mark.parametrize(("name", "write"), [("v.csv", to_csv), ("v.parquet", to_parquet)])
@pytest.mark.parametrize("votes", [VOTES, []], ids=["votes", "none"])
def test_what_is_written_is_read(tmp_path, name, write, votes):
    (tmp_path / name).write_bytes(write(votes))
    assert read_votes(tmp_path / name) == votes


def test_both_files_are_the_same_plain_table():
    table = pandas.read_csv(io.BytesIO(to_csv(VOTES)), keep_default_na=False)
    other = pyarrow.parquet.read_table(io.BytesIO(to_parquet(VOTES))).to_pandas()
    assert list(table) == list(COLUMNS) == list(ROW)
    pandas.testing.assert_frame_equal(table, other, check_dtype=False)
    assert table.decided_at[0] == "2026-01-31T10:00:00.123456+00:00", "in UTC"


@pytest.mark.parametrize("end", ["\r\n", "\n"])
def test_a_table_that_another_program_wrote_is_read(tmp_path, end):
    """With a mark, a line of nothing, columns in another order, empty texts as null."""
    table = pandas.read_csv(io.BytesIO(to_csv(VOTES)))[list(reversed(COLUMNS))]
    text = table.to_csv(index=False, lineterminator=end) + end
    (tmp_path / "v.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    table.to_parquet(tmp_path / "v.parquet")
    assert read_votes(tmp_path / "v.csv") == read_votes(tmp_path / "v.parquet") == VOTES


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("quality,p2", "taste,p2", ["line 4", "criterion", "'alignment', 'faithfulness' or 'quality'", "'taste'"]),
        (",none,", ",up,", ["line 4", "choice", "'left', 'right' or 'none'", "'up'"]),
        ("ann,artist,quality,p2", ",artist,quality,p2", ["line 4", "rater", "found ''"]),
        (",0.0,", ",-1,", ["line 4", "seconds", "greater than or equal to 0", "'-1'"]),
        (",0.0,", ",nan,", ["line 4", "seconds", "finite", "'nan'"]),
        (",0.0,2,", ",0.0,2.5,", ["line 4", "revised", "'2.5'"]),
        ("2026-01-31T10:00:00.123456+00:00\r\n=1", "2026-01-31\r\n=1", ["line 6", "decided_at", "ISO time", "'2026-"]),
        (",repeat,p1,", ",repeat,,", ["line 6", "repeat_of", "a repeat needs one"]),
        (",repeat,p1,", ",main,p1,", ["line 6", "repeat_of", "must be empty for a vote of kind main", "'p1'"]),
        (",right,1.25", ",,1.25", ["line 8", "expected", "a check needs one"]),
        ("emoji-lcm,emoji-e2ed2,none", "emoji-lcm,emoji-lcm,none", ["line 4", "right", "another model", "'emoji-lcm'"]),
        ("quality,p2", "quality,p1", ["line 4", "pair 'p1'", "ann decided it by quality in a row before"]),
        ("ann,artist,quality,p2", "ann,other,quality,p2", ["line 4", "group 'other'", "'artist' before"]),
        ("ann,artist,quality,p2", "bob,other,quality,p1", ["line 4", "pair 'p1'", "category", "in a row before"]),
        ("rater,group", "rater,team", ["column 'group' is missing", "rater,group,criterion"]),
        ("rater,group", "rater,rater,group", ["column 'rater' is there twice"]),
        ("decided_at\r\n", "decided_at,note\r\n", ["column 'note' is unknown"]),
        ("none,,0.0", "none,0.0", ["line 4", "14 values for 15 columns"]),
        ('"a ""red"" apple', '"a "red" apple', ["line 2", "expected after"]),
    ],
)
def test_a_table_that_is_wrong_is_one_line(tmp_path, old, new, said):
    text = to_csv(VOTES).decode()
    assert text.count(old) >= 1
    path = tmp_path / "v.csv"
    path.write_bytes(text.replace(old, new, 1).encode())
    with pytest.raises(UserError) as error:
        read_votes(path)
    assert [word for word in [str(path), *said] if word not in str(error.value)] == [], str(error.value)
    assert str(error.value).count("\n") == 0 and len(str(error.value)) < 400


@pytest.mark.parametrize("name", ["v.txt", "none.csv", "none.parquet", "empty.csv", "empty.parquet", "folder.csv"])
def test_a_file_that_cannot_be_read_is_one_line(tmp_path, name):
    (tmp_path / "folder.csv").mkdir()
    for empty in ("v.txt", "empty.csv", "empty.parquet"):
        (tmp_path / empty).touch()
    with pytest.raises(UserError, match=name):
        read_votes(tmp_path / name)


def test_rows_from_elsewhere_are_checked_too():
    with pytest.raises(UserError, match="row 1: pair 'p1'"):
        check_votes([vote(), vote()], "row {}".format)


@pytest.mark.parametrize(("name", "write"), [("v.csv", to_csv), ("v.parquet", to_parquet)])
def test_a_mangled_table_is_read_or_refused_in_one_line(tmp_path, name, write):
    path, content = tmp_path / name, write(VOTES)
    taken = share_taken(lambda rng: path.write_bytes(mangled_bytes(content, rng)), lambda: read_votes(path), few=100)
    assert 0 < taken < 1
