"""GPT-2 as an ONNX graph, written node by node: ids and past keys and values in, logits after the last token out.

`past` and `present` are (2 × layers, rows, heads, positions, width of a head): keys, then values, a layer after the
other. The torch exporter would make Gemm of the products, which ONNX Runtime's dynamic quantizer leaves alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


class Graph:
    """Nodes and constants as they are added; every method returns the name of a value."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def op(self, kind: str, *inputs: str, num_out: int = 1, **attributes: Any) -> Any:
        from onnx import helper

        outputs = [f"{kind}{len(self.nodes)}_{index}" for index in range(num_out)]
        self.nodes.append(helper.make_node(kind, list(inputs), outputs, name=outputs[0], **attributes))
        return outputs if num_out > 1 else outputs[0]

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        from onnx import numpy_helper

        name = f"constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value, dtype), name))
        return name

    def ints(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def norm(self, x: str, weights: dict[str, np.ndarray], name: str) -> Any:
        scale, shift = (self.constant(weights[f"{name}.{end}"]) for end in ("weight", "bias"))
        return self.op("LayerNormalization", x, scale, shift, axis=-1, epsilon=1e-5)

    def linear(self, x: str, weights: dict[str, np.ndarray], name: str) -> Any:
        product = self.op("MatMul", x, self.constant(weights[f"{name}.weight"]))
        return self.op("Add", product, self.constant(weights[f"{name}.bias"]))

    def gelu(self, x: str) -> Any:
        return self.op("Gelu", x, approximate="tanh")


def gpt2_graph(weights: dict[str, np.ndarray], dims: dict[str, int], path: Path) -> None:
    """Write the graph with its weights to `path`."""
    import onnx
    from onnx import TensorProto, helper

    graph = Graph()
    axis_1, minus_1 = graph.ints(1), graph.ints(-1)
    num_past = graph.op("Shape", "past", start=3, end=4)
    num_new = graph.op("Shape", "ids", start=1, end=2)
    num_all = graph.op("Add", num_past, num_new)
    zero, one = graph.constant(0, np.int64), graph.constant(1, np.int64)
    end = graph.op("Squeeze", num_all)
    positions = graph.op("Range", graph.op("Squeeze", num_past), end, one)
    x = graph.op(
        "Add",
        graph.op("Gather", graph.constant(weights["wte.weight"]), "ids"),
        graph.op("Gather", graph.constant(weights["wpe.weight"]), positions),
    )
    ahead = graph.op("Greater", graph.op("Range", zero, end, one), graph.op("Unsqueeze", positions, axis_1))
    mask = graph.op("Where", ahead, graph.constant(-1e9), graph.constant(0.0))
    pasts = graph.op("Split", "past", num_out=2 * dims["n_layer"], axis=0, num_outputs=2 * dims["n_layer"])
    presents: list[str] = []
    for index in range(dims["n_layer"]):
        x, kept = _block(graph, x, weights, f"h.{index}.", dims, pasts[2 * index : 2 * index + 2], mask)
        presents += kept
    graph.nodes.append(helper.make_node("Concat", presents, ["present"], axis=0))
    last = graph.op("Gather", graph.norm(x, weights, "ln_f"), graph.op("Squeeze", minus_1), axis=1)
    head = graph.constant(weights["wte.weight"].T)
    graph.nodes.append(helper.make_node("MatMul", [last, head], ["logits"]))
    heads = [2 * dims["n_layer"], "rows", dims["n_head"]]
    width = dims["n_embd"] // dims["n_head"]
    made = helper.make_graph(
        graph.nodes,
        "gpt2",
        [
            helper.make_tensor_value_info("ids", TensorProto.INT64, ["rows", "new"]),
            helper.make_tensor_value_info("past", TensorProto.FLOAT, [*heads, "past_positions", width]),
        ],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", dims["vocab_size"]]),
            helper.make_tensor_value_info("present", TensorProto.FLOAT, [*heads, "all_positions", width]),
        ],
        graph.constants,
    )
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


def _block(
    graph: Graph, x: str, weights: dict[str, np.ndarray], prefix: str, dims: dict[str, int], past: list[str], mask: str
) -> tuple[Any, list[str]]:
    """Add one block; return its output and its keys and values, past ones first."""
    num_heads, width = dims["n_head"], dims["n_embd"] // dims["n_head"]
    qkv = graph.linear(graph.norm(x, weights, prefix + "ln_1"), weights, prefix + "attn.c_attn")
    split = graph.op("Reshape", qkv, graph.ints(0, 0, 3 * num_heads, width))
    turned = graph.op("Transpose", split, perm=[0, 2, 1, 3])
    query, key, value = graph.op("Split", turned, num_out=3, axis=1, num_outputs=3)
    kept = []
    for new, old in zip((key, value), past, strict=True):
        first = graph.op("Squeeze", old, graph.ints(0))
        kept.append(graph.op("Concat", first, new, axis=2))
    scores = graph.op("MatMul", query, graph.op("Transpose", kept[0], perm=[0, 1, 3, 2]))
    scaled = graph.op("Mul", scores, graph.constant(width**-0.5))
    shares = graph.op("Softmax", graph.op("Add", scaled, mask), axis=-1)
    attended = graph.op("Transpose", graph.op("MatMul", shares, kept[1]), perm=[0, 2, 1, 3])
    joined = graph.op("Reshape", attended, graph.ints(0, 0, dims["n_embd"]))
    x = graph.op("Add", x, graph.linear(joined, weights, prefix + "attn.c_proj"))
    up = graph.gelu(graph.linear(graph.norm(x, weights, prefix + "ln_2"), weights, prefix + "mlp.c_fc"))
    x = graph.op("Add", x, graph.linear(up, weights, prefix + "mlp.c_proj"))
    return x, [graph.op("Unsqueeze", name, graph.ints(0)) for name in kept]
