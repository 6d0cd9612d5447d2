"""How well a model does on held-out rows: the classes it gives to texts, or its translations of them.

Letters: B texts, K classes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from worldsize.data.classification import Classification
from worldsize.data.translation import Translation
from worldsize.inference.estimates import accuracy_of, macro_f1, translation_score
from worldsize.inference.network import Network
from worldsize.inference.open_model import OpenedModel
from worldsize.inference.packed_encoder import classifier
from worldsize.inference.prefix import NetworkPrefix
from worldsize.inference.quality_records import ClassifierQuality, TranslatorQuality
from worldsize.inference.scores import classification_quality, confusion, translation_metrics
from worldsize.inference.translate import longest_of, text_of, translate_with

TEXTS_AT_ONCE = 32
NUM_EXAMPLES = 5

OnProgress = Callable[[float], None]
"""Called with the share that is done, 0-1."""


@torch.inference_mode()
def evaluate_classifier(
    opened: OpenedModel,
    samples: Classification,
    ids: np.ndarray,
    *,
    data: str,
    method_name: str | None = None,
    on_progress: OnProgress | None = None,
) -> ClassifierQuality:
    """Classify the samples `ids`. Raises UserError for a method that is not here."""
    encoder, num_classes = classifier(opened, method_name), len(samples.labels)
    classes: list[int] = []
    found: list[int] = []
    losses: list[float] = []
    for first in range(0, len(ids), TEXTS_AT_ONCE):
        batch = samples.batch(ids[first : first + TEXTS_AT_ONCE], 1)
        assert batch.segments_BT is not None
        logits_BK = encoder(batch.tokens_BT, batch.segments_BT)[:, :num_classes].double()
        losses += F.cross_entropy(logits_BK, batch.targets_BT, reduction="none").tolist()
        classes += batch.targets_BT.tolist()
        found += logits_BK.argmax(-1).tolist()
        if on_progress is not None:
            on_progress(len(classes) / len(ids))
    quality = classification_quality(confusion(classes, found, num_classes), samples.labels)
    return ClassifierQuality(
        model=str(opened.path),
        method=opened.method_or(method_name),
        data=data,
        num_texts=len(ids),
        loss=float(np.mean(losses)),
        loss_stderr=float(np.std(losses, ddof=1) / math.sqrt(len(losses))) if len(losses) > 1 else 0.0,
        accuracy=accuracy_of(sum(c == f for c, f in zip(classes, found, strict=True)), len(ids)),
        macro_f1=macro_f1(classes, found, num_classes),
        labels=quality.labels,
        confusion=quality.confusion,
    )


def evaluate_translator(
    opened: OpenedModel,
    samples: Translation,
    rows: np.ndarray,
    num_beams: int,
    *,
    data: str,
    method_name: str | None = None,
    on_progress: OnProgress | None = None,
) -> TranslatorQuality:
    """Translate the held-out `rows`. Raises UserError for a method that is not here, or without the extra `eval`."""
    bleu, chrf = translation_metrics()
    sources = [samples.source(int(row)) for row in rows]
    references = [samples.references[int(row)] for row in rows]
    began_s = time.perf_counter()
    written = translations_of(opened, sources, samples.end, num_beams, method_name, on_progress)
    seconds = time.perf_counter() - began_s
    tokenizer = samples.tokenizer()
    texts = [text_of(tokenizer, ids) for ids in written]
    examples = zip((text_of(tokenizer, source) for source in sources), texts, references, strict=True)
    return TranslatorQuality(
        model=str(opened.path),
        method=opened.method_or(method_name),
        data=data,
        num_sentences=len(rows),
        num_beams=num_beams,
        bleu=translation_score(bleu, texts, references),
        bleu_signature=str(bleu.get_signature()),
        chrf=translation_score(chrf, texts, references),
        chrf_signature=str(chrf.get_signature()),
        seconds=seconds,
        examples=[list(example) for _, example in zip(range(NUM_EXAMPLES), examples, strict=False)],
    )


def translations_of(
    opened: OpenedModel,
    sources: Sequence[Sequence[int]],
    end: int,
    num_beams: int,
    method_name: str | None = None,
    on_progress: OnProgress | None = None,
) -> list[list[int]]:
    """Return each source's translation, as token ids, by the decoder that inference uses."""
    model = opened.model
    network = Network(model, opened.packed_as(method_name)).eval()
    return translate_with(
        lambda num_tokens: NetworkPrefix(network, model, num_tokens),
        sources,
        end,
        list(map(longest_of, sources)),
        num_beams,
        context_length=model.context_length,
        on_progress=on_progress,
    )
