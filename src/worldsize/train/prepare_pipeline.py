"""From a whole model to one rank of a pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from worldsize.config.schema import Config
from worldsize.measure.pipeline_log import PipelineLog
from worldsize.models.cost import ModelDescription, num_classes
from worldsize.parallel.context import RankContext
from worldsize.parallel.layout import batches_for
from worldsize.parallel.mesh import ends_of_pipelines, mesh_of
from worldsize.parallel.stages import Stages, stages_for
from worldsize.parallel.tensor_axis import TensorAxis
from worldsize.parallel.tensor_bytes import part_of
from worldsize.parallel.tensor_plan import apply
from worldsize.train.loss import loss_sum
from worldsize.train.measured_costs import measured_costs
from worldsize.train.pipeline_engine import Engine, Shapes
from worldsize.train.precision import AUTOCAST
from worldsize.train.stage import Stage, keep_only
from worldsize.train.stage_replica import Groups, StageReplica, TensorStageReplica


@dataclass(frozen=True)
class PreparedPipeline:
    """What a strategy steps with."""

    config: Config
    """With `parallel.stage_layers` set to the cut."""
    stages: Stages
    modules: Mapping[int, Stage]
    """This rank's stages by their index."""
    replica: StageReplica
    engine: Engine
    log: PipelineLog
    schedule: str
    num_micro_batches: int
    axis: TensorAxis | None
    """The ranks that share this rank's stages, where there are any."""


def prepare_pipeline(
    model: nn.Module, config: Config, context: RankContext, description: ModelDescription, schedule: str
) -> PreparedPipeline:
    """Cut the model in place and set up this rank's part. A collective: called on every rank."""
    config = with_cut(model, config, context)
    stages = stages_for(config, context.layout)
    pp_rank = context.layout.coordinates(context.rank)["pp"]
    mesh = mesh_of(context)
    keep_only(model, stages.names_of(pp_rank, description), description)
    axis = apply(model, description, mesh["tp"]) if context.layout.tp > 1 else None
    groups = _groups(context, mesh, stages, tied=description.tied_head)
    replica = _replica(model, config, context, stages, description, groups, axis, mesh)
    modules = {
        stage: Stage(
            model,
            stages.parameters_of(stage, description),
            [description.block_prefixes[index] for index in stages.blocks_of(stage)],
            replica.precision,
            is_first=stage == 0,
            is_last=stage == stages.num_stages - 1,
        )
        for stage in stages.stages_of(pp_rank)
    }
    batches = batches_for(config.train, context.layout)
    shapes = _shapes(config, context, description, batches.micro_batch, replica.dtype)
    group = replica.groups.pp
    loss = loss_sum if axis is None else axis.loss_for(description)
    smoothing, scale = config.train.label_smoothing, replica.precision.scaler.scale
    engine = Engine(modules, stages.num_stages, schedule, batches.accumulation, shapes, group, loss, smoothing, scale)
    log = PipelineLog(context.device, stages, pp_rank, group)
    return PreparedPipeline(config, stages, modules, replica, engine, log, schedule, batches.accumulation, axis)


def with_cut(model: nn.Module, config: Config, context: RankContext) -> Config:
    """Return the config with the blocks of each stage set, by rank 0's timing where they are to be measured."""
    measures = config.parallel.stage_balance == "measured" and config.parallel.stage_layers is None
    costs = context.gather(measured_costs(model, config, context))[0] if measures else None
    layers = stages_for(config, context.layout, costs).num_blocks
    parallel = config.parallel.model_copy(update={"stage_layers": list(layers)})
    return config.model_copy(update={"parallel": parallel})


def _replica(
    model: nn.Module,
    config: Config,
    context: RankContext,
    stages: Stages,
    description: ModelDescription,
    groups: Groups,
    axis: TensorAxis | None,
    mesh: DeviceMesh,
) -> StageReplica:
    kind, of_tensor = (StageReplica, {}) if axis is None else (TensorStageReplica, {"axis": axis, "mesh": mesh["tp"]})
    return kind(
        model,
        config,
        context.device,
        stages=stages,
        description=description,
        pp_rank=context.layout.coordinates(context.rank)["pp"],
        groups=groups,
        **of_tensor,
    )


def _groups(context: RankContext, mesh: DeviceMesh, stages: Stages, *, tied: bool) -> Groups:
    ends = ends_of_pipelines(context) if tied and stages.ends_apart and context.layout.pp > 2 else None
    pp = mesh["pp"].get_group()
    if tied and stages.ends_apart and context.layout.pp == 2:
        ends = pp
    return Groups(pp=pp, dp=mesh["dp"].get_group() if context.layout.dp > 1 else None, ends=ends)


def _shapes(
    config: Config, context: RankContext, description: ModelDescription, micro_batch: int, dtype: torch.dtype
) -> Shapes:
    """Along tp each rank passes on its part of the sequence, and the last stage ends in its part of the vocabulary, or
    in all classes."""
    model, tp = config.model, context.layout.tp
    assert model.vocab_size is not None
    rows = part_of(model.vocab_size, context.layout.coordinates(context.rank)["tp"], tp)
    logits = (model.context_length, rows.stop - rows.start)
    half = AUTOCAST.get(config.train.precision)
    return Shapes(
        micro_batch=micro_batch,
        length=model.context_length,
        own_length=model.context_length // tp,
        width=model.d_model,
        logits_of_sample=(num_classes(model),) if description.classifier else logits,
        dtype=dtype,
        logits_dtype=half or dtype,
        device=context.device,
    )
