"""Where the time of one training step goes, by class of operator: `python -m benchmarks.shares SPEC` prints JSON.

From a profiled run of its own, never from the timed ones. Single thread, so self times add up to the step.
"""

from __future__ import annotations

import json
import os
import sys

from benchmarks.contender import Spec

CLASSES = (
    ("loss", ("log_softmax", "nll_loss")),
    ("attention", ("scaled_dot_product", "aten::baddbmm", "aten::bmm", "softmax")),
    ("linear", ("aten::mm", "aten::addmm", "worldsize::linear", "mkldnn::_linear")),
    ("activation", ("aten::gelu", "aten::silu")),
    ("norm", ("layer_norm", "rms_norm")),
    ("embedding", ("embedding", "index_select")),
    ("optimizer", ("adamw", "Optimizer.", "linalg_vector_norm", "foreach")),
    ("copies and casts", ("aten::copy_", "aten::cat", "aten::clone", "aten::_to_copy")),
    ("additions and sums", ("aten::add", "aten::sum", "aten::mul")),
    ("allocation and fills", ("aten::empty", "aten::fill_", "aten::zero")),
)
"""Class and what its operators' names contain; the first that fits counts."""


def class_of(operator: str) -> str:
    return next((name for name, words in CLASSES if any(word in operator for word in words)), "other")


def main() -> None:
    spec = Spec(**json.loads(sys.argv[1]))
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["KINETO_LOG_LEVEL"] = "5"
    os.sched_setaffinity(0, {spec.core})
    from worldsize.train.allocator import tune_allocator

    tune_allocator()
    import torch

    from worldsize.config.load import load, resolve
    from worldsize.data.batch import Batch
    from worldsize.models.build import build
    from worldsize.train.replica import Replica

    torch.set_num_threads(1)
    config = resolve(load(None, spec.overrides()), 1, None).config
    replica = Replica(build(config.model, 0, "cpu"), config, torch.device("cpu"))
    tokens = torch.randint(spec.vocab_size, (spec.num_samples, spec.length))
    batch = Batch(tokens, tokens, tokens.numel(), tokens.numel())

    def step() -> None:
        replica.forward_backward([batch])
        replica.update(1e-3)

    for _ in range(3):
        step()
    with torch.profiler.profile() as profiler:
        for _ in range(3):
            step()
    totals: dict[str, float] = {}
    for event in profiler.key_averages():
        name = class_of(event.key)
        totals[name] = totals.get(name, 0.0) + event.self_cpu_time_total
    whole = sum(totals.values())
    print(json.dumps({name: value / whole for name, value in sorted(totals.items(), key=lambda item: -item[1])}))


if __name__ == "__main__":
    main()
