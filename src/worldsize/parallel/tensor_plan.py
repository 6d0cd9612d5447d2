"""Tensor parallelism applied to a model, or to a pipeline stage of one, from its description (Shoeybi et al. 2019,
arXiv:1909.08053, with the sequence parallelism of Korthikanti et al. 2022, arXiv:2205.05198).

Parameters become DTensors on the tp mesh, so that fully_shard, the optimizer and checkpoints know the shards; forward
computes with their local tensors, so that each rank multiplies as fast as a single device does. Placements:

    column-parallel linears    rows over ranks; of parts fused in one matrix each rank holds its share of each part
    row-parallel linears       columns over ranks; the bias is whole, and added to the rank's part of the sequence
    embedding and head         rows of the vocabulary over ranks, tied or not
    a classifier's head        whole: each rank finds all classes from the whole sequence, for its share of the loss
    everything else            whole on every rank

The gradient of what every rank holds whole comes from its part of the sequence alone: though its placement says
Replicate, it must be summed over tp before use (`sum_replicated`). That sum is left to the end of the step, after the
data axes' own exchange, since sums may be taken in any order.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard
from torch.distributed.tensor.parallel import ParallelStyle, parallelize_module
from torch.func import functional_call

from worldsize.models.cost import ModelDescription
from worldsize.models.linear import linear
from worldsize.parallel.tensor_axis import TensorAxis


def apply(model: nn.Module, description: ModelDescription, mesh_tp: DeviceMesh) -> TensorAxis:
    """Parallelise the model in place over the tp mesh and return its axis. What a stage lacks is passed over.

    Activations that enter and leave blocks, and so pass between stages, are this rank's part of the sequence.
    """
    axis = TensorAxis(mesh_tp, description.parameter_shapes[f"{description.token_embedding}.weight"][0])
    parallelize_module(model, mesh_tp, dict(_styles(model, description, axis)))
    return axis


def _styles(model: nn.Module, description: ModelDescription, axis: TensorAxis) -> Iterable[tuple[str, ParallelStyle]]:
    """Yield the style of every module that has parameters of its own."""
    for name, module in model.named_modules():
        if next(module.parameters(recurse=False), None) is None:
            continue
        within = description.within_block(name)
        if within in description.column_parallel:
            yield name, ColumnParallel(axis, description.column_parallel[within])
        elif within in description.row_parallel:
            yield name, RowParallel(axis)
        elif name == description.token_embedding:
            yield name, VocabularyEmbedding(axis)
        elif name == description.position_embedding:
            yield name, OwnPositions(axis)
        elif name == description.head:
            yield name, VocabularyHead(axis)
        else:
            yield name, OnOwnSequence(axis, gathers=name == description.last_norm)


class ColumnParallel(ParallelStyle):
    """Takes this rank's part of the sequence, returns this rank's part of each fused output of the whole sequence."""

    def __init__(self, axis: TensorAxis, parts: Sequence[int]) -> None:
        self._axis, self._parts = axis, parts

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        rows = own_rows(self._parts, self._axis.rank, self._axis.size)
        for name, parameter in list(module.named_parameters(recurse=False)):
            place(module, name, parameter.detach()[rows.to(parameter.device)], device_mesh, Shard(0))

        def forward(x_BtC: Tensor) -> Tensor:
            weight_OC, bias_O = local(module.weight), local(module.bias)
            assert weight_OC is not None
            return linear(self._axis.gathered(x_BtC), weight_OC, bias_O)

        module.forward = forward
        return module


class RowParallel(ParallelStyle):
    """Takes this rank's part of the features, sums over ranks, returns this rank's part of the sequence."""

    def __init__(self, axis: TensorAxis) -> None:
        self._axis = axis

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        weight = module.weight
        assert isinstance(weight, Tensor)
        columns = self._axis.part_of(weight.shape[1])
        place(module, "weight", weight.detach()[:, columns].contiguous(), device_mesh, Shard(1))
        if isinstance(module.bias, Tensor):
            place(module, "bias", module.bias.detach(), device_mesh, Replicate())

        def forward(x_BTF: Tensor) -> Tensor:
            weight_CF, bias_C = local(module.weight), local(module.bias)
            assert weight_CF is not None
            sum_BtC = self._axis.summed(linear(x_BTF, weight_CF))
            return sum_BtC if bias_C is None else sum_BtC + bias_C

        module.forward = forward
        return module


class VocabularyEmbedding(ParallelStyle):
    """Looks up the tokens whose rows this rank holds; the sum over ranks has every token's row."""

    def __init__(self, axis: TensorAxis) -> None:
        self._axis = axis

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        first_row = _place_own_rows(module, device_mesh, self._axis)

        def forward(tokens_BT: Tensor) -> Tensor:
            weight_vC = local(module.weight)
            assert weight_vC is not None
            rows_BT = tokens_BT - first_row
            elsewhere_BT = (rows_BT < 0) | (rows_BT >= weight_vC.shape[0])
            found_BTC = F.embedding(rows_BT.masked_fill(elsewhere_BT, 0), weight_vC)
            return self._axis.summed(found_BTC.masked_fill(elsewhere_BT.unsqueeze(-1), 0))

        module.forward = forward
        return module


