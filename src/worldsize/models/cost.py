"""What a model costs, from its configuration alone: parameters, FLOP, bytes. Torch-free.

Letters: B samples, T positions (the context length), C width of the residual stream, H query heads, G key/value heads,
D width of a head (C = H·D), F width of the feed-forward layer, V rows of the vocabulary, L blocks.

Every function takes a resolved ModelConfig: `num_kv_heads`, `d_ff` and `vocab_size` are set. Of a Hugging Face model
only its own code knows the shapes: `describe` and the counts of FLOP then build it on torch's meta device.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from worldsize.config.schema import ModelConfig

FP32_BYTES = 4
FP64_BYTES = 8
BF16_BYTES = 2


def kept_bytes(precision: str) -> int:
    """Return the bytes of one element of a weight, gradient or moment, which autocast keeps in fp32 too."""
    return FP64_BYTES if precision == "fp64" else FP32_BYTES


@dataclass(frozen=True)
class Dims:
    """The widths of a resolved model, none of them unset."""

    num_layers: int
    context_length: int
    d_model: int
    num_heads: int
    num_kv_heads: int
    d_head: int
    d_ff: int
    vocab_size: int

    @property
    def qkv_sizes(self) -> tuple[int, int, int]:
        """Output widths of the fused query, key and value projection: H·D, G·D, G·D."""
        return self.d_model, self.num_kv_heads * self.d_head, self.num_kv_heads * self.d_head


def dims_of(model: ModelConfig) -> Dims:
    """Return the model's widths. Raises ValueError when the config is not resolved or the heads do not divide."""
    if model.num_kv_heads is None or model.d_ff is None or model.vocab_size is None:
        raise ValueError("not a resolved model: num_kv_heads, d_ff or vocab_size is unset")
    if model.d_model % model.num_heads or model.num_heads % model.num_kv_heads:
        raise ValueError(
            f"d_model={model.d_model} must be a multiple of num_heads={model.num_heads}, "
            f"and that a multiple of num_kv_heads={model.num_kv_heads}"
        )
    d_head = model.d_model // model.num_heads
    if model.positions == "rotary" and d_head % 2:
        raise ValueError(f"rotary positions turn pairs of features: d_model / num_heads = {d_head} must be even")
    return Dims(
        num_layers=model.num_layers,
        context_length=model.context_length,
        d_model=model.d_model,
        num_heads=model.num_heads,
        num_kv_heads=model.num_kv_heads,
        d_head=d_head,
        d_ff=model.d_ff,
        vocab_size=model.vocab_size,
    )


def parameter_shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter by its state_dict name, in the module's order; a tied head is no entry."""
    dims = dims_of(model)
    width = dims.d_model
    shapes: dict[str, tuple[int, ...]] = {"token_embedding.weight": (dims.vocab_size, width)}
    if model.positions == "learned":
        shapes["position_embedding.weight"] = (dims.context_length, width)
    for prefix in block_prefixes(model):
        shapes |= _norm(f"{prefix}.attention_norm", model)
        shapes |= _linear(f"{prefix}.attention.qkv", width, sum(dims.qkv_sizes), model.bias)
        shapes |= _linear(f"{prefix}.attention.out", width, width, model.bias)
        shapes |= _norm(f"{prefix}.feed_forward_norm", model)
        shapes |= _linear(f"{prefix}.feed_forward.up", width, sum(_up_sizes(model)), model.bias)
        shapes |= _linear(f"{prefix}.feed_forward.down", dims.d_ff, width, model.bias)
    shapes |= _norm("final_norm", model)
    if model.kind == "encoder":
        return shapes | _linear("head", width, num_classes(model), bias=True)
    if not model.tied_head:
        shapes["head.weight"] = (dims.vocab_size, width)
    return shapes


def num_classes(model: ModelConfig) -> int:
    """Return an encoder's classes. Raises ValueError when the config is not resolved."""
    if model.num_classes is None:
        raise ValueError("not a resolved model: num_classes is unset")
    return model.num_classes


def is_hugging_face(model: ModelConfig) -> bool:
    """Return whether the model is Hugging Face's code rather than ours."""
    return (model.hf is not None or model.hf_config is not None) and model.implementation != "worldsize"


def block_prefixes(model: ModelConfig) -> tuple[str, ...]:
    """Return the blocks' names in the order in which a sample passes them."""
    return tuple(f"blocks.{index}" for index in range(model.num_layers))


