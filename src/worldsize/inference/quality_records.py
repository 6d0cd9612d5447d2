"""What `worldsize evaluate --json` prints: a record for each task. Torch-free."""

from __future__ import annotations

from pydantic import Field

from worldsize.records import Record


class Estimate(Record):
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float


class Quality(Record):
    """What `worldsize evaluate --json` prints of a model of running text."""

    model: str
    method: str
    data: str
    num_tokens: int = Field(description="predicted tokens: all but the first")
    num_bytes: int = Field(description="bytes of UTF-8 of the text after its first token")
    context_length: int
    stride: int
    loss: float = Field(description="mean negative log-likelihood of a token, nats")
    loss_stderr: float = Field(description="standard error of the loss, tokens taken as independent")
    perplexity: float = Field(description="e to the loss: depends on the tokenizer")
    bits_per_byte: float = Field(
        description="summed negative log-likelihood in bits, over bytes: comparable between tokenizers"
    )


class ClassifierQuality(Record):
    """What `worldsize evaluate --json` prints of a classifier."""

    model: str
    method: str
    data: str
    num_texts: int
    loss: float = Field(description="mean negative log-likelihood of a text's class, nats")
    loss_stderr: float = Field(description="standard error of the loss")
    accuracy: Estimate = Field(description="share of texts whose class is found; Wilson's interval")
    macro_f1: Estimate = Field(description="mean F1 of the classes; the interval by a bootstrap over texts")
    labels: list[str] = Field(description="names of the classes")
    confusion: list[list[int]] = Field(description="texts of true class i (line) taken for class j (column)")


class TranslatorQuality(Record):
    """What `worldsize evaluate --json` prints of a model that translates."""

    model: str
    method: str
    data: str
    num_sentences: int
    num_beams: int = Field(description="hypotheses that decoding kept; 1 = greedy")
    bleu: Estimate = Field(description="corpus BLEU, 0-100; the interval by sacrebleu's bootstrap over sentences")
    bleu_signature: str
    chrf: Estimate = Field(description="chrF, 0-100; the interval likewise")
    chrf_signature: str
    seconds: float = Field(description="wall time of decoding")
    examples: list[list[str]] = Field(description="the first few: source, translation, reference")
