"""What each strategy refuses, in the words that the user reads, and the nearest thing that it takes."""

from __future__ import annotations

import pytest

from tests.conformance.steps import config_of
from worldsize.config import rules
from worldsize.config.cautions import cautions
from worldsize.errors import UserError
from worldsize.parallel.layout import Layout, batches_for
from worldsize.parallel.registry import strategies

REFUSED = [
    ("single", Layout(dp=2), {}, ["strategy 'single' runs on one device, not 2; use parallel.strategy=ddp"]),
    ("allreduce", Layout(), {}, [
        "strategy 'allreduce' needs at least 2 devices; use parallel.strategy=single or --nproc 2"]),
    ("allreduce", Layout(dp=2, fsdp=2), {}, [
        "strategy 'allreduce' spreads by dp alone, but parallel.fsdp=2; use parallel.strategy=fsdp, or leave "
        "parallel.fsdp unset"]),
    ("ddp", Layout(dp=2, tp=2), {}, ["strategy 'ddp' spreads by dp alone, but parallel.tp=2; use parallel.tp=1"]),
    ("fsdp", Layout(), {}, ["strategy 'fsdp' needs at least 2 devices; use parallel.strategy=single or --nproc 2"]),
    ("fsdp", Layout(dp=4), {}, [
        "strategy 'fsdp' shards over parallel.fsdp=1 rank; leave parallel.dp and parallel.fsdp unset to shard over all "
        "4, or use parallel.strategy=ddp for replicas alone"]),
    ("fsdp", Layout(fsdp=2, pp=2), {}, [
        "strategy 'fsdp' spreads by fsdp and dp, but parallel.pp=2; use parallel.pp=1"]),
    ("fsdp", Layout(fsdp=2), {"train": {"compile": True}}, [
        "strategy 'fsdp' runs uncompiled; use train.compile=false, or parallel.strategy=ddp"]),
    ("tensor", Layout(), {}, ["strategy 'tensor' needs at least 2 devices; use parallel.strategy=single or --nproc 2"]),
    ("tensor", Layout(tp=2, pp=2), {}, [
        "strategy 'tensor' spreads by tp, dp and fsdp, but parallel.pp=2; use parallel.strategy=pipeline, which takes "
        "parallel.tp too"]),
    ("tensor", Layout(dp=2), {}, [
        "strategy 'tensor' spreads over parallel.tp=1 rank; set parallel.tp=2 or more, or use parallel.strategy=ddp"]),
    ("tensor", Layout(fsdp=2), {"train": {"compile": True}}, [
        "strategy 'tensor' spreads over parallel.tp=1 rank; set parallel.tp=2 or more, or use parallel.strategy=fsdp",
        "strategy 'tensor' runs uncompiled; use train.compile=false, or parallel.strategy=ddp"]),
    ("tensor", Layout(dp=2, fsdp=2, tp=2), {}, [
        "strategy 'tensor' takes one data axis beside tp, but parallel.dp=2 and parallel.fsdp=2; use parallel.dp=1 or "
        "parallel.fsdp=1"]),
    ("tensor", Layout(tp=3), {}, [
        "parallel.tp=3 does not divide model.num_heads=4, model.num_kv_heads=4, model.d_ff=128, "
        "model.context_length=16; use parallel.tp=2 or 4, or change the model"]),
    ("tensor", Layout(tp=2), {"model": {"vocab_size": 65}}, []),
    ("tensor", Layout(tp=2, fsdp=2), {"model": {"vocab_size": 65}}, [
        "parallel.tp=2 does not divide model.vocab_size=65; no other degree divides this model, so use "
        "parallel.strategy=fsdp, or change the model"]),
    ("tensor", Layout(tp=4), {"model": {"num_kv_heads": 2}}, [
        "parallel.tp=4 does not divide model.num_kv_heads=2; use parallel.tp=2, or change the model"]),
    ("tensor", Layout(tp=2), {"model": {"num_kv_heads": 1}}, [
        "parallel.tp=2 does not divide model.num_kv_heads=1; no other degree divides this model, so use "
        "parallel.strategy=fsdp, or change the model"]),
    ("fsdp", Layout(fsdp=2), {"parallel": {"zero_stage": 1}}, [
        "strategy 'fsdp' shards gradients at least, and parallel.zero_stage=1 does not; use parallel.zero_stage=2, or "
        "parallel.strategy=deepspeed"]),
    ("deepspeed", Layout(), {}, [
        "strategy 'deepspeed' needs at least 2 devices; use parallel.strategy=single or --nproc 2"]),
    ("deepspeed", Layout(dp=2), {"train": {"compile": True}}, [
        "strategy 'deepspeed' runs uncompiled; use train.compile=false, or parallel.strategy=ddp"]),
    ("deepspeed", Layout(dp=2), {"train": {"precision": "fp64"}}, [
        "strategy 'deepspeed' keeps its weights in fp32, and train.precision=fp64 was asked for; use "
        "train.precision=fp32, or parallel.strategy=ddp"]),
    ("deepspeed", Layout(dp=2), {"train": {"precision": "bf16"}, "parallel": {"zero_stage": 0}}, [
        "strategy 'deepspeed' at stage 0 clips bf16's gradients in bf16; use parallel.zero_stage=1, or "
        "parallel.strategy=ddp"]),
    ("local_sgd", Layout(dp=2), {"parallel": {"local_steps": 4}}, [
        "train.steps=10 would end between two averages of parallel.local_steps=4; use train.steps=8 or 12"]),
    ("local_sgd", Layout(dp=2), {"parallel": {"local_steps": 10}}, [
        "train.steps=10 less measure.warmup_steps=5 leaves no whole period of parallel.local_steps=10 to time; use "
        "train.steps=20"]),
    ("ddp", Layout(dp=2), {"train": {"precision": "fp16"}, "parallel": {"gradient_compression": "powersgd"}}, [
        "powersgd keeps what it left out for the next step, where fp16's overflowing gradients would stay for ever; "
        "use train.precision=bf16, or parallel.gradient_compression=fp16"]),
    ("ddp", Layout(dp=2), {"train": {"precision": "fp16"}, "parallel": {"gradient_compression": "int4"}}, [
        "int4 keeps what it left out for the next step, where fp16's overflowing gradients would stay for ever; "
        "use train.precision=bf16, or parallel.gradient_compression=fp16"]),
    ("pipeline", Layout(), {}, [
        "strategy 'pipeline' needs at least 2 devices; use parallel.strategy=single or --nproc 2"]),
    ("pipeline", Layout(dp=2), {}, [
        "strategy 'pipeline' passes parallel.pp=1 stage; leave parallel.pp and parallel.dp unset for a stage on each "
        "of 2 devices, or use parallel.strategy=ddp for replicas alone"]),
    ("model_parallel", Layout(fsdp=2, pp=2), {}, [
        "strategy 'model_parallel' spreads by pp, dp and tp, but parallel.fsdp=2; use parallel.fsdp=1"]),
    ("pipeline", Layout(pp=4), {}, [
        "4 ranks × 1 stages = 4 stages, but the model has 2 blocks, and a stage needs one at least; use parallel.pp=2, "
        "or model.num_layers=4"]),
    ("pipeline", Layout(pp=2), {"parallel": {"strategy": "pipeline", "pipeline_schedule": "interleaved"}}, [
        "2 ranks × 2 stages = 4 stages, but the model has 2 blocks, and a stage needs one at least; use a schedule "
        "with 1 stage a rank, or model.num_layers=4"]),
    ("pipeline", Layout(pp=2), {"parallel": {"stages_per_rank": 2}, "model": {"num_layers": 4}}, [
        "1f1b has 1 stage a rank, not parallel.stages_per_rank=2; leave it unset, or use "
        "parallel.pipeline_schedule=interleaved"]),
    ("pipeline", Layout(pp=2), {"parallel": {"stage_layers": [1, 2]}, "model": {"num_layers": 5}}, [
        "parallel.stage_layers=[1, 2] must name 2 stages of 1 block or more that sum to model.num_layers=5, such as "
        "[3, 2]; or leave it unset"]),
    ("pipeline", Layout(pp=2), {"train": {"micro_batch": 8}}, [
        "parallel.pipeline_schedule=1f1b on 2 ranks wants micro batches at least as many as stages, 2, and the "
        "per-device batch of 8 makes 1 of train.micro_batch=8; use train.micro_batch=4, or "
        "parallel.pipeline_schedule=gpipe"]),
    ("pipeline", Layout(pp=2), {"parallel": {"strategy": "pipeline", "pipeline_schedule": "zero_bubble"},
                                "train": {"global_batch": 10, "micro_batch": 2}}, [
        "parallel.pipeline_schedule=zero_bubble on 2 ranks wants micro batches a multiple of its rounds, 2 of 2 or a "
        "few more, and the per-device batch of 10 makes 5 of train.micro_batch=2; use train.micro_batch=1, or "
        "parallel.pipeline_schedule=gpipe"]),
    ("pipeline", Layout(pp=2), {"train": {"compile": True}}, [
        "strategy 'pipeline' runs uncompiled; use train.compile=false, or parallel.strategy=ddp"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "layout", "settings", "reasons"), REFUSED)
def test_refused_with_the_reason_and_what_to_type(
    name: str, layout: Layout, settings: dict[str, dict[str, object]], reasons: list[str]
) -> None:
    assert strategies()[name].legal(config_of(**settings), layout) == reasons


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("single", Layout()),
        ("allreduce", Layout(dp=2)),
        ("ddp", Layout(dp=8)),
        ("fsdp", Layout(fsdp=2)),
        ("deepspeed", Layout(dp=4)),
        ("local_sgd", Layout(dp=4)),
        ("fsdp", Layout(dp=2, fsdp=4)),
        ("pipeline", Layout(pp=2)),
        ("pipeline", Layout(dp=2, pp=2, tp=2)),
        ("model_parallel", Layout(pp=2)),
        ("tensor", Layout(tp=4)),
        ("tensor", Layout(dp=3, tp=2)),
        ("tensor", Layout(fsdp=4, tp=2)),
    ],
)
def test_taken(name: str, layout: Layout) -> None:
    assert strategies()[name].legal(config_of(), layout) == []


