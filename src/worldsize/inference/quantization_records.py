"""What `worldsize quantize --json` prints and quantization.json holds. Torch-free."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from worldsize.inference.quality_records import Estimate
from worldsize.records import Record

REPORT = "quantization.json"


class Sizes(Record):
    """Bytes of a model's folder on disk."""

    weights_bytes: int = Field(
        description="tensors that stand for parameters, their scales included; a shared one once"
    )
    buffers_bytes: int = Field(description="other tensors, such as masks and position tables")
    rest_bytes: int = Field(description="everything else: headers, JSON, the tokenizer")

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.buffers_bytes + self.rest_bytes


class Judged(Record):
    """A second figure of quality, of both models on the same held-out data."""

    name: str = Field(description="'macro F1' or 'chrF'")
    original: float
    quantized: float
    difference: Estimate = Field(description="quantized minus original, paired")


class QuantizedRow(Record):
    """A method whose saved folder was loaded in a new process, ran, and was compared with the original."""

    method: str
    about: str
    folder: str = Field(description="a MODEL for generate, evaluate and bench")
    sizes: Sizes
    fp32_bytes: int = Field(description="of the parameters in fp32, a tied head counted once")
    size_ratio: float = Field(description="weights and buffers over fp32_bytes")
    share_quantized: float = Field(ge=0, le=1, description="of the parameters that did not stay in fp32")
    kl: float = Field(description="mean Kullback-Leibler divergence of the predictions from the original's, nats")
    top1: float = Field(ge=0, le=1, description="share of predictions whose likeliest outcome is the original's")
    loss: Estimate = Field(description="difference of the mean negative log-likelihood, nats a prediction")
    original: float = Field(description="perplexity, accuracy or BLEU of the original, in fp32")
    quantized: float = Field(description="the same of the quantized model")
    difference: Estimate = Field(
        description="quantized minus original; by a bootstrap over windows, texts or sentences that keeps the pairs"
    )
    more: list[Judged] = Field(default_factory=list, description="macro F1 beside accuracy, chrF beside BLEU")
    confusion: list[list[int]] | None = Field(
        None, description="quantized classifier: texts of true class i (line) taken for class j (column)"
    )


class Refused(Record):
    """A method that yields no row."""

    method: str
    reason: str


class QuantizationReport(Record):
    """quantization.json."""

    schema_version: int = 1
    model: str
    num_parameters: int
    quality: Literal["perplexity", "accuracy", "BLEU"]
    data: str = Field(description="what was predicted")
    num_windows: int = Field(description="of text; of a classifier texts, of translation sentences")
    num_predictions: int
    labels: list[str] = Field(default_factory=list, description="a classifier's classes")
    signatures: list[str] = Field(default_factory=list, description="sacrebleu's, of BLEU and of chrF")
    kernels: str | None = Field(description="None where the compiled kernels ran, or why they did not")
    rows: list[QuantizedRow]
    refused: list[Refused]
