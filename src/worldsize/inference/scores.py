"""How good predictions are: accuracy and macro F1 of classes, bits per byte of text, BLEU and chrF of translations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from worldsize.errors import UserError
from worldsize.records import ClassificationQuality

if TYPE_CHECKING:
    from worldsize.data.tokenizer import Tokenizer

LARGEST_EXPONENT = 700.0
"""exp of more is no finite float64."""


def confusion(classes: Sequence[int], predicted: Sequence[int], num_classes: int) -> np.ndarray:
    """Return counts (num_classes, num_classes): row i, column j is how many of class i were taken for class j."""
    counts = np.zeros((num_classes, num_classes), dtype=np.int64)
    np.add.at(counts, (np.asarray(classes, dtype=np.int64), np.asarray(predicted, dtype=np.int64)), 1)
    return counts


def classification_quality(counts: np.ndarray, labels: Sequence[str]) -> ClassificationQuality:
    """Return accuracy and macro F1 of a confusion matrix. The F1 of a class that never occurs nor is predicted is 0."""
    right = np.diag(counts)
    return ClassificationQuality(
        accuracy=float(right.sum() / counts.sum()),
        macro_f1=float(f1_by_class(right, counts.sum(0) + counts.sum(1)).mean()),
        labels=list(labels),
        confusion=[[int(count) for count in row] for row in counts],
    )


def f1_by_class(right: np.ndarray, either: np.ndarray) -> np.ndarray:
    """Return each class's F1, from its texts that were found and its texts plus those taken for it; 0 without any."""
    f1: np.ndarray = np.divide(2 * right, either, out=np.zeros(right.shape), where=either > 0)
    return f1


def perplexity(loss: float) -> float | None:
    """Return exp(loss), the loss in nats a token; None where it is no finite number."""
    return math.exp(loss) if loss < LARGEST_EXPONENT else None


def bits_per_byte(loss_sum_nats: float, num_bytes: int) -> float:
    """Return a text's summed loss in bits over its length in bytes of UTF-8: the same unit for every tokenizer."""
    return loss_sum_nats / math.log(2) / num_bytes


def num_text_bytes(tokenizer: Tokenizer, ids: Sequence[int]) -> int:
    """Return the bytes of the text that tokens stand for; tokens between documents stand for none."""
    return len(tokenizer.decode([int(i) for i in ids if i != tokenizer.end_of_text]).encode())


def translation_scores(translations: Sequence[str], references: Sequence[str]) -> dict[str, float | str]:
    """Return corpus BLEU and chrF (0-100) with sacrebleu's signatures, one reference a sentence.

    Raises UserError without the extra `eval`.
    """
    bleu, chrf = translation_metrics()
    found_bleu = bleu.corpus_score(list(translations), [list(references)])
    found_chrf = chrf.corpus_score(list(translations), [list(references)])
    return {
        "bleu": float(found_bleu.score),
        "bleu_signature": str(bleu.get_signature()),
        "chrf": float(found_chrf.score),
        "chrf_signature": str(chrf.get_signature()),
    }


def translation_metrics() -> tuple[Any, Any]:
    """Return sacrebleu's BLEU and chrF, as they are by default. Raises UserError without the extra `eval`."""
    try:
        from sacrebleu import metrics
    except ImportError as error:
        raise UserError(
            "BLEU and chrF need the extra 'eval': pip install 'worldsize[eval]'; training does without them with "
            "train.eval_translations=0."
        ) from error
    library: Any = metrics
    return library.BLEU(), library.CHRF()


def translation_signatures() -> list[str]:
    """Return sacrebleu's signatures of BLEU and chrF with one reference; it gives them to what it scored."""
    scores = translation_scores(["a"], ["a"])
    return [str(scores["bleu_signature"]), str(scores["chrf_signature"])]
