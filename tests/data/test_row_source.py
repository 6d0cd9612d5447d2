"""Rows of every kind of file, and what is said where one is at fault."""

from __future__ import annotations

import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import pytest

from worldsize.config.schema import DataConfig
from worldsize.data.row_source import Row, read_rows, source_digest
from worldsize.errors import UserError

RECORDS = [
    {"label": "b", "title": "One, two", "text": 'say "hi"'},
    {"label": "a", "title": "Drei", "text": "vier\nfünf"},
]
ROWS = [Row(('One, two say "hi"',), "b"), Row(("Drei vier\nfünf",), "a")]
CSV = 'label,title,text\r\nb,"One, two","say ""hi"""\r\na,Drei,"vier\nfünf"\r\n'


def classification(source: Path | str, **more: Any) -> DataConfig:
    return DataConfig(task="classification", source=str(source), **{"text_column": "title, text", **more})


def test_csv_with_and_without_a_header(tmp_path: Path) -> None:
    (tmp_path / "with.csv").write_text(CSV, newline="")
    (tmp_path / "without.csv.xz").write_bytes(lzma.compress(CSV.partition("\r\n")[2].encode()))
    (tmp_path / "tabs.tsv.gz").write_bytes(gzip.compress("label\ttext\nb\tone\n".encode("utf-8-sig")))
    assert read_rows(classification(tmp_path / "with.csv")) == ROWS
    assert read_rows(classification(tmp_path / "without.csv.xz", text_column="1,2", label_column="0")) == ROWS
    assert read_rows(classification(tmp_path / "tabs.tsv.gz", text_column="text")) == [Row(("one",), "b")]


def test_json_lines_and_parquet(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(record) for record in RECORDS) + "\n\n")
    assert read_rows(classification(tmp_path / "rows.jsonl")) == ROWS
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(RECORDS), tmp_path / "rows.parquet")
    assert read_rows(classification(tmp_path / "rows.parquet")) == ROWS


@pytest.mark.hf
def test_a_saved_data_set_gives_its_classes_names(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})
    split = datasets.Dataset.from_dict({"text": ["good", "bad"], "label": [1, 0]}, features=features)
    datasets.DatasetDict({"train": split, "test": split.select([1])}).save_to_disk(str(tmp_path / "saved"))
    data = classification(tmp_path / "saved", text_column="text", validation_source=f"{tmp_path / 'saved'}@test")
    assert read_rows(data) == [Row(("good",), "pos"), Row(("bad",), "neg")]
    assert read_rows(data, held_out=True) == [Row(("bad",), "neg")]
    with pytest.raises(UserError, match="no split 'dev'"):
        read_rows(classification(f"{tmp_path / 'saved'}@dev", text_column="text"))


def test_pairs_of_lines_and_of_columns(tmp_path: Path) -> None:
    (tmp_path / "train.de.gz").write_bytes(gzip.compress(b"eins\nzwei drei\n"))
    (tmp_path / "train.en").write_text("one\ntwo three\n")
    pairs = [Row(("eins", "one")), Row(("zwei drei", "two three"))]
    lines = DataConfig(
        task="translation", source=str(tmp_path / "train.de.gz"), target_source=str(tmp_path / "train.en")
    )
    assert read_rows(lines) == pairs
    (tmp_path / "pairs.csv").write_text("de,en\neins,one\nzwei drei,two three\n")
    columns = DataConfig(task="translation", source=str(tmp_path / "pairs.csv"), text_column="de", target_column="en")
    assert read_rows(columns) == pairs
    (tmp_path / "train.en").write_text("one\n")
    with pytest.raises(UserError, match=r"has 2 lines and .* has 1"):
        read_rows(lines)


def test_max_bytes_takes_whole_rows_from_the_front(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\nabcd,x\nefgh,y\nijkl,x\n")
    kept = read_rows(classification(tmp_path / "rows.csv", text_column="text", max_bytes=9))
    assert [row.texts[0] for row in kept] == ["abcd", "efgh"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.csv", b"txt,label\none,a\n", r"no column 'text' in row 1. Did you mean 'txt'\? Its columns: txt, label"),
        ("rows.csv", b"text,label\n", "holds no rows"),
        ("rows.csv", b"text,label\n\xff,a\n", "not UTF-8 text: byte 0xff at offset 11"),
        ("rows.jsonl", b'{"text": "a", "label": 1}\n[1]\n', "line 2 is no JSON object"),
        ("rows.jsonl", b'{"text": \n', "line 1: .*Give one JSON object a line"),
        ("rows.parquet", b"nothing", "cannot be read as Parquet"),
        ("rows.doc", b"x", r"is no file of rows. Allowed: .csv"),
    ],
)
def test_what_is_said_of_a_bad_file(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    with pytest.raises(UserError, match=message):
        read_rows(classification(tmp_path / name, text_column="text"))


def test_the_digest_follows_the_content(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a")
    first = source_digest(str(tmp_path / "rows.csv"), None)
    assert source_digest(str(tmp_path / "rows.csv"), None) == first
    (tmp_path / "rows.csv").write_text("b")
    assert source_digest(str(tmp_path / "rows.csv"), None) != first
    with pytest.raises(UserError, match=r"Did you mean .*rows\.csv"):
        source_digest(str(tmp_path / "rows.csvv"), None)
