"""From a whole model to one rank of a pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from worldsize.config.schema import Config
from worldsize.measure.pipeline_log import PipelineLog
from worldsize.models.cost import ModelDescription
from worldsize.parallel.context import RankContext
from worldsize.parallel.layout import batches_for
from worldsize.parallel.mesh import ends_of_pipelines, mesh_of
from worldsize.parallel.stages import Stages, stages_for
from worldsize.train.pipeline_engine import Engine, Shapes
from worldsize.train.precision import MATMUL_DTYPE
from worldsize.train.stage import Stage
from worldsize.train.stage_replica import Groups, StageReplica


@dataclass(frozen=True)
class PreparedPipeline:
    """What a strategy steps with."""

    stages: Stages
    modules: Mapping[int, Stage]
    """This rank's stages by their index."""
    replica: StageReplica
    engine: Engine
    log: PipelineLog
    schedule: str
    num_micro_batches: int


def prepare_pipeline(
    model: nn.Module, config: Config, context: RankContext, description: ModelDescription, schedule: str
) -> PreparedPipeline:
    """Cut the model in place and set up this rank's part. A collective: called on every rank."""
    tied = config.model.tied_head
    stages = stages_for(config, context.layout)
    pp_rank = context.layout.coordinates(context.rank)["pp"]
    groups = _groups(context, stages, tied=tied)
    replica = StageReplica(model, config, context.device, stages, description, pp_rank, groups)
    last = stages.num_stages - 1
    modules = {
        stage: Stage(
            model,
            stages.parameters_of(stage, description, tied=tied),
            [description.block_prefixes[index] for index in stages.blocks_of(stage)],
            replica.precision,
            is_first=stage == 0,
            is_last=stage == last,
        )
        for stage in stages.stages_of(pp_rank)
    }
    batches = batches_for(config.train, context.layout)
    shapes = _shapes(config, batches.micro_batch, replica.dtype, context.device)
    engine = Engine(modules, stages.num_stages, schedule, batches.accumulation, shapes, groups.pp)
    log = PipelineLog(context.device, stages, pp_rank, groups.pp)
    return PreparedPipeline(stages, modules, replica, engine, log, schedule, batches.accumulation)


def _groups(context: RankContext, stages: Stages, *, tied: bool) -> Groups:
    mesh = mesh_of(context)
    ends = ends_of_pipelines(context) if tied and stages.ends_apart and context.layout.pp > 2 else None
    pp = mesh["pp"].get_group()
    if tied and stages.ends_apart and context.layout.pp == 2:
        ends = pp
    return Groups(pp=pp, dp=mesh["dp"].get_group() if context.layout.dp > 1 else None, ends=ends)


def _shapes(config: Config, micro_batch: int, dtype: torch.dtype, device: torch.device) -> Shapes:
    model = config.model
    assert model.vocab_size is not None
    return Shapes(
        micro_batch=micro_batch,
        length=model.context_length,
        width=model.d_model,
        vocabulary=model.vocab_size,
        dtype=dtype,
        logits_dtype=MATMUL_DTYPE[config.train.precision],
        device=device,
    )