class VocabularyHead(ParallelStyle):
    """Holds this rank's rows of the vocabulary; `models.linear.linear` multiplies with them."""

    def __init__(self, axis: TensorAxis) -> None:
        self._axis = axis

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        _place_own_rows(module, device_mesh, self._axis)
        return module


class OwnPositions(ParallelStyle):
    """Looks up this rank's part of the positions in a table that every rank holds whole."""

    def __init__(self, axis: TensorAxis) -> None:
        self._axis = axis

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        _replicate(module, device_mesh)

        def forward(positions_T: Tensor) -> Tensor:
            weight_TC = local(module.weight)
            assert weight_TC is not None
            return F.embedding(positions_T[..., self._axis.part_of(positions_T.shape[-1])], weight_TC)

        module.forward = forward
        return module


class OnOwnSequence(ParallelStyle):
    """Computes as the module does, on this rank's part of the sequence; `gathers`: and returns the whole sequence.

    A classifier's head, which comes after, is given the whole of what it reads.
    """

    def __init__(self, axis: TensorAxis, *, gathers: bool) -> None:
        self._axis, self._gathers = axis, gathers

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        as_it_was = copy.deepcopy(module)
        _replicate(module, device_mesh)

        def forward(x_BtC: Tensor) -> Tensor:
            named = ((name, local(parameter)) for name, parameter in module.named_parameters(recurse=False))
            parameters = {name: parameter for name, parameter in named if parameter is not None}
            out_BtC: Tensor = functional_call(as_it_was, parameters, (x_BtC,))
            return self._axis.gathered(out_BtC) if self._gathers else out_BtC

        module.forward = forward
        return module


def place(module: nn.Module, name: str, own: Tensor, mesh: DeviceMesh, placement: Placement) -> None:
    """Make `own` this rank's part of the module's parameter. Nothing is sent: all ranks made the same weights."""
    before = module.get_parameter(name)
    shape, stride = before.shape, before.stride()
    parameter = DTensor.from_local(own, mesh, [placement], run_check=False, shape=shape, stride=stride)
    module.register_parameter(name, nn.Parameter(parameter))


def local(parameter: object) -> Tensor | None:
    """Return what this rank holds of a parameter, for autograd to follow; None where there is no parameter."""
    return parameter.to_local() if isinstance(parameter, DTensor) else None


def _replicate(module: nn.Module, mesh: DeviceMesh) -> None:
    for name, parameter in list(module.named_parameters(recurse=False)):
        place(module, name, parameter.detach(), mesh, Replicate())


def _place_own_rows(module: nn.Module, mesh: DeviceMesh, axis: TensorAxis) -> int:
    """Shard a vocabulary's matrix by rows; return the first that is this rank's."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    rows = axis.part_of(weight.shape[0])
    place(module, "weight", weight.detach()[rows].clone(), mesh, Shard(0))
    return int(rows.start)


def own_rows(parts: Sequence[int], rank: int, num_ranks: int) -> Tensor:
    """Return the rows of a fused matrix that a rank holds: of each part its share, the parts in their order."""
    starts = [sum(parts[:index]) for index in range(len(parts))]
    return torch.cat(
        [
            torch.arange(start + rank * part // num_ranks, start + (rank + 1) * part // num_ranks)
            for start, part in zip(starts, parts, strict=True)
        ]
    )


def row_order(parts: Sequence[int], num_ranks: int) -> Tensor:
    """Return which row of one device's matrix each row of the ranks' matrices, one after the other, is."""
    return torch.cat([own_rows(parts, rank, num_ranks) for rank in range(num_ranks)])


def reordered(description: ModelDescription, num_ranks: int) -> dict[str, Tensor]:
    """Return `row_order` of each parameter, by name, that tensor parallelism holds in another order than one device."""
    orders = {}
    for name in description.parameter_shapes:
        parts = description.column_parallel.get(description.within_block(name.rpartition(".")[0]), ())
        if len(parts) > 1:
            orders[name] = row_order(parts, num_ranks)
    return orders
