"""YAML that is written reads back to the same config."""

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from worldsize.config.load import load, resolve
from worldsize.config.schema import Config, DataConfig, OptimizerConfig
from worldsize.config.write import scalar, to_json, to_yaml
from worldsize.config.yaml_tree import parse, plain
from worldsize.errors import UserError


@given(
    st.text(st.characters(exclude_categories=["Cs"]))
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.integers(-(2**63), 2**63 - 1)
)
def test_a_scalar_reads_back_unchanged(value: object) -> None:
    assert "\n" not in scalar(value)
    assert parse(scalar(value), "value") == value
    assert yaml.safe_load(scalar(value)) == value


@pytest.mark.parametrize(
    "text", ["yes", "010", "1:30", "2024-13-45", "2024-01-01", "1e5", ".5", "null", "=", "<<", "-", "~"]
)
def test_text_that_some_reader_takes_for_something_else_is_quoted(text: str) -> None:
    assert scalar(text) == f'"{text}"'


@settings(max_examples=50, deadline=None)
@given(
    source=st.text(st.characters(exclude_categories=["Cs"])),
    rate=st.floats(1e-300, 1e300),
    world_size=st.integers(1, 4),
)
def test_written_config_reads_back_to_the_config_before_resolving(
    tmp_path_factory: pytest.TempPathFactory, source: str, rate: float, world_size: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "written.yaml"
    config = Config(data=DataConfig(source=source), optimizer=OptimizerConfig(learning_rate=rate))
    loaded = load(None, [f"data.source={scalar(source)}", f"optimizer.learning_rate={rate!r}", "train.global_batch=12"])
    path.write_text(to_yaml(resolve(loaded, world_size, 257)))
    again = load(path).config
    assert again == loaded.config
    assert (again.data, again.optimizer) == (config.data, config.optimizer)


def test_each_line_names_the_origin() -> None:
    text = to_yaml(resolve(load(None, ["train.steps=7"], preset="tiny"), 2, 257))
    lines = [re.sub(" +", " ", line) for line in text.splitlines()]
    assert " steps: 7 # override" in lines
    assert " d_model: 192 # preset tiny" in lines
    assert " # dp: 2 # derived" in lines
    assert " schedule: cosine # default" in lines
    assert yaml.safe_load(text)["train"]["steps"] == 7


def test_a_long_path_with_a_line_break_stays_in_its_comment(tmp_path: Path) -> None:
    folder = tmp_path / "a\nb"
    folder.mkdir()
    (folder / "run.yaml").write_text("train: {steps: 9}")
    text = to_yaml(load(folder / "run.yaml"))
    assert yaml.safe_load(text)["train"]["steps"] == 9


def test_json_holds_every_value_and_origin() -> None:
    tree = to_json(load(None, ["train.steps=7"]))
    assert tree["config"]["train"]["steps"] == 7
    assert tree["origins"]["train.steps"] == {"value": 7, "source": "override"}
    assert len(tree["origins"]) == sum(len(section) for section in tree["config"].values())


def test_text_that_is_not_unicode_is_refused() -> None:
    with pytest.raises(UserError):
        load(None, ["data.source='\udcff'"])


@given(
    st.dictionaries(st.text("ab_1: {", min_size=1), st.integers(0, 9) | st.text("x:, }#", max_size=5) | st.booleans())
)
def test_keys_with_values_read_back_unchanged(value: dict[str, object]) -> None:
    assert plain(parse(scalar(value), "value")) == value
    assert yaml.safe_load(scalar(value)) == value
