"""One decoding step as a graph that torch's compiler has made, for each shape that occurs.

Where it can, the graph is compiled ahead of time (AOTInductor): a call then costs none of the compiler's guards, which
for a small model take as long as the step. The stock libraries' tensors need torch.compile instead.

This file holds private names of torch (2.11-2.13): `torch._inductor`'s functions for compiling ahead of time, and the
settings in `torch._dynamo.config`; tests/inference/test_compiled.py pins them.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from worldsize.errors import UserError
from worldsize.inference.network import Cache, Network, Span
from worldsize.inference.stock import Stock

MOST_SHAPES = 64
"""Graphs of one step: a batch size and a bucket of lengths each."""

Graph = Callable[[Tensor, Tensor, Tensor, list[Tensor], list[Tensor]], Tensor]


class Step(nn.Module):
    """Tokens of B rows and their positions in, logits_BV out; looks at `length` positions of the cache."""

    def __init__(self, network: Network, length: int, vocab_size: int) -> None:
        super().__init__()
        self.network, self.length, self.vocab_size = network, length, vocab_size

    def forward(
        self, tokens_B: Tensor, positions_B: Tensor, rows_B: Tensor, keys: list[Tensor], values: list[Tensor]
    ) -> Tensor:
        span = Span(rows_B, 0, positions_B.unsqueeze(1), self.length)
        x_B1C = self.network(tokens_B.unsqueeze(1), Cache(keys, values), span)
        return self.network.logits(x_B1C[:, 0])[:, : self.vocab_size]


class Graphs:
    """Makes a step's graphs as they are asked for."""

    def __init__(self, network: Network, cache: Cache, vocab_size: int) -> None:
        """Raises UserError where there is no compiler."""
        if not any(shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "clang++")):
            raise UserError("compiled decoding needs a C++ compiler (g++ or clang++), and there is none.")
        self._network, self._cache, self._vocab_size = network, cache, vocab_size
        self._ahead = not any(isinstance(module, Stock) for module in network.modules())
        self._graphs: dict[tuple[int, int], Graph] = {}

    def __call__(self, tokens_B: Tensor, positions_B: Tensor, rows_B: Tensor, length: int) -> Tensor:
        """Return logits_BV. The first call of a batch size and length compiles."""
        shape = len(tokens_B), length
        if shape not in self._graphs:
            step = Step(self._network, length, self._vocab_size).eval()
            self._graphs[shape] = self._ahead_of_time(step, len(tokens_B)) if self._ahead else just_in_time(step)
        inputs = tokens_B.contiguous(), positions_B.contiguous(), rows_B  # a graph does not look at strides
        return self._graphs[shape](*inputs, self._cache.keys_SGTD, self._cache.values_SGTD)

    def _ahead_of_time(self, step: Step, num_rows: int) -> Graph:
        """Return the step as a library of machine code that reads the network's own weights, where they lie."""
        with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own, of what it will drop
            places = torch.arange(num_rows)
            inputs = torch.zeros_like(places), places.clone(), places, self._cache.keys_SGTD, self._cache.values_SGTD
            exported = torch.export.export(step, inputs)
            with tempfile.TemporaryDirectory() as folder:
                path = torch._inductor.aoti_compile_and_package(
                    exported,
                    package_path=str(Path(folder) / "step.pt2"),
                    inductor_configs={"aot_inductor.package_constants_in_so": False},
                )
                graph: Any = torch._inductor.aoti_load_package(path)
            weights = dict(step.named_buffers(remove_duplicate=False))
            used = {name: weights[name] for name in graph.get_constant_fqns()}
            graph.load_constants(used, check_full_update=True, user_managed=True)
        return graph  # type: ignore[no-any-return]


def just_in_time(step: Callable[..., Tensor]) -> Graph:
    """Return a function as torch.compile makes it, a graph for each shape that it is called with.

    Beyond MOST_SHAPES it raises; the compiler by itself would go on uncompiled without a word, after eight.
    """
    torch._dynamo.config.recompile_limit = MOST_SHAPES
    torch._dynamo.config.accumulated_recompile_limit = 8 * MOST_SHAPES
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    made: Any = torch.compile(step, dynamic=False, fullgraph=True)
    return made  # type: ignore[no-any-return]
