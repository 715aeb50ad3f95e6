"""What tables and shards give: COYO's and LAION's columns, filters before anything is downloaded, images inside."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from e2ed2.curation.pipeline import Condition
from e2ed2.curation.run import curate
from e2ed2.curation.stages.filter import unmet
from e2ed2.data.sources.shards import write_tar
from e2ed2.system.errors import UserError
from e2ed2.system.watch import silent
from tests.curation.conftest import encoded, picture, pipeline_of, run

COYO = {
    "id": [11, 12, 13, 14, 15], "url": [f"http://localhost:{n + 1}/x.jpg" for n in range(5)],
    "text": ["one", "two", "three", "four", None], "width": [800, 300, 800, 2000, 800],
    "height": [600] * 5,
    "watermark_score": [0.1, 0.1, 0.9, 0.1, 0.1], "nsfw_score_opennsfw2": [0.0, 0.0, 0.0, 0.0, None],
    "aesthetic_score_laion_v2": [6.1, 6.2, 6.3, 6.4, 6.5],
}  # fmt: skip


def test_coyo_rows_are_filtered_by_their_columns_before_they_are_asked_for(tmp_path):
    pq.write_table(pa.table(COYO), tmp_path / "coyo.parquet", row_group_size=2)
    with pytest.raises(UserError, match="no row is left after the stage check: "):
        curate(
            pipeline_of(
                tmp_path / "out", "input.source=parquet", f"input.path={tmp_path}",
                "filter=[{column: width, min: 512}, {column: aspect, max: 2}, {column: watermark_score, max: 0.5}, "
                "{column: nsfw_score_opennsfw2, max: 0.5}]",
            ),
            silent,
        )  # fmt: skip
    rows = [
        row
        for file in sorted((tmp_path / "out" / "work" / "check").iterdir())
        for row in pq.read_table(file).to_pylist()
    ]
    assert [row["id"] for row in rows] == ["11", "12", "13", "14", "15"]
    assert [row["score"] for row in rows] == COYO["aesthetic_score_laion_v2"]
    assert [row["reason"] for row in rows] == [
        "a private address", "width below 512", "watermark_score above 0.5", "aspect above 2",
        "nsfw_score_opennsfw2 is missing",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            "filter=[{column: pwatermark, max: 0.5}]",
            "filter.0.column: no column 'pwatermark' in .*; it has aesthetic_score",
        ),
        (
            "input.columns.licence=rights",
            "input.columns.licence: no column 'rights' in .*; it has aesthetic_score_laion_v2,",
        ),
    ],
)
def test_a_column_that_is_not_there_is_refused_before_any_work(fields, said, tmp_path):
    pq.write_table(pa.table(COYO), tmp_path / "coyo.parquet")
    with pytest.raises(UserError, match=f"^{said}"):
        curate(pipeline_of(tmp_path / "out", "input.source=parquet", f"input.path={tmp_path}", fields), silent)
    assert not (tmp_path / "out").exists()


def test_a_table_without_addresses_and_images_is_refused(tmp_path):
    pq.write_table(pa.table({"words": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="has no column of addresses or images of a usual name; it has words"):
        curate(pipeline_of(tmp_path / "out", "input.source=parquet", f"input.path={tmp_path}"), silent)


def test_laion_names_and_images_within_a_table_are_known(tmp_path):
    images = [{"bytes": encoded(picture(n)), "path": None} for n in range(3)]
    table = {"SAMPLE_ID": ["a", "b", "c"], "image": images, "TEXT": ["x", "y", "z"], "LICENSE": ["cc0", "?", "cc0"],
             "AESTHETIC_SCORE": [5.0, 7.0, 6.0], "LANGUAGE": ["en", "en", "de"]}  # fmt: skip
    pq.write_table(pa.table(table), tmp_path / "laion.parquet")
    asked = (
        "input.source=parquet",
        f"input.path={tmp_path / 'laion.parquet'}",
        "filter=[{column: LANGUAGE, values: [en]}]",
    )
    rows = run(pipeline_of(tmp_path / "out", *asked, "select.count=1"))
    assert {name: (row["kept"], row["reason"]) for name, row in rows.items()} == {
        "a": (False, "better ones were enough"), "b": (True, None), "c": (False, "LANGUAGE is another"),
    }  # fmt: skip
    assert [row["licence"] for row in rows.values()] == ["cc0", "?", "cc0"]
    assert rows["b"]["caption"] == "y" and rows["b"]["score"] == 7


@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
def test_shards_give_their_images_captions_and_fields(ending, tmp_path):
    import gzip

    members = []
    for n in range(4):
        about = {"url": f"https://www.site{n % 2}.org/{n}.jpg", "aesthetic": 4.0 + n, "license": "by"}
        caption = json.dumps(about | ({"caption": f"number {n}"} if n == 2 else {})).encode()
        members += [(f"{n:03d}.jpg", encoded(picture(n))), (f"{n:03d}.json", caption)]
        members += [(f"{n:03d}.txt", f"number {n}".encode())] if n != 2 else []
    write_tar(tmp_path / "in" / "0.tar", [*members, ("004.txt", b"no image"), ("005.jpg", b"x"), ("005.json", b"{")])
    path = tmp_path / "in" / "0.tar"
    if ending == "tar.gz":
        path = tmp_path / "in" / "0.tar.gz"
        path.write_bytes(gzip.compress((tmp_path / "in" / "0.tar").read_bytes()))
    asked = ("input.source=webdataset", f"input.path={path}", "filter=[{column: aesthetic, min: 4.5}]")
    rows = run(pipeline_of(tmp_path / "out", *asked))
    assert [row["caption"] for row in rows.values() if row["kept"]] == ["number 1", "number 2", "number 3"]
    assert {name: row["reason"].partition(" (")[0] for name, row in rows.items() if not row["kept"]} == {
        "000": "aesthetic below 4.5", "004": "no image", "005": "its JSON cannot be read",
    }  # fmt: skip
    assert rows["001"]["domain"] == "www.site1.org" and rows["001"]["licence"] == "by" and rows["003"]["score"] == 7


@pytest.mark.parametrize(
    ("condition", "value", "said"),
    [
        ({"min": 2}, 2, None), ({"min": 2}, 1.9, "x below 2"), ({"max": 0.5}, 0.6, "x above 0.5"),
        ({"min": 1}, float("nan"), "x is no number"),
        ({"min": 1}, "3", "x is no number"), ({"min": 0}, True, "x is no number"),
        ({"min": 0}, None, "x is missing"), ({"values": ["en", "de"]}, "de", None),
        ({"values": [1]}, "1", "x is another"),
    ],
)  # fmt: skip
def test_conditions(condition, value, said):
    assert unmet([Condition(column="x", **condition)], {"x": value}) == said