def _up_sizes(model: ModelConfig) -> tuple[int, ...]:
    """Output widths of the feed-forward layer's first linear: F, or gate and value, F each, fused."""
    d_ff = dims_of(model).d_ff
    return (d_ff, d_ff) if model.activation == "swiglu" else (d_ff,)


def _linear(name: str, num_in: int, num_out: int, bias: bool) -> dict[str, tuple[int, ...]]:
    weight: dict[str, tuple[int, ...]] = {f"{name}.weight": (num_out, num_in)}
    return weight | {f"{name}.bias": (num_out,)} if bias else weight


def _norm(name: str, model: ModelConfig) -> dict[str, tuple[int, ...]]:
    weight: dict[str, tuple[int, ...]] = {f"{name}.weight": (model.d_model,)}
    return weight | {f"{name}.bias": (model.d_model,)} if model.bias and model.norm == "layernorm" else weight


def num_parameters(model: ModelConfig) -> int:
    """Return the number of parameters, embeddings included, a tied head counted once."""
    return sum(math.prod(shape) for shape in parameter_shapes(model).values())


def forward_flop_per_sample(model: ModelConfig, *, causal: bool, length: int | None = None) -> float:
    """Return the matmul FLOP of one text of `length` tokens, `context_length` if unset, going forward: 2·m·n·k a
    product.

    `causal=True` counts only the T(T+1)/2 scores that a causal mask leaves; `causal=False`, and an encoder always,
    counts all T². Norms, softmax, activations and lookups are not counted, as is usual (Narayanan et al. 2021,
    arXiv:2104.04473, appendix).
    """
    if is_hugging_face(model):
        from worldsize.models.hugging_face import forward_flop

        return forward_flop(model, length or model.context_length, causal=causal and model.kind != "encoder")
    dims = dims_of(model)
    length, width = length or dims.context_length, dims.d_model
    num_scores = length * (length + 1) / 2 if causal and model.kind != "encoder" else length**2
    weights_per_block = width * (sum(dims.qkv_sizes) + width + sum(_up_sizes(model)) + dims.d_ff)
    linear = 2 * length * dims.num_layers * weights_per_block + _head_flop(model, length)
    attention = dims.num_layers * 2 * (2 * num_scores * width)  # scores = q·k, output = scores·v
    return float(linear + attention)


def _head_flop(model: ModelConfig, length: int) -> float:
    """Return the FLOP of one text's logits: of each token over the vocabulary, or once over an encoder's classes."""
    if model.kind == "encoder":
        return 2.0 * model.d_model * num_classes(model)
    return 2.0 * length * model.d_model * dims_of(model).vocab_size


@dataclass(frozen=True)
class PartCosts:
    """What the parts of a model cost, relative to each other: before its blocks, one block, after its blocks."""

    before: float
    block: float
    after: float


def forward_flop_by_part(model: ModelConfig) -> PartCosts:
    """Return one sample's causal forward FLOP of embedding, one block and head.

    A lookup multiplies nothing; the sums of token and position embeddings are counted, one FLOP a feature.
    """
    dims = dims_of(model)
    head = _head_flop(model, dims.context_length)
    blocks = forward_flop_per_sample(model, causal=True) - head
    embedding = float(dims.context_length * dims.d_model) if model.positions == "learned" else 0.0
    return PartCosts(before=embedding, block=blocks / dims.num_layers, after=head)


def flop_per_token(model: ModelConfig, *, causal: bool = True, lengths: Iterable[int] | None = None) -> float:
    """Return the model FLOP of training on one token, averaged over the context: forward plus backward, 3 × forward.

    Each forward product has two in backward (one for the input's gradient, one for the weight's or the other
    operand's). What a kernel recomputes is not counted. `lengths` are those of the texts trained on, where they do not
    fill the context: the average is then over their tokens, and padding costs nothing.
    """
    counts = Counter(lengths) if lengths is not None else {model.context_length: 1}
    flop = sum(forward_flop_per_sample(model, causal=causal, length=n) * count for n, count in counts.items())
    return 3 * flop / sum(n * count for n, count in counts.items())


