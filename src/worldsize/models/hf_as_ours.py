"""A Hugging Face GPT-2 or Llama as our decoder: the same weights, in code that can be cut. Torch-free at import.

Who runs it is `model.implementation`: Hugging Face's own code wherever each rank has the whole forward, ours where a
strategy cuts the model, or where asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from worldsize.config.schema import Config, ModelConfig
from worldsize.errors import UserError
from worldsize.models.hf_config import family_of, model_from_hf
from worldsize.models.hugging_face import config_of, load
from worldsize.parallel.registry import cuts_model, strategies

if TYPE_CHECKING:
    from torch import Tensor

KEPT = ("context_length", "dropout")
"""What a run decides itself: shorter samples leave the rest of a table of positions out."""


def as_built(config: Config, vocab_size: int | None = None) -> Config:
    """Return the config with the sizes of our decoder, where that is what runs a Hugging Face model; else as it is.

    `vocab_size` is the tokenizer's, where it is known. Raises UserError when our decoder does not have that model.
    """
    model = config.model
    if (model.hf is None and model.hf_config is None) or not (
        cuts_model(config.parallel.strategy) or model.implementation == "worldsize"
    ):
        return config
    if model.implementation == "hugging_face":
        raise _refused(config, "model.implementation=hugging_face forbids it.")
    if config.data.task == "classification":
        raise _refused(config, "that is no classifier, as data.task=classification needs.")
    known = {"kind": "decoder", "vocab_size": model.vocab_size or vocab_size or 2}
    theirs = config_of(model.model_copy(update=known)).to_dict()
    try:
        sizes = model_from_hf(theirs, f"the config of model.hf={model.hf}" if model.hf else "model.hf_config")
    except UserError as error:
        raise _refused(config, str(error)) from None
    kept = {name: getattr(model, name) for name in KEPT}
    if model.hf_config is not None and "vocab_size" not in model.hf_config:
        kept["vocab_size"] = model.vocab_size  # follows from the tokenizer
    named = {"kind": "decoder", "hf": model.hf, "hf_config": model.hf_config, "implementation": "worldsize"}
    return config.model_copy(update={"model": sizes.model_copy(update=kept | named)})


def _refused(config: Config, reason: str) -> UserError:
    strategy = config.parallel.strategy
    whole = ", ".join(name for name in strategies() if name != "single" and not cuts_model(name))
    cut = cuts_model(strategy)
    asked = f"parallel.strategy={strategy} cuts the model, and" if cut else "model.implementation=worldsize"
    return UserError(
        f"{asked} runs a Hugging Face GPT-2 or Llama as worldsize's own decoder: {reason} Hugging Face's own code runs "
        f"under parallel.strategy={whole}, with model.implementation unset."
    )


def own_weights(model: ModelConfig, seed: int) -> dict[str, Tensor]:
    """Return the decoder's weights, on the CPU in fp32: those that Hugging Face's code loads, or draws by `seed`."""
    from worldsize.models.hf_weights import weights_from_hf

    module: Any = load(model.model_copy(update={"implementation": None}), seed).model
    theirs = {name: tensor.detach() for name, tensor in module.state_dict().items()}
    family = family_of({"model_type": module.config.model_type}, "the model")
    longest = model.model_copy(update={"context_length": module.config.max_position_embeddings})
    ours = weights_from_hf(theirs, longest, family, model.hf or "model.hf_config")
    if model.positions == "learned":
        ours["position_embedding.weight"] = ours["position_embedding.weight"][: model.context_length]
    return ours
