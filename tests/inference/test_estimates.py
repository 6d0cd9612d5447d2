"""Intervals against scipy, sacrebleu and resampling one text at a time."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from worldsize.inference.estimates import (
    SACREBLEU_RESAMPLES,
    SACREBLEU_SEED,
    accuracy_of,
    difference_of_macro_f1,
    difference_of_translations,
    macro_f1,
    translation_score,
)
from worldsize.inference.scores import classification_quality, confusion, translation_metrics

REFERENCES = [
    "A man is riding a horse .", "Two dogs run over the grass .", "A child eats an apple .", "The old house is red .",
    "People wait for a train .", "She reads a long book .",
]  # fmt: skip
GOOD = [
    "A man is riding a horse .", "Two dogs run on the grass .", "A child eats apples .", "The house is red .",
    "People wait for the train .", "She reads a long letter .",
]  # fmt: skip
POOR = [
    "A man rides .", "Two dogs run on grass .", "A child is eating apples .", "The house is very red .",
    "People wait for the train .", "She reads .",
]  # fmt: skip


@given(st.integers(1, 500).flatmap(lambda num: st.tuples(st.integers(0, num), st.just(num))))
def test_the_interval_of_an_accuracy_is_wilsons(counts: tuple[int, int]) -> None:
    found = accuracy_of(*counts)
    expected = scipy.stats.binomtest(*counts).proportion_ci(0.95, method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert found.low <= found.value == counts[0] / counts[1] <= found.high


def answers(seed: int, num_texts: int, share_right: float) -> tuple[list[int], list[int]]:
    draw = np.random.default_rng(seed)
    classes = draw.integers(3, size=num_texts)
    found = np.where(draw.random(num_texts) < share_right, classes, draw.integers(3, size=num_texts))
    return classes.tolist(), found.tolist()


def test_macro_f1_is_resampled_as_texts_drawn_one_by_one() -> None:
    classes, found = answers(0, 80, 0.7)
    quality = classification_quality(confusion(classes, found, 3), list("abc"))
    estimate = macro_f1(classes, found, 3)
    assert estimate.value == pytest.approx(quality.macro_f1)
    draw = np.random.default_rng(5)
    drawn = [draw.integers(80, size=80) for _ in range(2000)]
    pairs = np.array(classes), np.array(found)
    scores = [
        classification_quality(confusion(pairs[0][ids].tolist(), pairs[1][ids].tolist(), 3), list("abc")).macro_f1
        for ids in drawn
    ]
    assert (estimate.low, estimate.high) == pytest.approx(np.quantile(scores, [0.025, 0.975]), abs=0.01)


def test_models_that_answer_alike_differ_by_nothing_and_others_by_less_than_apart() -> None:
    """What both get wrong is no uncertainty of their difference."""
    classes, found = answers(1, 200, 0.6)
    same = difference_of_macro_f1(classes, found, found, 3)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    other = [0, *found[1:]] if found[0] else [1, *found[1:]]
    change = difference_of_macro_f1(classes, found, other, 3)
    alone = macro_f1(classes, found, 3)
    assert change.value == pytest.approx(macro_f1(classes, other, 3).value - alone.value)
    assert change.high - change.low < 0.3 * (alone.high - alone.low)


@pytest.mark.parametrize("which", [0, 1])
def test_translations_are_resampled_as_sacrebleu_does(which: int) -> None:
    """Its paired bootstrap gives mean and half width of a system; ours are the percentiles of the same draws."""
    pytest.importorskip("sacrebleu")
    from sacrebleu.significance import PairedTest

    metric = translation_metrics()[which]
    found = translation_score(metric, GOOD, REFERENCES)
    test = PairedTest(
        [("poor", POOR), ("good", GOOD)], {"score": translation_metrics()[which]}, [REFERENCES], test_type="bs"
    )
    (theirs,) = (systems[1] for name, systems in test()[1].items() if name != "System")
    assert found.value == pytest.approx(theirs.score)
    assert (found.high - found.low) / 2 == pytest.approx(theirs.ci, rel=0.05)


@pytest.mark.parametrize("which", [0, 1])
def test_a_difference_draws_the_same_sentences_for_both(which: int) -> None:
    """Against the library's public function on sentences written out once for each time that they were drawn."""
    pytest.importorskip("sacrebleu")
    metric = translation_metrics()[which]
    found = difference_of_translations(metric, POOR, GOOD, REFERENCES)

    def score(texts: list[str], ids: np.ndarray) -> float:
        return float(metric.corpus_score([texts[i] for i in ids], [[REFERENCES[i] for i in ids]]).score)

    draw = np.random.default_rng(SACREBLEU_SEED)
    drawn = draw.choice(len(REFERENCES), size=(SACREBLEU_RESAMPLES, len(REFERENCES)), replace=True)
    changes = [score(GOOD, ids) - score(POOR, ids) for ids in drawn]
    everything = np.arange(len(REFERENCES))
    assert found.value == pytest.approx(score(GOOD, everything) - score(POOR, everything))
    assert (found.low, found.high) == pytest.approx(np.quantile(changes, [0.025, 0.975]))
    assert found.low > 0
