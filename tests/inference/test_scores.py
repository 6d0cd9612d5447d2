"""Scores against hand-computed values and sacrebleu's own functions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldsize.data.tokenizer import ByteTokenizer
from worldsize.inference.scores import (
    bits_per_byte,
    classification_quality,
    confusion,
    num_text_bytes,
    perplexity,
    translation_scores,
)


def test_accuracy_and_macro_f1_by_hand() -> None:
    counts = confusion([0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 0, 0], 3)
    assert counts.tolist() == [[2, 1, 0], [1, 1, 0], [1, 0, 0]]
    quality = classification_quality(counts, ["a", "b", "c"])
    assert quality.accuracy == 3 / 6
    # F1 = 2·right / (true + found): 4/7 of a, 2/4 of b, 0 of c
    assert quality.macro_f1 == pytest.approx((4 / 7 + 1 / 2 + 0) / 3)
    assert quality.confusion == counts.tolist()


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60))
def test_macro_f1_is_the_mean_of_precision_and_recalls_harmonic_means(pairs: list[tuple[int, int]]) -> None:
    classes, found = (list(side) for side in zip(*pairs, strict=True))
    quality = classification_quality(confusion(classes, found, 4), list("abcd"))
    scores = []
    for k in range(4):
        right = sum(c == f == k for c, f in pairs)
        precision = right / found.count(k) if found.count(k) else 0.0
        recall = right / classes.count(k) if classes.count(k) else 0.0
        scores.append(2 * precision * recall / (precision + recall) if right else 0.0)
    assert quality.macro_f1 == pytest.approx(float(np.mean(scores)))
    assert quality.accuracy == pytest.approx(sum(c == f for c, f in pairs) / len(pairs))


def test_perplexity_and_bits_per_byte() -> None:
    assert perplexity(math.log(50)) == pytest.approx(50)
    assert perplexity(800.0) is None
    assert bits_per_byte(8 * math.log(2) * 10, 10) == pytest.approx(8)  # a uniform model of bytes: 8 bits each


def test_equal_models_of_equal_text_have_equal_bits_whatever_their_tokens() -> None:
    text = "grün und blau"
    num_bytes = num_text_bytes(ByteTokenizer(), list(text.encode()))
    assert num_bytes == len(text.encode()) == 14
    as_bytes = sum(math.log(256) for _ in text.encode())
    as_pairs = sum(math.log(256**2) for _ in range(7))  # seven tokens of two bytes each
    assert bits_per_byte(as_bytes, num_bytes) == pytest.approx(bits_per_byte(as_pairs, num_bytes)) == pytest.approx(8)


def test_translations_are_scored_as_sacrebleu_does() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    found, references = ["A man rides a horse .", "two dogs"], ["A man is riding a horse .", "Two dogs run ."]
    scores = translation_scores(found, references)
    assert scores["bleu"] == sacrebleu.corpus_bleu(found, [references]).score
    assert scores["chrf"] == sacrebleu.corpus_chrf(found, [references]).score
    assert str(scores["bleu_signature"]).startswith("nrefs:1|case:mixed|")
    assert "nc:6" in str(scores["chrf_signature"])
    perfect = translation_scores(references, references)
    assert (perfect["bleu"], perfect["chrf"]) == (pytest.approx(100), pytest.approx(100))
