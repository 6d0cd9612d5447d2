"""Who sees whom in a sample that holds several texts, or padding.

`segments_BT` numbers the texts of each sample from 1; padding is 0. B samples, T positions.
"""

from __future__ import annotations

import torch
from torch import Tensor


def own_past(segments_BT: Tensor) -> Tensor:
    """Return mask_B1TT, True where a position sees another: one of its own text, not after itself.

    Padding sees padding, since a row of the mask without any True has no softmax.
    """
    length = segments_BT.shape[1]
    causal_TT = torch.ones(length, length, dtype=torch.bool, device=segments_BT.device).tril()
    same_BTT = segments_BT.unsqueeze(2) == segments_BT.unsqueeze(1)
    return (same_BTT & causal_TT).unsqueeze(1)


def own_positions(segments_BT: Tensor) -> Tensor:
    """Return each token's position within its own text, from 0."""
    index_BT = torch.arange(segments_BT.shape[1], device=segments_BT.device).expand_as(segments_BT)
    begins_BT = torch.ones_like(segments_BT, dtype=torch.bool)
    begins_BT[:, 1:] = segments_BT[:, 1:] != segments_BT[:, :-1]
    return index_BT - torch.where(begins_BT, index_BT, 0).cummax(dim=1).values
