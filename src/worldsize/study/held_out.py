"""Quality on held-out data after training, over a cell's repeats."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from worldsize.measure.statistics import measured
from worldsize.records import Evaluation, Measured
from worldsize.study.files import Run
from worldsize.study.records import HeldOut


def held_out_of(runs: Sequence[Run]) -> HeldOut | None:
    """Return the last evaluations' quality; None where a run was never evaluated."""
    last = [run.result.evaluations[-1] for run in runs if run.result.evaluations]
    if not last or len(last) < len(runs):
        return None
    classes = [e.classification for e in last if e.classification]
    translations = [e.translation for e in last if e.translation]
    return HeldOut(
        loss=measured([e.loss for e in last]),
        perplexity=_over(last, lambda e: e.perplexity),
        bits_per_byte=_over(last, lambda e: e.bits_per_byte),
        accuracy=_over(last, lambda e: e.classification.accuracy if e.classification else None),
        macro_f1=_over(last, lambda e: e.classification.macro_f1 if e.classification else None),
        bleu=_over(last, lambda e: e.translation.bleu if e.translation else None),
        chrf=_over(last, lambda e: e.translation.chrf if e.translation else None),
        labels=classes[0].labels if classes else [],
        confusion=np.sum([c.confusion for c in classes], axis=0).tolist() if classes else [],
        signatures=[translations[0].bleu_signature, translations[0].chrf_signature] if translations else [],
        examples=translations[0].examples if translations else [],
    )


def _over(evaluations: Sequence[Evaluation], value_of: Callable[[Evaluation], float | None]) -> Measured | None:
    values = [value for e in evaluations if (value := value_of(e)) is not None]
    return measured(values) if len(values) == len(evaluations) else None
