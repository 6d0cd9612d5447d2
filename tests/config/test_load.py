"""Layers and origins, presets, resolving."""

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from worldsize.config import rules
from worldsize.config.cautions import cautions
from worldsize.config.load import PRESETS, default_d_ff, from_dict, leaves, load, preset_path, presets, resolve
from worldsize.config.messages import all_keys
from worldsize.config.schema import Config, ModelConfig
from worldsize.errors import UserError

BOUNDED = ("parallel.zero_stage", "launch.warning_s", "lab.hosts")
COUNTED = [key for key, value in leaves(Config()) if type(value) is int and key not in BOUNDED]
"""Keys that take any whole number from 1 on."""


def test_no_layer_gives_the_defaults() -> None:
    loaded = load(None)
    assert loaded.config == Config()
    assert set(loaded.origins) == set(all_keys())
    assert {origin.source for origin in loaded.origins.values()} == {"default"}


numbers = st.dictionaries(st.sampled_from(COUNTED), st.integers(1, 10**6))


@settings(max_examples=60, deadline=None)
@given(numbers, numbers)
def test_the_later_layer_wins_and_the_origin_names_it(
    tmp_path_factory: pytest.TempPathFactory, in_file: dict[str, int], overridden: dict[str, int]
) -> None:
    path = tmp_path_factory.getbasetemp() / "layers.yaml"
    lines = [(f"{key.split('.')[0]}:", key, value) for key, value in sorted(in_file.items())]
    text: list[str] = []
    line_of: dict[str, int] = {}
    for section, key, value in lines:
        if section not in text:
            text.append(section)
        text.append(f"  {key.split('.')[1]}: {value}")
        line_of[key] = len(text)
    path.write_text("\n".join(text))
    loaded = load(path, [f"{key}={value}" for key, value in overridden.items()], preset="tiny")
    values = dict(leaves(loaded.config))
    in_preset = {
        f"{section}.{key}": value
        for section, keys in yaml.safe_load((PRESETS / "tiny.yaml").read_text()).items()
        for key, value in keys.items()
    }
    for key in COUNTED:
        source = loaded.origins[key].source
        assert loaded.origins[key].value == values[key]
        if key in overridden:
            assert (values[key], source) == (overridden[key], "override")
        elif key in in_file:
            assert (values[key], source) == (in_file[key], f"file {path}:{line_of[key]}")
        elif key in in_preset:
            assert (values[key], source) == (in_preset[key], "preset tiny")
        else:
            assert (values[key], source) == (dict(leaves(Config()))[key], "default")


def test_of_two_overrides_of_one_key_the_last_wins() -> None:
    assert load(None, ["train.steps=20", "train.steps=30"]).config.train.steps == 30


def test_empty_file_and_empty_section_change_nothing(tmp_path: Path) -> None:
    for text in ("", "# nothing\n", "model:\ntrain: {}\n"):
        (tmp_path / "run.yaml").write_text(text)
        assert load(tmp_path / "run.yaml").config == Config()


def test_null_unsets(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("train: {grad_clip_norm: null}\n")
    assert load(tmp_path / "run.yaml").config.train.grad_clip_norm is None


def test_a_preset_given_as_a_file_is_told_apart() -> None:
    with pytest.raises(UserError, match="type --preset tiny"):
        load(Path("tiny"))


@pytest.mark.parametrize("name", sorted(presets()))
@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_every_preset_is_legal_on_1_to_8_devices(name: str, world_size: int) -> None:
    loaded = load(None, preset=name)
    rules.check(loaded.config, world_size)
    resolve(loaded, world_size, 256)
    assert cautions(loaded.config) == []


def test_every_preset_says_in_its_first_line_what_it_is_for() -> None:
    for name in presets():
        first = preset_path(name).read_text().splitlines()[0]
        assert first.startswith("# ")
        assert 20 < len(first) < 100


def test_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown preset 'gpt-2'\. Did you mean 'gpt2'\?"):
        load(None, preset="gpt-2")


def test_resolve_fills_in_what_follows() -> None:
    loaded = load(None, ["train.global_batch=24", "model.num_heads=4"])
    resolved = resolve(loaded, 3, 257)
    expected = {
        "model.num_kv_heads": 4,
        "model.d_ff": 512,
        "model.kind": "decoder",
        "model.vocab_size": 320,
        "train.micro_batch": 8,
        "parallel.dp": 3,
        "parallel.fsdp": 1,
        "parallel.tp": 1,
        "parallel.pp": 1,
        "parallel.strategy": "ddp",
    }
    values = dict(leaves(resolved.config))
    for key in all_keys():
        if key in expected:
            assert values[key] == expected[key]
            assert resolved.origins[key].source == "derived"
        else:
            assert resolved.origins[key] == loaded.origins[key]
    assert all(resolved.origins[key].value == value for key, value in values.items())


def test_resolve_leaves_what_was_given() -> None:
    given = ["model.d_ff=100", "model.vocab_size=300", "train.micro_batch=2", "parallel.strategy=ddp"]
    resolved = resolve(load(None, given), 1, 257)
    assert resolved.config.model.vocab_size == 300
    assert resolved.config.parallel.strategy == "ddp"
    assert {resolved.origins[text.split("=")[0]].source for text in given} == {"override"}


def test_resolve_without_a_tokenizer_leaves_the_vocabulary_open() -> None:
    assert resolve(load(None), 1, None).config.model.vocab_size is None


def test_a_vocabulary_smaller_than_the_tokenizers_is_refused() -> None:
    with pytest.raises(UserError, match=r"model\.vocab_size=100 is smaller than the tokenizer's 257 tokens"):
        resolve(load(None, ["model.vocab_size=100"]), 1, 257)


@given(st.integers(1, 10**6))
def test_width_of_swiglu(d_model: int) -> None:
    width = default_d_ff(ModelConfig(d_model=d_model, activation="swiglu"))
    assert width == math.ceil(8 * d_model / 3 / 64) * 64  # exact in floats at this size
    assert default_d_ff(ModelConfig(d_model=d_model)) == 4 * d_model


def test_width_of_swiglu_at_llama_7b() -> None:
    assert (
        default_d_ff(ModelConfig(d_model=4096, activation="swiglu")) == 10944
    )  # 10922.67 up to 64; Llama itself rounds up to 256: 11008


def test_saved_tree_comes_back() -> None:
    config = resolve(load(None, preset="llama-tiny"), 2, 256).config
    assert from_dict(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"model": {"d_modl": 1}}, "run.json: unknown key 'model.d_modl'. Did you mean model.d_model?"),
        ({"modl": {}}, "run.json: unknown key 'modl'. Did you mean model?"),
        ({"model": 3}, "run.json: model is a section with keys, such as model.num_layers; it cannot be 3."),
        ({"train": {"steps": True}}, "run.json: train.steps is true, but must be a whole number, at least 1."),
    ],
)
def test_a_saved_tree_that_is_wrong(tree: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as raised:
        from_dict(tree, "run.json")
    assert str(raised.value) == message
