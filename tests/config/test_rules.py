"""Every cross-field rule: a config that breaks it, and its neighbour that does not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldsize.config import rules
from worldsize.config.cautions import cautions
from worldsize.config.load import load
from worldsize.config.schema import Config, ModelConfig
from worldsize.errors import UserError

CASES = [
    (
        ["model.d_model=100", "model.num_heads=3"],
        ["model.d_model=99", "model.num_heads=3"],
        1,
        "model.d_model=100 does not divide into model.num_heads=3 heads. Nearest widths that do: 99 or 102.",
    ),
    (
        ["model.num_kv_heads=3"],
        ["model.num_kv_heads=2"],
        1,
        "model.num_heads=4 does not divide into groups for model.num_kv_heads=3. "
        "Choose a num_kv_heads that divides 4, or leave it unset for one a head.",
    ),
    (
        ["model.positions=rotary", "model.d_model=100"],
        ["model.positions=rotary", "model.d_model=104"],
        1,
        "model.positions=rotary turns pairs of numbers, but a head is 25 wide (model.d_model=100 / model.num_heads=4). "
        "Make it even: model.d_model=104, or positions=learned.",
    ),
    (
        ["train.steps=5"],
        ["train.steps=6"],
        1,
        "measure.warmup_steps=5 leaves none of train.steps=5 to time. "
        "Use train.steps=15 or more, or measure.warmup_steps=2.",
    ),
    (
        ["train.precision=tf32", "device.kind=cpu"],
        ["train.precision=tf32", "device.kind=cuda"],
        1,
        "train.precision=tf32 is a mode of NVIDIA's matrix units; on a CPU use fp32 or bf16.",
    ),
    (
        ["data.validation_fraction=0"],
        ["data.validation_fraction=0", "train.eval_samples=0"],
        1,
        "train.eval_samples=64 needs held-out text, but data.validation_fraction=0. "
        "Use train.eval_samples=0, or data.validation_fraction=0.05.",
    ),
    (
        ["parallel.strategy=dpd"],
        ["parallel.strategy=ddp"],
        2,
        "unknown parallel.strategy 'dpd'. Did you mean 'ddp'?",
    ),
    (
        ["train.global_batch=32", "train.micro_batch=5"],
        ["train.global_batch=30", "train.micro_batch=5"],
        2,
        "train.global_batch=32 does not divide into 2 data ranks × micro batches of 5. Nearest that do: 30 or 40",
    ),
    (
        ["parallel.tp=3"],
        ["parallel.tp=1"],
        2,
        "layout dp=1 × fsdp=1 × tp=3 × pp=1 needs 3 devices, but the world size is 2.",
    ),
]


@pytest.mark.parametrize(("broken", "mended", "world_size", "message"), CASES)
def test_each_rule_has_its_own_message(broken: list[str], mended: list[str], world_size: int, message: str) -> None:
    with pytest.raises(UserError) as raised:
        rules.check(load(None, broken).config, world_size)
    assert str(raised.value).startswith(message)
    rules.check(load(None, mended).config, world_size)


def test_single_on_two_devices_is_refused_by_the_strategy() -> None:
    with pytest.raises(UserError, match="single"):
        rules.check(load(None, ["parallel.strategy=single"]).config, 2)


def test_all_problems_are_listed_at_once() -> None:
    config = load(None, ["model.num_heads=3", "train.steps=3", "train.global_batch=31"]).config
    with pytest.raises(UserError) as raised:
        rules.check(config, 2)
    lines = str(raised.value).splitlines()
    assert lines[0] == "3 problems in the configuration:"
    keys = [line.split("=")[0] for line in lines[1:]]
    assert keys == ["  - model.d_model", "  - measure.warmup_steps", "  - train.global_batch"]


@given(st.integers(1, 4096), st.integers(1, 64))
def test_the_widths_that_are_proposed_divide(d_model: int, num_heads: int) -> None:
    message = rules.heads_divide_width(Config(model=ModelConfig(d_model=d_model, num_heads=num_heads)))
    assert (message is None) == (d_model % num_heads == 0)
    if message:
        proposed = [int(word) for word in message.rstrip(".").split(": ")[1].split(" or ")]
        assert proposed
        assert all(width % num_heads == 0 and width > 0 for width in proposed)


@pytest.mark.parametrize(
    ("overrides", "caution"),
    [
        (["optimizer.warmup_steps=50"], "optimizer.warmup_steps=50 is not less than train.steps=50"),
        (["train.eval_every_steps=5", "train.eval_samples=0"], "train.eval_every_steps=5 has no effect"),
        (["parallel.prefetch_blocks=2"], "parallel.prefetch_blocks=2 has no effect under parallel.strategy=auto"),
    ],
)
def test_cautions_are_said_and_stop_nothing(overrides: list[str], caution: str) -> None:
    config = load(None, overrides).config
    rules.check(config, 1)
    assert [text[: len(caution)] for text in cautions(config)] == [caution]
    assert cautions(Config()) == []


def test_only_tf32_needs_a_gpu() -> None:
    fits = {
        (precision, kind): rules.precision_fits(precision, kind)
        for precision in ("fp32", "tf32", "bf16", "fp16")
        for kind in ("cpu", "cuda")
    }
    assert [case for case, problem in fits.items() if problem] == [("tf32", "cpu")]


@pytest.mark.parametrize(
    ("override", "world_size", "says"),
    [
        ("lab.hosts=65", 2, "more than the 64 hosts"),
        ("lab.link=1gb", 1, "lab.link: '1gb' is no link rate"),
        ("lab.hosts=2", 3, "3 ranks do not divide over lab.hosts=2. Nearest world sizes that do: 2 or 4."),
    ],
)
def test_what_cannot_be_emulated_is_refused(override: str, world_size: int, says: str) -> None:
    with pytest.raises(UserError) as refused:
        rules.check(load(None, [override, "train.global_batch=12", "device.kind=cpu"]).config, world_size)
    assert says in str(refused.value)
