"""What is allowed, in words; suggestions; and the exact text of typical mistakes."""

from pathlib import Path

import pytest

from worldsize.config.load import load
from worldsize.config.messages import OTHER_NAMES, all_keys, allowed, suggestion
from worldsize.errors import UserError

MISTAKES = {
    "misspelt key": (
        "model:\n  d_modle: 256\n",
        [],
        "run.yaml line 2: unknown key 'model.d_modle'. Did you mean model.d_model?",
    ),
    "key of another section": (
        "model:\n  global_batch: 8\n",
        [],
        "run.yaml line 2: unknown key 'model.global_batch'. Did you mean train.global_batch?",
    ),
    "another program's name": (
        "train:\n  batch_size: 8\n",
        [],
        "run.yaml line 2: unknown key 'train.batch_size'. Did you mean train.global_batch?",
    ),
    "key outside its section": (
        "steps: 8\n",
        [],
        "run.yaml line 1: unknown key 'steps'. Did you mean train.steps?",
    ),
    "misspelt section": (
        "modell:\n  d_model: 8\n",
        [],
        "run.yaml line 1: unknown key 'modell'. Did you mean model?",
    ),
    "nothing near": (
        "track:\n  zzzzzz: 8\n",
        [],
        "run.yaml line 2: unknown key 'track.zzzzzz'. Keys of track: tensorboard, wandb_project.",
    ),
    "section given a value": (
        "model: gpt2\n",
        [],
        "run.yaml line 1: model is a section with keys, such as model.num_layers; it cannot be 'gpt2'.",
    ),
    "not a mapping": (
        "- model\n- train\n",
        [],
        "run.yaml: a config is made of sections with keys, such as\n  model:\n    d_model: 256\n"
        "but this is ['model', 'train'].",
    ),
    "text for a number": (
        "train:\n  steps: many\n",
        [],
        "run.yaml line 2: train.steps is 'many', but must be a whole number, at least 1.",
    ),
    "fraction for a whole number": (
        "",
        ["train.steps=1e3"],
        "override 'train.steps=1e3': train.steps is 1000.0, but must be a whole number, at least 1. Write 1000.",
    ),
    "out of bounds": (
        "",
        ["model.dropout=1"],
        "override 'model.dropout=1': model.dropout is 1, but must be a number, at least 0 and below 1.",
    ),
    "unknown choice": (
        "",
        ["train.precision=bf-16"],
        "override 'train.precision=bf-16': train.precision is 'bf-16', "
        "but must be 'fp32' or 'tf32' or 'bf16' or 'fp16' or 'fp64'. Did you mean 'bf16'?",
    ),
    "yes for true": (
        "train:\n  compile: yes\n",
        [],
        "run.yaml line 2: train.compile is 'yes', but must be true or false. Write true.",
    ),
    "number for text": (
        "data:\n  source: 2024\n",
        [],
        "run.yaml line 2: data.source is 2024, but must be text. Put it in quotes to make it text.",
    ),
    "infinite": (
        "optimizer:\n  learning_rate: .inf\n",
        [],
        "run.yaml line 2: optimizer.learning_rate is inf, but must be a finite number, above 0.",
    ),
    "override without a value": (
        "",
        ["train.steps"],
        "override 'train.steps': an override is a dotted key, '=' and a value, such as model.d_model=256. "
        "A config file comes first, before every override.",
    ),
    "override without a section": (
        "",
        ["d_model=64"],
        "override 'd_model=64': unknown key 'd_model'. Did you mean model.d_model?",
    ),
    "override of a section": (
        "",
        ["model=gpt2"],
        "override 'model=gpt2': model is a section with keys, such as model.num_layers; it cannot be 'gpt2'.",
    ),
    "several at once": (
        "model:\n  d_model: 0\n  nhead: 2\n",
        ["train.steps=-1"],
        "3 problems in the configuration:\n"
        "  - run.yaml line 3: unknown key 'model.nhead'. Did you mean model.num_heads?\n"
        "  - run.yaml line 2: model.d_model is 0, but must be a whole number, at least 1.\n"
        "  - override 'train.steps=-1': train.steps is -1, but must be a whole number, at least 1.",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_text_of_typical_mistakes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, overrides, message = MISTAKES[name]
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(text)
    with pytest.raises(UserError) as raised:
        load(Path("run.yaml"), overrides)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("model.d_ff", "a whole number, at least 1, or null"),
        ("model.norm_eps", "a number, above 0"),
        ("optimizer.min_lr_fraction", "a number, at least 0 and at most 1"),
        ("train.seed", "a whole number, at least 0 and below 9223372036854775808"),
        ("train.compile", "true or false"),
        ("data.source", "text"),
        ("track.wandb_project", "text, or null"),
        ("device.kind", "'auto' or 'cpu' or 'cuda'"),
    ],
)
def test_allowed_in_words(key: str, words: str) -> None:
    assert allowed(key) == words


def test_every_key_can_be_described() -> None:
    assert all(allowed(key) for key in all_keys())


def test_every_key_is_suggested_for_itself_with_a_letter_doubled_or_dropped() -> None:
    for key in all_keys():
        for wrong in (key + key[-1], key[:-1]):
            section = key.split(".")[0]
            assert suggestion(wrong) is not None
            assert str(suggestion(wrong)).startswith(f"{section}.")


def test_names_of_other_programs_lead_to_keys_that_exist_and_shadow_none() -> None:
    assert set(OTHER_NAMES.values()) <= set(all_keys())
    assert not set(OTHER_NAMES) & {key.split(".")[1] for key in all_keys()}
