"""Any Hugging Face causal language model or sequence classifier, behind the same few words as our own models.

Strategies ask for parameter shapes and blocks, the run for its FLOP: all three come from the model's own code, built on
torch's meta device, where weights take no memory. Only data parallelism needs no more than that.

Letters: B samples, T positions, V rows of the vocabulary, K classes.
"""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

from worldsize.config.schema import ModelConfig
from worldsize.data.hub import first_line, offline_when_unreachable
from worldsize.errors import UserError
from worldsize.models.cost import ModelDescription

if TYPE_CHECKING:
    from torch import nn


def load(model: ModelConfig, seed: int) -> nn.Module:
    """Return the model on the CPU in fp32: `model.hf`'s own weights, or random ones that (config, seed) determine.

    Random weights are drawn as Hugging Face's code draws them, from torch's generator on the CPU, so that every rank
    draws the same. Raises UserError when the model cannot be had or does not fit the data.
    """
    import torch

    factory, config = _factory(model), config_of(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if model.hf_config is not None:
            return _adapter(factory.from_config(config, dtype=torch.float32))
        try:
            return _adapter(factory.from_pretrained(model.hf, config=config, dtype=torch.float32))
        except Exception as error:  # every library below raises its own kind
            raise _cannot_load(model, error) from error


def describe(model: ModelConfig) -> ModelDescription:
    """Return what a data-parallel strategy needs to know; linears that split by tensor parallelism are not known."""
    return _described(model.model_dump_json())


@functools.lru_cache(maxsize=8)
def _described(model_json: str) -> ModelDescription:
    module = _on_meta(ModelConfig.model_validate_json(model_json))
    prefixes = block_prefixes(module)
    return ModelDescription(
        num_layers=len(prefixes),
        parameter_shapes={name: tuple(parameter.shape) for name, parameter in module.named_parameters()},
        block_prefixes=prefixes,
        column_parallel={},
        row_parallel=(),
    )


def block_prefixes(module: nn.Module) -> tuple[str, ...]:
    """Return the names of the blocks in order: the members of the list of like modules that holds most parameters."""
    from torch import nn

    def size(found: tuple[str, nn.ModuleList]) -> int:
        return sum(parameter.numel() for parameter in found[1].parameters())

    lists = [(name, part) for name, part in module.named_modules() if isinstance(part, nn.ModuleList)]
    alike = [(name, part) for name, part in lists if part and len({type(block) for block in part}) == 1]
    if not alike:
        return ()
    name, blocks = max(alike, key=size)
    return tuple(f"{name}.{index}" for index in range(len(blocks)))


def forward_flop(model: ModelConfig, length: int, *, causal: bool) -> float:
    """Return the FLOP of one text of `length` tokens going forward, by torch's counter on the meta device.

    The counter counts all T² scores of attention. FLOP of a transformer are a·T + b·T² + c, found exactly from three
    lengths; a causal mask leaves T(T+1)/2 of the T² scores.
    """
    constant, linear, square = _flop_polynomial(model.model_dump_json())
    return constant + linear * length + square * (length * (length + 1) / 2 if causal else length**2)


@functools.lru_cache(maxsize=8)
def _flop_polynomial(model_json: str) -> tuple[float, float, float]:
    """Return (c, a, b) of the FLOP c + a·T + b·T² of one text going forward."""
    model = ModelConfig.model_validate_json(model_json)
    module = _on_meta(model)
    longest = max(4, model.context_length // 2 * 2)
    one, two, four = (_counted(module, length, model) for length in (longest // 2 - 1, longest // 2, longest // 2 + 1))
    middle = longest // 2
    square = (one - 2 * two + four) / 2
    linear = (four - one) / 2 - 2 * square * middle
    return two - linear * middle - square * middle**2, linear, square


def _counted(module: nn.Module, length: int, model: ModelConfig) -> int:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    tokens_BT = torch.zeros(1, length, dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        # With a mask of its own a decoder does not look into positions, which have no values here; a classifier does.
        module(tokens_BT, None if model.kind == "encoder" else torch.ones_like(tokens_BT))
    return int(counter.get_total_flops())


def _on_meta(model: ModelConfig) -> nn.Module:
    import torch

    with torch.device("meta"):
        return _adapter(_factory(model).from_config(config_of(model), dtype=torch.float32))


def _adapter(model: Any) -> nn.Module:
    """Return the module that strategies step: tokens and segments in, logits out."""
    import torch
    from torch import Tensor, nn

    from worldsize.models.segments import own_past, own_positions

    class HuggingFace(nn.Module):
        """A Hugging Face model with the forward of ours."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, tokens_BT: Tensor, segments_BT: Tensor | None = None) -> Tensor:
            """Return logits_BTV, or logits_BK of a classifier, whose `segments_BT` is 0 at padding."""
            inputs: dict[str, Any] = {}
            if segments_BT is not None and is_classifier:
                inputs["attention_mask"] = (segments_BT > 0).long()
            elif segments_BT is not None:
                inputs["attention_mask"] = own_past(segments_BT)
                inputs["position_ids"] = own_positions(segments_BT)
            if not is_classifier:
                inputs["use_cache"] = False
            logits: Tensor = self.model(input_ids=tokens_BT, **inputs).logits
            return logits

    is_classifier = type(model).__name__.endswith("ForSequenceClassification")
    adapter = HuggingFace()
    adapter.train()
    assert isinstance(adapter, torch.nn.Module)
    return adapter


def _factory(model: ModelConfig) -> Any:
    transformers = _transformers()
    return (
        transformers.AutoModelForSequenceClassification
        if model.kind == "encoder"
        else transformers.AutoModelForCausalLM
    )


def config_of(model: ModelConfig) -> Any:
    """Return the model's own config with what ours decides: vocabulary, classes, dropout, attention by torch."""
    transformers = _transformers()
    try:
        if model.hf_config is not None:
            given = dict(model.hf_config)
            config = transformers.AutoConfig.for_model(given.pop("model_type", "missing"), **given)
            if "vocab_size" not in given:
                config.vocab_size = model.vocab_size
        else:
            offline_when_unreachable()
            config = transformers.AutoConfig.from_pretrained(model.hf)
    except Exception as error:  # every library below raises its own kind
        raise _cannot_load(model, error) from error
    if model.kind == "encoder":
        config.num_labels = model.num_classes
    for name, value in config.to_dict().items():
        if ("dropout" in name or name.endswith("pdrop")) and isinstance(value, float | int) and value is not False:
            setattr(config, name, model.dropout)
    _check(model, config)
    return config


def _check(model: ModelConfig, config: Any) -> None:
    longest = getattr(config, "max_position_embeddings", None)
    if longest is not None and longest < model.context_length:
        raise UserError(
            f"model.context_length={model.context_length}, but the Hugging Face model has {longest} positions. "
            f"Use model.context_length={longest} or less."
        )
    if model.vocab_size is not None and config.vocab_size < model.vocab_size:
        raise UserError(
            f"the Hugging Face model has {config.vocab_size} rows of vocabulary, the data needs {model.vocab_size}. "
            "Use the model's own tokenizer: data.tokenizer=FOLDER-OR-NAME; or leave vocab_size out of model.hf_config."
        )
    if model.kind == "encoder" and config.pad_token_id is None:
        raise UserError(
            "this Hugging Face model reads a class from the last token before padding, and its config names no "
            "pad_token_id. Set it in model.hf_config, or use an encoder such as {model_type: bert}."
        )


def _cannot_load(model: ModelConfig, error: Exception) -> UserError:
    if isinstance(error, UserError):
        return error
    given = f"model.hf={model.hf!r}" if model.hf_config is None else f"model.hf_config={json.dumps(model.hf_config)}"
    return UserError(
        f"{given}: the model could not be had ({first_line(error)}). Allowed: model.hf=FOLDER or a hub name; "
        "model.hf_config={model_type: gpt2, …} with that model's own keys."
    )


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise UserError("model.hf and model.hf_config need the extra 'hf': pip install 'worldsize[hf]'.") from error
    return transformers
