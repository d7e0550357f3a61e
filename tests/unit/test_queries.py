"""Query files: what is read, and that every mistake is found with its place."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ConfigError
from pipeline.queries import Query, check_budgets, columns, load_queries, one_query, texts

ROOT = Path(__file__).parents[2]
WANTED = [
    Query("dog", "a dog, running", "find", threshold=0.25),
    Query("light", "Which colour is the light?", "choose", choices=("red", "green"), budget_tokens=512),
    Query("story", "Was passiert hier? ünï", "ask"),
]


def write(folder: Path, name: str, content: str | bytes) -> str:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def mistakes(path: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_queries(path)
    first, *lines = str(caught.value).split("\n")
    assert first.startswith(f"{path}: {len(lines)} mistake")
    return [line.strip() for line in lines]


def jsonl(*items: dict[str, object]) -> str:
    return "\n".join(json.dumps(item) for item in items)


GOOD = {
    "q.jsonl": "\ufeff"
    + jsonl(
        {"query_id": "dog", "text": " a dog, running ", "kind": "find", "threshold": 0.25},
        {
            "query_id": "light", "text": "Which colour is the light?", "kind": "choose",
            "choices": ["red", "green"], "budget_tokens": 512,
        },
        {"query_id": "story", "text": "Was passiert hier? ünï", "kind": "ask", "threshold": None},
    )
    + "\n\n",
    "q.csv": "query_id,text,kind,choices,threshold,budget_tokens\r\n"
    'dog,"a dog, running",find,,0.25,\r\n'
    "light,Which colour is the light?,choose,red|green,,512\r\n"
    "story,Was passiert hier? ünï,ask\r\n",
    "q.yaml": "- {query_id: dog, text: 'a dog, running', kind: find, threshold: 0.25}\n"
    "- query_id: light\n  text: Which colour is the light?\n  kind: choose"
    "\n  choices: [red, green]\n  budget_tokens: 512\n"
    "- query_id: story\n  text: Was passiert hier? ünï\n  kind: ask\n",
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_every_text_format_reads_the_same(tmp_path: Path, name: str) -> None:
    assert load_queries(write(tmp_path, name, GOOD[name])) == WANTED


def test_parquet_reads_the_same_also_with_numbers_that_became_floats(tmp_path: Path) -> None:
    table = pa.table(
        {
            "query_id": ["dog", "light", "story"],
            "text": [query.text for query in WANTED],
            "kind": ["find", "choose", "ask"],
            "choices": [None, ["red", "green"], []],
            "threshold": [0.25, None, None],
            "budget_tokens": [None, 512.0, None],
        }
    )
    pq.write_table(table, tmp_path / "q.parquet")
    assert load_queries(str(tmp_path / "q.parquet")) == WANTED


def test_all_mistakes_of_a_file_come_at_once_with_their_lines(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "q.jsonl",
        "\n".join(
            [
                '{"query_id": "a", "text": "x", "kind": "find"}',
                "not json",
                '{"query_id": "a", "text": "y", "kind": "flagg"}',
                "[1]",
                '{"query_id": "", "txt": "y", "kind": "ask", "threshold": 1.5, "budget_tokens": 0}',
                '{"query_id": "c", "text": "y", "kind": "choose", "choices": ["red"]}',
                '{"query_id": "d", "text": "y", "kind": "choose", "choices": ["red", "red "]}',
                '{"query_id": "e", "text": "y", "kind": "flag", "choices": ["red", "blue"]}',
                json.dumps({"query_id": "f", "text": "y" * 2001, "kind": "find"}),
                '{"query_id": 7, "text": "y", "kind": "find", "threshold": NaN, "budget_tokens": 1.5}',
                '{"query_id": "g", "text": "\\ud800", "kind": "find", "threshold": true}',
                '{"query_id": "h", "text": " ?! ... ", "kind": "ask"}',
            ]
        ),
    )
    assert mistakes(path) == [
        "line 2: not JSON: Expecting value at column 1",
        "line 4: expected an object with query_id, text and kind, found [1] (list)",
        "line 3: kind 'flagg' is unknown; did you mean 'flag'?",
        "line 3: query_id 'a' is used on line 1 already",
        "line 5: unknown field 'txt'; did you mean 'text'?",
        "line 5: query_id is empty",
        "line 5: text is missing",
        "line 5: threshold must be a number from 0 to 1, found 1.5 (float)",
        "line 5: budget_tokens must be a whole number of at least 1, found 0 (int)",
        "line 6: kind 'choose' needs at least 2 choices, found 1",
        "line 7: choices must differ, found 'red' more than once",
        "line 8: choices belong to kind 'choose', not to 'flag'; drop them or change the kind",
        "line 9: text is 2001 characters long, the limit is 2000",
        "line 10: query_id must be text, found 7 (int); put it in quotes",
        "line 10: threshold must be a number from 0 to 1, found nan (float)",
        "line 10: budget_tokens must be a whole number of at least 1, found 1.5 (float)",
        r"line 11: text holds half a surrogate pair: '\ud800'",
        "line 11: threshold must be a number from 0 to 1, found True (bool)",
        "line 12: text holds no word: '?! ...'; write what to look for or what to ask",
    ]


def test_csv_mistakes(tmp_path: Path) -> None:
    header = "query_id,text,kind,threshold,budget_tokens\n"
    path = write(tmp_path, "q.csv", header + 'a,"two\nlines",find,high,5e2\nb,x, y,find,,\na,,find\n')
    assert mistakes(path) == [
        "line 4: more cells than the header has; quote texts that hold a comma",
        "line 3: threshold must be a number from 0 to 1, found 'high' (str)",
        "line 3: budget_tokens must be a whole number of at least 1, found '5e2' (str)",
        "line 5: text is missing",
        "line 5: query_id 'a' is used on line 3 already",
    ]
    assert mistakes(write(tmp_path, "head.csv", "query_id,text,kinds,text\na,b,find,c\n")) == [
        "line 1: unknown field 'kinds'; did you mean 'kind'?",
        "line 1: no column 'kind'",
        "line 1: column 'text' is there twice",
    ]
    assert mistakes(write(tmp_path, "quote.csv", header + 'a,"x"y,find\n'))[0].startswith("line 2: not CSV")


def test_yaml_mistakes(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "q.yml",
        "# questions\n- query_id: 1\n  text: yes\n  kind: find\n\n- {query_id: b, text: x, kind: find}\n- plain\n",
    )
    assert mistakes(path) == [
        "line 7: expected an object with query_id, text and kind, found 'plain' (str)",
        "line 2: query_id must be text, found 1 (int); put it in quotes",
        "line 2: text must be text, found True (bool); put it in quotes",
    ]
    assert mistakes(write(tmp_path, "broken.yaml", "- a: [1\n- b"))[0].startswith("line 2: not YAML")
    assert mistakes(write(tmp_path, "map.yaml", "query_id: a")) == [
        "line 1: expected a list of queries (`- query_id: ...`)"
    ]
    assert mistakes(write(tmp_path, "tag.yaml", "- !!python/object:os.system {}"))[0].startswith(
        "line 1: not YAML"
    )


def test_parquet_mistakes(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"query_id": ["a", "a"], "text": ["x", None], "kind": ["find"] * 2}), tmp_path / "q.parquet"
    )
    assert mistakes(str(tmp_path / "q.parquet")) == [
        "row 2: text is missing",
        "row 2: query_id 'a' is used on row 1 already",
    ]
    assert mistakes(write(tmp_path, "bad.parquet", b"PAR1 no"))[0].startswith("not Parquet")


@pytest.mark.parametrize("name", ["q.jsonl", "q.csv", "q.yaml"])
def test_empty_files_and_other_encodings(tmp_path: Path, name: str) -> None:
    assert mistakes(write(tmp_path, name, "\n")) == ["the file holds no query"]
    assert mistakes(write(tmp_path, name, b"\n\ncaf\xe9")) == [
        "line 3: byte 0xe9 is not UTF-8; save the file as UTF-8"
    ]


def test_missing_files_and_unknown_extensions(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.csv: no such query file"):
        load_queries(str(tmp_path / "nowhere.csv"))
    with pytest.raises(ConfigError, match=r"q\.txt: cannot tell .*\*\.jsonl, \*\.csv, \*\.parquet, \*\.yaml"):
        load_queries(write(tmp_path, "q.txt", "x"))


def test_one_query_has_an_id_that_follows_from_what_was_asked() -> None:
    query = one_query(" A person leaves a bag! ", "flag")
    assert (query.text, query.kind) == ("A person leaves a bag!", "flag")
    assert query.query_id.startswith("a-person-leaves-a-bag-")
    assert one_query(" A person leaves a bag! ", "flag") == query
    assert len({one_query(text, kind).query_id for text in ("犬", "猫") for kind in ("find", "ask")}) == 4
    for text, kind, why in [
        (" ", "find", "is empty"),
        ("x", "finds", "'find'"),
        ("x", "choose", "at least 2 choices"),
    ]:
        with pytest.raises(ConfigError, match=why):
            one_query(text, kind)


def test_texts_and_columns_agree() -> None:
    order = texts(WANTED)
    for query in WANTED:
        own, choices = columns(WANTED)[query.query_id]
        assert order[own] == query.text
        assert tuple(order[column] for column in choices) == query.choices


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("queries.*")), ids=lambda path: path.name)
def test_the_example_files_are_right_and_alike(path: Path) -> None:
    assert load_queries(str(path)) == load_queries(str(ROOT / "examples" / "queries.jsonl"))


def test_reading_queries_loads_no_heavy_library() -> None:
    program = (
        "import sys, pipeline.queries; sys.exit(bool({'torch', 'ray', 'av', 'pandas'} & {*sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


def test_a_word_is_a_word_in_any_script() -> None:
    for text in ("视频", "вода", "7", "حريق", "é?"):
        assert one_query(text).text == text


def test_budgets_that_buy_no_frame_come_at_once_with_the_least_that_would() -> None:
    queries = [
        Query("own", "a dog", "flag", budget_tokens=3),
        Query("rich", "a dog", "flag", budget_tokens=4),
        Query("job", "a dog", "ask"),
    ]
    check_budgets(queries[1:], 4, 4)
    with pytest.raises(ConfigError) as caught:
        check_budgets(queries, 2, 4)
    told = str(caught.value)
    assert "query 'own': its budget_tokens 3 does not buy" in told
    assert "query 'job': --plan.budget-tokens 2 does not buy" in told
    assert "budgets of 4 or more" in told
    assert "rich" not in told
