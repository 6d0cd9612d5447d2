"""Each technique as a careful person writes it with its engine alone: the peers of `strategy_speed`.

All take our model, so that only the engine and what is around it differ. Loss is the mean over tokens, gradients are
clipped at 1.0 and AdamW is fused, as in ours; there is no clock, no scaler, no accumulation and no padding.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from worldsize.models.decoder import Decoder
from worldsize.models.linear import linear

Step = Callable[[Tensor, Tensor], None]


def adamw(model: nn.Module) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), fused=True)


def mean_loss(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def usual_step(model: nn.Module) -> Step:
    """Return the loop's body that DDP and FSDP share."""
    optimizer = adamw(model)

    def step(tokens: Tensor, targets: Tensor) -> None:
        mean_loss(model(tokens), targets).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def ddp(model: Decoder) -> Step:
    return usual_step(nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True))


def fsdp(model: Decoder) -> Step:
    from torch.distributed.fsdp import fully_shard

    for block in model.blocks:
        fully_shard(block)
    fully_shard(model)
    return usual_step(model)


def deepspeed(model: Decoder) -> Step:
    import deepspeed

    config = {
        "train_micro_batch_size_per_gpu": 1,  # only its own bookkeeping reads it
        "zero_optimization": {"stage": 1},
        "gradient_clipping": 1.0,
        "zero_allow_untested_optimizer": True,
    }
    engine, *_ = deepspeed.initialize(model=model, optimizer=adamw(model), config=config)

    def step(tokens: Tensor, targets: Tensor) -> None:
        engine.backward(mean_loss(engine(tokens), targets))
        engine.step()

    return step


class Half(nn.Module):
    """The first or the second half of the blocks, with the embedding or the head."""

    def __init__(self, model: Decoder, is_first: bool) -> None:
        super().__init__()
        middle = len(model.blocks) // 2
        self.is_first = is_first
        self.blocks = model.blocks[:middle] if is_first else model.blocks[middle:]
        self.token_embedding = model.token_embedding if is_first else None
        self.position_embedding = model.position_embedding if is_first else None
        self.final_norm, self.head = (None, None) if is_first else (model.final_norm, model.head)

    def forward(self, x: Tensor) -> Tensor:
        if self.token_embedding is not None and self.position_embedding is not None:
            x = self.token_embedding(x) + self.position_embedding.weight[: x.shape[1]]
        for block in self.blocks:
            x = block(x, None)
        return x if self.final_norm is None or self.head is None else linear(self.final_norm(x), self.head.weight)


def pipeline(model: Decoder, num_micro: int) -> Step:
    from torch.distributed.pipelining import PipelineStage, Schedule1F1B

    rank = dist.get_rank()
    half = Half(model, is_first=rank == 0)
    stage = PipelineStage(half, rank, 2, torch.device("cpu"))
    schedule = Schedule1F1B(stage, num_micro, loss_fn=mean_loss)
    optimizer = adamw(half)

    def step(tokens: Tensor, targets: Tensor) -> None:
        if rank == 0:
            schedule.step(tokens)
        else:
            schedule.step(target=targets)
        norm = nn.utils.get_total_norm([p.grad for p in half.parameters() if p.grad is not None])
        squared = norm.square()
        dist.all_reduce(squared)
        nn.utils.clip_grads_with_norm_(half.parameters(), 1.0, squared.sqrt())
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step
