"""The report's row of a quantized model: what another process found, as figures with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from worldsize.data.classification import Classification
from worldsize.data.translation import Translation
from worldsize.inference.compare import Comparison, Sums
from worldsize.inference.estimates import (
    difference_of_macro_f1,
    difference_of_means,
    difference_of_translations,
    macro_f1,
)
from worldsize.inference.held_out import HeldOut
from worldsize.inference.methods import Method
from worldsize.inference.open_model import OpenedModel
from worldsize.inference.packing import share_quantized
from worldsize.inference.quantization_records import Judged, QuantizedRow, Sizes
from worldsize.inference.scores import confusion, translation_metrics
from worldsize.inference.translate import text_of
from worldsize.models.cost import FP32_BYTES, num_parameters


def row_of(
    opened: OpenedModel, method: Method, folder: Path, sizes: Sizes, found: Comparison, data: HeldOut
) -> QuantizedRow:
    """Return the report's row of what was found."""
    num = np.asarray(found.sums.num_predictions)
    figure, *more = _figures(found, data)
    before = fp32_bytes(opened)
    return QuantizedRow(
        method=method.name,
        about=method.about,
        folder=str(folder),
        sizes=sizes,
        fp32_bytes=before,
        size_ratio=(sizes.weights_bytes + sizes.buffers_bytes) / before,
        share_quantized=share_quantized(opened.model, method),
        kl=max(0.0, sum(found.sums.kl) / int(num.sum())),
        top1=sum(found.sums.same_top1) / int(num.sum()),
        loss=difference_of_means(_losses(found.sums), num, np.asarray),
        original=figure.original,
        quantized=figure.quantized,
        difference=figure.difference,
        more=more,
        confusion=_confusion(found, data),
    )


def fp32_bytes(opened: OpenedModel) -> int:
    """Return the bytes of a model's parameters in fp32."""
    return FP32_BYTES * num_parameters(opened.model)


def _losses(sums: Sums) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(sums.loss_original), np.asarray(sums.loss_quantized)


def _figures(found: Comparison, data: HeldOut) -> list[Judged]:
    """Return what the quality of the two models is, the report's own figure first."""
    if isinstance(data.samples, Classification):
        return _of_classes(found, data, len(data.samples.labels))
    if isinstance(data.samples, Translation):
        return _of_translations(found, data.samples, data.rows)
    losses, num = _losses(found.sums), np.asarray(found.sums.num_predictions)
    original, quantized = (float(np.exp(loss.sum() / num.sum())) for loss in losses)
    difference = difference_of_means(losses, num, np.exp)
    return [Judged(name=data.quality, original=original, quantized=quantized, difference=difference)]


def _of_classes(found: Comparison, data: HeldOut, num_classes: int) -> list[Judged]:
    classes = data.targets.tolist()
    right = np.asarray(found.sums.right_original), np.asarray(found.sums.right_quantized)
    answers = found.classes_original, found.classes_quantized
    f1 = [macro_f1(classes, of_model, num_classes).value for of_model in answers]
    return [
        Judged(
            name=data.quality,
            original=float(right[0].mean()),
            quantized=float(right[1].mean()),
            difference=difference_of_means(right, np.asarray(found.sums.num_predictions), np.asarray),
        ),
        Judged(
            name="macro F1",
            original=f1[0],
            quantized=f1[1],
            difference=difference_of_macro_f1(classes, *answers, num_classes),
        ),
    ]


def _of_translations(found: Comparison, samples: Translation, rows: Sequence[int]) -> list[Judged]:
    tokenizer = samples.tokenizer()
    references = [samples.references[row] for row in rows]
    original, quantized = (
        [text_of(tokenizer, ids) for ids in written]
        for written in (found.translations_original, found.translations_quantized)
    )
    return [
        Judged(
            name=name,
            original=metric.corpus_score(original, [references]).score,
            quantized=metric.corpus_score(quantized, [references]).score,
            difference=difference_of_translations(metric, original, quantized, references),
        )
        for name, metric in zip(("BLEU", "chrF"), translation_metrics(), strict=True)
    ]


def _confusion(found: Comparison, data: HeldOut) -> list[list[int]] | None:
    """Return the quantized classifier's confusion matrix; None of other models."""
    if not isinstance(data.samples, Classification):
        return None
    counts = confusion(data.targets.tolist(), found.classes_quantized, len(data.samples.labels))
    return [[int(count) for count in row] for row in counts]
