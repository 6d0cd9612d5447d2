"""The model that a config names, on a device: ours or Hugging Face's."""

from __future__ import annotations

import torch
from torch import nn

from worldsize.config.schema import ModelConfig
from worldsize.models.cost import is_hugging_face
from worldsize.models.decoder import Decoder
from worldsize.models.encoder import Encoder
from worldsize.models.init import initialise


def build(model: ModelConfig, seed: int, device: torch.device | str) -> nn.Module:
    """Return the model on `device`, its weights a pure function of (config, seed): the same on every rank and layout.

    Its forward takes `tokens_BT` and, where a sample holds several texts or padding, `segments_BT`.
    """
    if is_hugging_face(model):
        from worldsize.models.hugging_face import load

        return load(model, seed).to(device)
    with torch.device("meta"):
        module = Encoder(model) if model.kind == "encoder" else Decoder(model)
    module.to_empty(device=device)
    if model.hf is None and model.hf_config is None:
        initialise(module, seed, model.num_layers)
    else:
        from worldsize.models.hf_as_ours import own_weights

        module.load_state_dict(own_weights(model, seed))
    return module