def activation_bytes(model: ModelConfig, micro_batch: int, *, precision: str = "fp32") -> int:
    """Return the bytes that one micro batch keeps for its backward, in eager mode, with fused attention, no dropout.

    An approximation for predicting memory. Kept a block and token: both norms' inputs (and, of an RMSNorm, the normed
    input), every linear's input, the fused query-key-value output (and rotated queries and keys), what the activation
    function needs. After the blocks: the last norm's and the head's input, and the log-probabilities in fp32. Under
    'bf16' and 'fp16' autocast linears and attention keep two-byte copies, also of the weights, while the residual
    stream and norms stay in fp32. Not counted: norm statistics, token ids, logits and their gradient, which live only
    around the loss.
    """
    dims = dims_of(model)
    half = precision in ("bf16", "fp16")
    wide = kept_bytes(precision)
    narrow = BF16_BYTES if half else wide
    num_tokens = micro_batch * dims.context_length
    rotated = sum(dims.qkv_sizes[:2]) if model.positions == "rotary" else 0
    up = 4 * dims.d_ff if model.activation == "swiglu" else 2 * dims.d_ff
    norm = (2 if model.norm == "rmsnorm" else 1) * dims.d_model * wide
    block = 2 * norm + (3 * dims.d_model + sum(dims.qkv_sizes) + rotated + up) * narrow
    end = norm + (0 if model.kind == "encoder" else dims.d_model * narrow + dims.vocab_size * wide)
    matrices = sum(math.prod(shape) for shape in _matmul_shapes(model)) if half else 0
    return num_tokens * (dims.num_layers * block + end) + matrices * narrow


def _matmul_shapes(model: ModelConfig) -> list[tuple[int, ...]]:
    """Shapes of the weights that enter a matmul: all matrices but the lookups, a tied head included."""
    shapes = parameter_shapes(model)
    lookups = ["position_embedding.weight"]
    if not model.tied_head or model.kind == "encoder":
        lookups.append("token_embedding.weight")
    return [shape for name, shape in shapes.items() if len(shape) == 2 and name not in lookups]


@dataclass(frozen=True)
class ModelDescription:
    """All that a strategy knows of a model."""

    num_layers: int
    parameter_shapes: Mapping[str, tuple[int, ...]]
    """By state_dict name, in the order in which the module registers them."""
    block_prefixes: tuple[str, ...]
    """Names of the blocks, in the order in which a sample passes them."""
    column_parallel: Mapping[str, tuple[int, ...]]
    """Linears of a block that split by output row: name within the block → widths of the parts fused in its output."""
    row_parallel: tuple[str, ...]
    """Linears of a block that split by input column, and so end in a sum over ranks."""
    token_embedding: str | None = None
    """The module that looks tokens up, its rows the vocabulary. None: its ends are not known to split."""
    position_embedding: str | None = None
    """The module that looks positions up, where they are learned."""
    last_norm: str | None = None
    """The module between the last block and the head."""
    head: str | None = None
    """The linear whose output rows are the vocabulary, where it is not tied to the embedding."""
    tied_head: bool = False
    """Whether the embedding's matrix is the head's too."""
    classifier: str | None = None
    """The linear from a text to its classes, which are too few to share out."""
    attention_core: str | None = None
    """The module of a block, without parameters, between its attention's linears."""

    @property
    def num_parameters(self) -> int:
        return sum(math.prod(shape) for shape in self.parameter_shapes.values())

    def within_block(self, name: str) -> str:
        """Return a module's name within its block; empty outside the blocks."""
        prefix = next((prefix for prefix in self.block_prefixes if name.startswith(prefix + ".")), name)
        return name[len(prefix) + 1 :]

    def parameter_bytes(self, bytes_per_element: int = FP32_BYTES) -> int:
        """Return the bytes of all parameters; gradients take as many, AdamW's two moments twice that."""
        return self.num_parameters * bytes_per_element


def describe(model: ModelConfig) -> ModelDescription:
    """Return what a strategy needs to know of the model."""
    if is_hugging_face(model):
        from worldsize.models.hugging_face import describe as describe_hugging_face

        return describe_hugging_face(model)
    is_encoder = model.kind == "encoder"
    return ModelDescription(
        num_layers=model.num_layers,
        parameter_shapes=parameter_shapes(model),
        block_prefixes=block_prefixes(model),
        column_parallel={"attention.qkv": dims_of(model).qkv_sizes, "feed_forward.up": _up_sizes(model)},
        row_parallel=("attention.out", "feed_forward.down"),
        token_embedding="token_embedding",
        position_embedding="position_embedding" if model.positions == "learned" else None,
        last_norm="final_norm",
        head=None if model.tied_head or is_encoder else "head",
        tied_head=model.tied_head and not is_encoder,
        classifier="head" if is_encoder else None,
        attention_core="attention.core",
    )