def test_compression_is_refused_where_nothing_would_be_compressed() -> None:
    config = config_of(parallel={"strategy": "fsdp", "gradient_compression": "bf16"})
    with pytest.raises(UserError, match=r"parallel\.gradient_compression=bf16 .* parallel\.strategy=ddp, or .*=none"):
        rules.check(config, 2)
    for strategy in ("ddp", "auto"):
        rules.check(config_of(parallel={"strategy": strategy, "gradient_compression": "bf16"}), 2)
    rules.check(config_of(parallel={"strategy": "single", "gradient_compression": "bf16"}), 1)


def test_a_zero_stage_that_nothing_reads_is_a_caution() -> None:
    (caution,) = cautions(config_of(parallel={"strategy": "ddp", "zero_stage": 2}))
    assert caution.startswith("parallel.zero_stage=2 has no effect under parallel.strategy=ddp")
    assert cautions(config_of(parallel={"strategy": "fsdp", "zero_stage": 2})) == []


def test_without_deepspeed_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (reason,) = strategies()["deepspeed"].legal(config_of(), Layout(dp=2))
    assert 'pip install "worldsize[deepspeed]"' in reason


def test_local_settings_that_nothing_reads_are_cautions() -> None:
    config = config_of(parallel={"strategy": "ddp", "local_steps": 4, "deepspeed_config": "ds.json"})
    steps, json_file = cautions(config)
    assert steps.startswith("parallel.local_steps=4 without effect under parallel.strategy=ddp")
    assert json_file.startswith("parallel.deepspeed_config is not read")
    assert cautions(config_of(parallel={"strategy": "local_sgd", "local_steps": 4})) == []


def test_pipeline_keys_that_nothing_reads_are_a_caution() -> None:
    keys = {"pipeline_schedule": "gpipe", "stage_balance": "equal"}
    (caution,) = cautions(config_of(parallel={"strategy": "ddp", **keys}))
    assert caution == (
        "parallel.pipeline_schedule=gpipe, parallel.stage_balance=equal has no effect under parallel.strategy=ddp; it "
        "is pipeline's."
    )
    assert cautions(config_of(parallel={"strategy": "pipeline", **keys})) == []


def test_a_pipelines_micro_batches_are_four_a_rank_where_unset() -> None:
    config = config_of(train={"global_batch": 48})
    assert [batches_for(config.train, layout).micro_batch for layout in (Layout(pp=2), Layout(pp=3), Layout(dp=2))] == [
        6, 4, 24,
    ]  # fmt: skip
    assert batches_for(config_of(train={"global_batch": 7}).train, Layout(pp=2)).micro_batch == 1
