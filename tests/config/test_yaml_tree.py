"""The YAML reader: scalars as in YAML 1.2, lines kept, everything else refused with its line."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldsize.config.yaml_tree import MAX_BYTES, Entry, parse, plain, read
from worldsize.errors import UserError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("256", 256),
        ("-3", -3),
        ("0x10", 16),
        ("0o17", 15),
        ("1_000", 1000),
        ("1e-3", 0.001),
        ("6E4", 60000.0),
        ("2.", 2.0),
        (".5", 0.5),
        ("-.inf", float("-inf")),
        ("true", True),
        ("False", False),
        ("yes", "yes"),
        ("off", "off"),
        ("010", "010"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("null", None),
        ("~", None),
        ("", None),
        ("'256'", "256"),
        ("[1, two, 3.0]", [1, "two", 3.0]),
        ("hub:wikitext:wikitext-2-raw-v1", "hub:wikitext:wikitext-2-raw-v1"),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    read_back = plain(parse(text, "value"))
    assert read_back == value
    assert type(read_back) is type(value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.from_regex(r"[a-z]{1,5}", fullmatch=True), inner),
    max_leaves=8,
)


@given(json_values)
def test_json_is_read_as_json(value: object) -> None:
    assert plain(parse(json.dumps(value), "value")) == value


def test_every_key_keeps_its_line() -> None:
    tree = parse("# a comment\nmodel:\n\n  d_model: 3\ntrain: {steps: 4}\n", "f")
    assert tree["model"].line == 2
    assert tree["model"].value["d_model"] == Entry(3, 4)
    assert tree["train"].value["steps"] == Entry(4, 5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "f line 3: 'a' is given twice in the same section; the first is on line 1. Keep one."),
        ("a: 1\nb: [1, 2\n", "f line 3: not valid YAML: expected ',' or ']', but got '<stream end>'."),
        ("a: &x [1]\nb: *x\n", "f line 2: not valid YAML: aliases (*name) are not supported."),
        ("a: 1\n? [1]\n: 2\n", "f line 2: a key must be one word, such as d_model."),
        ("a: !!python/name:os.system\n", "the tag 'tag:yaml.org,2002:python/name:os.system' is not supported"),
        ("a: !!int x\n", "f line 1: 'x' is not a number that fits 64 bits."),
        ("a: 9223372036854775808\n", "f line 1: '9223372036854775808' is not a number that fits 64 bits."),
        ("a: " + "9" * 5000, "is not a number that fits 64 bits."),
        ("a: 1\n---\nb: 2\n", "f line 2: not valid YAML: but found another document."),
        ("a: 1\nb: \x07\n", "f line 2: not valid YAML: it holds a character that is not printable."),
        ("[" * 5000, "f: nested too deeply."),
    ],
)
def test_what_is_not_plain_yaml_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(UserError) as raised:
        parse(text, "f")
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"a: 1\nb: \xff\n", "line 2: not UTF-8 text"),
        (b"a" * (MAX_BYTES + 1), "is larger than 1 MiB"),
    ],
)
def test_files_that_are_no_config(tmp_path: Path, raw: bytes, message: str) -> None:
    (tmp_path / "f.yaml").write_bytes(raw)
    with pytest.raises(UserError, match=message):
        read(tmp_path / "f.yaml")


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read the config .*none\.yaml': No such file or directory"):
        read(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="is a folder"):
        read(tmp_path)


def test_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert plain(read(tmp_path / "f.yaml")) == {"a": 1}
