"""A model of which each rank along tp holds a part: its gradient's norm, and its tensors as one device has them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate

from worldsize.config.schema import Config
from worldsize.models.cost import ModelDescription
from worldsize.parallel.gradient_buckets import own_part
from worldsize.parallel.tensor_axis import TensorAxis
from worldsize.parallel.tensor_plan import reordered
from worldsize.train.replica import Replica, whole


class TensorReplica(Replica):
    """Runs forward, backward and update of a model that `tensor_plan.apply` (and fully_shard after it) has spread."""

    def __init__(
        self,
        model: nn.Module,
        config: Config,
        device: torch.device,
        *,
        axis: TensorAxis,
        description: ModelDescription,
        mesh: DeviceMesh,
    ) -> None:
        super().__init__(model, config, device, axis.loss_for(description))
        names = mesh.mesh_dim_names or ()
        self._axis = axis
        self._fsdp = mesh["fsdp"] if "fsdp" in names else None
        self._orders = {name: order.to(device) for name, order in reordered(description, axis.size).items()}
        self._whole_on_tp = [
            p for p in model.parameters() if isinstance(p, DTensor) and p.placements[-1].is_replicate()
        ]

    def sum_replicated(self) -> None:
        """Sum over tp, in one flat tensor, the gradients of what every rank holds whole: each has its own part's."""
        num_shards = self._fsdp.size() if self._fsdp is not None else 1
        gradients = [own_part(p.grad) for p in self._whole_on_tp if p.grad is not None]
        # Rows that fsdp cannot divide are padded, so that every rank sends as much.
        sizes = [-(-p.shape[0] // num_shards) * (p.numel() // p.shape[0]) for p in self._whole_on_tp]
        flat = torch.zeros(sum(sizes), dtype=gradients[0].dtype, device=self.device)
        parts = [part[: g.numel()].view_as(g) for part, g in zip(torch.split(flat, sizes), gradients, strict=True)]
        torch._foreach_copy_(parts, gradients)
        self._axis.all_reduce(flat)
        torch._foreach_copy_(gradients, parts)

    def _clip(self, max_norm: float) -> Tensor:
        """Clip the norm of the whole gradient."""
        square = self._square(self.model.parameters())
        if self._fsdp is not None:
            dist.all_reduce(square, group=self._fsdp.get_group())
        norm = square.sqrt()
        self._scale(max_norm, norm)
        return norm

    def _scale(self, max_norm: float, norm: Tensor) -> None:
        """Clip as clip_grads_with_norm_ does, which on DTensors finds out for seconds how a product is sharded."""
        gradients = [own_part(p.grad) for p in self.model.parameters() if p.grad is not None]
        torch._foreach_mul_(gradients, (max_norm / (norm + 1e-6)).clamp(max=1.0))

    def _square(self, parameters: Iterable[nn.Parameter]) -> Tensor:
        """Return the squared norm of gradients: what each rank holds whole counts once, shards are summed over tp."""
        whole_ones = {id(p) for p in self._whole_on_tp}
        given = [(own_part(p.grad), id(p) in whole_ones) for p in parameters if p.grad is not None]
        shards = [gradient for gradient, is_whole in given if not is_whole]
        replicated = [gradient for gradient, is_whole in given if is_whole]
        square = self._axis.all_reduce(nn.utils.get_total_norm(shards).square())
        return square + nn.utils.get_total_norm(replicated).square()

    def full_parameters(self) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in self.model.named_parameters():
            yield name, self._as_on_one_device(name, whole_from_tp(parameter.detach()))

    def state(self) -> dict[str, Any]:
        """Return the state with its rows in one device's order, sharded as the parameters are. A collective."""
        return self._with_rows(super().state(), self._as_on_one_device)

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over a state whose rows are in one device's order. A collective."""
        super().load_state(self._with_rows(state, self._as_on_ranks))

    def _as_on_one_device(self, name: str, tensor: Tensor) -> Tensor:
        """Return a whole tensor with its rows, which follow the ranks, in one device's order."""
        order = self._orders.get(name)
        return tensor if order is None else torch.empty_like(tensor).index_copy_(0, order, tensor)

    def _as_on_ranks(self, name: str, tensor: Tensor) -> Tensor:
        order = self._orders.get(name)
        return tensor if order is None else tensor[order]

    def _with_rows(self, state: dict[str, Any], reorder: Any) -> dict[str, Any]:
        """Return the state with the rows of weights and moments reordered where the order differs."""

        def moved(name: str, tensor: Any) -> Any:
            if name not in self._orders or not isinstance(tensor, Tensor) or tensor.ndim == 0:
                return tensor
            return sharded_like(reorder(name, whole_from_tp(tensor)), self.model.get_parameter(name))

        model = {name: moved(name, tensor) for name, tensor in state["model"].items()}
        moments = {
            name: {key: moved(name, value) for key, value in each.items()}
            for name, each in state["optimizer"]["state"].items()
        }
        return state | {"model": model, "optimizer": state["optimizer"] | {"state": moments}}


def whole_from_tp(tensor: Tensor) -> Tensor:
    """Return a tensor's whole value: first what each tp rank holds, from the fsdp ranks that share it. A collective."""
    if isinstance(tensor, DTensor) and tensor.device_mesh.ndim > 1:
        others = [Replicate()] * (tensor.device_mesh.ndim - 1)
        tensor = tensor.redistribute(placements=[*others, tensor.placements[-1]])
    return whole(tensor)


def sharded_like(tensor: Tensor, like: Tensor) -> Tensor:
    """Return this rank's part of a whole tensor, with the mesh and placements of `like`, whose shape it has.

    Both are cut by rows: by tp, the mesh's last dimension, and then by fsdp what tp has left. Nothing is sent.
    """
    assert isinstance(like, DTensor)
    mesh = like.device_mesh
    own = tensor
    for index in reversed(range(mesh.ndim)):
        if not like.placements[index].is_replicate():
            own = own.chunk(mesh.size(index))[mesh.get_local_rank(index)]
    own = own.clone(memory_format=torch.contiguous_format)  # a DTensor over a part of a storage cannot be copied
    return DTensor.from_local(own, mesh, like.placements, run_check=False, shape=tensor.shape, stride=tensor.stride())
