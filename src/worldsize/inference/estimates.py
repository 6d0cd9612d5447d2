"""Intervals of what is measured on held-out data, and of differences between two models on the same data.

Bootstraps draw windows, texts or sentences with replacement (Efron & Tibshirani, An Introduction to the Bootstrap,
ch. 13). Those of a difference draw both models' results together: what makes a text hard for both says nothing of
their difference.

Letters: R resamples, C kinds of texts (equal class and equal answers), K classes, S sentences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from worldsize.inference.quality_records import Estimate
from worldsize.inference.scores import f1_by_class
from worldsize.measure.statistics import NUM_RESAMPLES, percentiles, wilson

SACREBLEU_RESAMPLES, SACREBLEU_SEED = 1000, 12345
"""What sacrebleu draws, unless its environment variable says otherwise."""


def accuracy_of(num_right: int, num_texts: int) -> Estimate:
    """Return an accuracy with Wilson's interval."""
    low, high = wilson(num_right, num_texts)
    return Estimate(value=num_right / num_texts, low=low, high=high)


def difference_of_means(
    sums: tuple[np.ndarray, np.ndarray], num: np.ndarray, measure: Callable[[np.ndarray], np.ndarray]
) -> Estimate:
    """Return measure(mean of the second) - measure(mean of the first).

    `sums` and `num` hold a value a window: a model's sum over the window's predictions, and how many they are.
    """
    drawn = np.random.default_rng(0).integers(len(num), size=(NUM_RESAMPLES, len(num)))
    counts = num[drawn].sum(1)
    estimates = measure(sums[1][drawn].sum(1) / counts) - measure(sums[0][drawn].sum(1) / counts)
    return _estimate(float(measure(sums[1].sum() / num.sum()) - measure(sums[0].sum() / num.sum())), estimates)


def macro_f1(classes: Sequence[int], found: Sequence[int], num_classes: int) -> Estimate:
    """Return the macro F1 of answers."""
    return difference_of_macro_f1(classes, None, found, num_classes)


def difference_of_macro_f1(
    classes: Sequence[int], original: Sequence[int] | None, found: Sequence[int], num_classes: int
) -> Estimate:
    """Return the macro F1 of the answers `found` minus that of `original`; of None nothing is taken off."""
    texts = [classes, found] if original is None else [classes, found, original]
    kinds, counts_C = np.unique(np.asarray(texts, dtype=np.int64), axis=1, return_counts=True)
    num_texts = int(counts_C.sum())
    drawn_RC = np.random.default_rng(0).multinomial(num_texts, counts_C / num_texts, size=NUM_RESAMPLES)
    measured = [
        _macro_f1_of(np.vstack((counts_C, drawn_RC)), kinds[0], of_model, num_classes) for of_model in kinds[1:]
    ]
    whole, *estimates = measured[0] - (measured[1] if original is not None else 0.0)
    return _estimate(float(whole), np.asarray(estimates))


def _macro_f1_of(counts_RC: np.ndarray, classes_C: np.ndarray, found_C: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the macro F1 of each resample, from how often it holds each kind of text."""
    is_class_CK = np.equal.outer(classes_C, np.arange(num_classes))
    is_found_CK = np.equal.outer(found_C, np.arange(num_classes))
    right_RK = counts_RC @ (is_class_CK & is_found_CK)
    means: np.ndarray = f1_by_class(right_RK, counts_RC @ is_class_CK + counts_RC @ is_found_CK).mean(-1)
    return means


def translation_score(metric: Any, translations: Sequence[str], references: Sequence[str]) -> Estimate:
    """Return the corpus score of one of sacrebleu's metrics, one reference a sentence."""
    return difference_of_translations(metric, None, translations, references)


def difference_of_translations(
    metric: Any, original: Sequence[str] | None, translations: Sequence[str], references: Sequence[str]
) -> Estimate:
    """Return the score of `translations` minus that of `original`; of None nothing is taken off.

    The draws are those of sacrebleu's own paired bootstrap, which gives a p-value but no interval of the difference.
    What a sentence adds to the score and what the sums give are private names of sacrebleu.
    """
    size = (SACREBLEU_RESAMPLES, len(references))
    drawn_RS = np.random.default_rng(SACREBLEU_SEED).choice(len(references), size=size, replace=True)
    counts_RS = np.stack([np.bincount(drawn_S, minlength=len(references)) for drawn_S in drawn_RS])
    measured = [
        _scores(metric, np.vstack((np.ones_like(counts_RS[:1]), counts_RS)), texts, references)
        for texts in (translations, original)
        if texts is not None
    ]
    whole, *estimates = measured[0] - (measured[1] if original is not None else 0.0)
    return _estimate(float(whole), np.asarray(estimates))


def _scores(metric: Any, counts_RS: np.ndarray, texts: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """Return the score of each resample, from how often it holds each sentence."""
    statistics = np.asarray(metric._extract_corpus_statistics(list(texts), [list(references)]))
    return np.array([metric._compute_score_from_stats(sums).score for sums in (counts_RS @ statistics).tolist()])


def _estimate(value: float, estimates: np.ndarray) -> Estimate:
    low, high = percentiles(estimates)
    return Estimate(value=value, low=min(low, value), high=max(high, value))
