"""`worldsize config`: what it prints reads back, its JSON twin, and the schema against an independent validator."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from worldsize.__main__ import main
from worldsize.cli.arguments import split_config
from worldsize.cli.config import json_schema
from worldsize.config.load import from_dict, load, presets
from worldsize.config.messages import all_keys
from worldsize.errors import UserError


def test_the_printed_config_is_a_file_to_start_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "--preset", "llama-tiny", "train.steps=77", "--nproc", "4"]) == 0
    out = capsys.readouterr().out
    (tmp_path / "run.yaml").write_text(out)
    assert load(tmp_path / "run.yaml").config == load(None, ["train.steps=77"], preset="llama-tiny").config
    assert out.startswith("# resolved for 4 devices; after each value, where it came from.\n")
    assert "  # dp: 4 " in out


def test_json_twin_and_print_agree(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["config", "--preset", "tiny", "optimizer.warmup_steps=60", "--nproc", "2"]
    assert main([*arguments, "--json"]) == 0
    captured = capsys.readouterr()
    tree = json.loads(captured.out)
    assert captured.err == ""
    assert tree["world_size"] == 2
    assert tree["config"]["parallel"]["dp"] == 2
    assert tree["origins"]["optimizer.warmup_steps"] == {"value": 60, "source": "override"}
    assert len(tree["cautions"]) == 1
    assert main([*arguments, "--print"]) == 0
    captured = capsys.readouterr()
    assert captured.err == f"note: {tree['cautions'][0]}\n"
    for section, values in yaml.safe_load(captured.out).items():
        assert values.items() <= tree["config"][section].items()


def test_a_file_and_overrides_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert split_config(None) == (None, [])
    assert split_config(["a.b=1", "c.d=2"]) == (None, ["a.b=1", "c.d=2"])
    assert split_config(["run.yaml", "a.b=1"]) == (Path("run.yaml"), ["a.b=1"])
    Path("lr=3.yaml").touch()
    assert split_config(["lr=3.yaml"]) == (Path("lr=3.yaml"), [])


def test_every_key_in_the_schema_has_a_description_and_a_default() -> None:
    definitions = json_schema()["$defs"]
    properties = [field for section in definitions.values() for field in section["properties"].values()]
    assert len(properties) == len(all_keys())
    assert all(field["description"] and "default" in field for field in properties)


values = (
    st.none()
    | st.booleans()
    | st.integers(-2, 200)
    | st.floats(-1, 2).filter(lambda x: x % 1)
    | st.sampled_from(["auto", "fp32", "bf16", "cosine", "rotary", "x"])
)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([*all_keys(), "model.wrong", "data.typo"]), values)
def test_editor_and_loader_accept_the_same(key: str, value: Any) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    section, name = key.split(".")
    tree = {section: {name: value}}
    valid_for_editor = jsonschema.Draft202012Validator(json_schema()).is_valid(tree)
    try:
        from_dict(tree)
    except UserError:
        assert not valid_for_editor
    else:
        assert valid_for_editor


def test_the_schema_itself_is_valid(capsys: pytest.CaptureFixture[str]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    assert main(["config", "--schema"]) == 0
    jsonschema.Draft202012Validator.check_schema(json.loads(capsys.readouterr().out))


def test_presets_are_listed_with_their_purpose_and_size(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("worldsize.models.cost")
    assert main(["config", "--presets", "--json"]) == 0
    listed = {row["name"]: row for row in json.loads(capsys.readouterr().out)["presets"]}
    assert {name: row["purpose"] for name, row in listed.items()} == presets()
    published = {"gpt2": 124439808, "gpt2-medium": 354823168, "gpt2-large": 774030080, "gpt2-xl": 1557611200}
    assert {name: listed[name]["num_parameters"] for name in published} == published
    assert main(["config", "--presets"]) == 0
    assert "gpt2           124,439,808 parameters  GPT-2 124M" in capsys.readouterr().out
