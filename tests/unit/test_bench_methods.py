"""The list of methods, as JSON and in the docs."""

import json

from jobs import bench
from jobs.methods import TABLES, markdown
from pipeline.methods import Method


def test_every_table_is_listed(capsys):
    assert bench.main(["methods"]) == 0
    document = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert document["bench"] == "methods"
    assert {row["table"] for row in document["rows"]} == set(TABLES)
    [trained] = [row for row in document["rows"] if (row["table"], row["name"]) == ("ROUTERS", "trained")]
    assert trained["source"].startswith("VideoRouter (arXiv 2605.05848), Semantic Router")
    del trained["source"]
    assert trained == {
        "table": "ROUTERS", "name": "trained", "training_free": False, "query_dependent": True,
        "position_policy": "none",
    }  # fmt: skip


def test_what_stands_in_the_docs_is_replaced_and_the_rest_is_left(tmp_path):
    docs = tmp_path / "methods.md"
    places = [f"## {name}\n<!-- generated: {name} -->\n| old |\n<!-- end -->\n" for name in TABLES]
    docs.write_text("# before\n" + "".join(places) + "after\n")
    assert bench.main(["methods", "--docs", str(docs)]) == 0
    once = docs.read_text()
    assert once.startswith("# before\n## ")
    assert once.endswith("<!-- end -->\nafter\n")
    assert "| old |" not in once
    assert once.count("| `dycoke` |") == 1
    assert bench.main(["methods", "--docs", str(docs)]) == 0
    assert docs.read_text() == once


def test_a_row_of_the_docs():
    plain = Method(source="-", stage="select", what="takes all", positions="none")
    full = Method(
        source="A (arXiv 1)", stage="compress", what="drops", differs="more", needs=("pixels", "probes"),
        query_dependent=True, stateful=True, training_free=False,
    )  # fmt: skip
    assert markdown({"a": plain, "b": full})[2:] == [
        "| `a` | - | takes all | - | - | - | - | - | - |",
        "| `b` | A (arXiv 1) | drops | pixels, probes | yes | yes | yes | original | more |",
    ]
