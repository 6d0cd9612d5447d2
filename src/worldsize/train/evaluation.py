"""What is known of a model on held-out data: its loss, and what its task asks for. Called on every rank."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import numpy as np
import torch

from worldsize.data.batch import Batch, Samples
from worldsize.data.classification import Classification
from worldsize.data.language_modelling import LanguageModelling
from worldsize.data.translation import Translation
from worldsize.inference.scores import (
    bits_per_byte,
    classification_quality,
    confusion,
    num_text_bytes,
    perplexity,
    translation_scores,
)
from worldsize.inference.translate import longest_of, text_of, translate
from worldsize.launch.progress import Progress
from worldsize.models.build import build
from worldsize.records import ClassificationQuality, Evaluation, TranslationQuality
from worldsize.train.loss import loss_sum
from worldsize.train.running import Running

NUM_EXAMPLES = 5


def evaluate(running: Running, held_out: Samples, done: int) -> Evaluation:
    """Evaluate on the same held-out samples whatever the layout, spread over the ranks."""
    if isinstance(held_out, Classification):
        return _evaluate_classes(running, held_out, done)
    total, num_targets, num_tokens = 0.0, 0, 0
    for batch, counts in _batches(running, held_out):
        batch_loss = float(running.strategy.evaluate(batch.to(running.context.device)))
        if counts:
            total += batch_loss
            num_targets += batch.num_target_tokens
            num_tokens += batch.num_tokens
    by_rank = running.context.gather((total, num_targets, num_tokens))
    total, num_targets, num_tokens = (sum(part) for part in zip(*by_rank, strict=True))
    loss = total / num_targets
    num_bytes = _num_bytes(running, held_out) if isinstance(held_out, LanguageModelling) else None
    return Evaluation(
        step=done,
        loss=loss,
        num_tokens=num_tokens,
        perplexity=perplexity(loss),
        bits_per_byte=bits_per_byte(total, num_bytes) if num_bytes else None,
    )


def _num_evaluated(running: Running, held_out: Samples) -> int:
    return min(running.config.train.eval_samples, held_out.num_samples)


def _batches(running: Running, held_out: Samples) -> Iterator[tuple[Batch, bool]]:
    """Yield this rank's micro batches of the held-out samples, and whether each counts.

    Where shards are gathered for a forward, all ranks must run as many: a rank that has fewer repeats what it does not
    count.
    """
    context, micro_batch = running.context, running.config.train.micro_batch
    assert micro_batch is not None
    num_ranks = context.layout.num_data_ranks
    parts = np.array_split(np.arange(_num_evaluated(running, held_out)), num_ranks)
    most = max(math.ceil(len(part) / micro_batch) for part in parts)
    mine = parts[context.data_rank]
    for index in range(most):
        ids = mine[index * micro_batch : (index + 1) * micro_batch]
        yield held_out.batch(ids if len(ids) else np.zeros(1, dtype=np.int64), 1), len(ids) > 0 and context.counts


def _num_bytes(running: Running, held_out: LanguageModelling) -> int:
    ids = held_out.target_ids(np.arange(_num_evaluated(running, held_out)))
    return num_text_bytes(held_out.tokenizer(), ids.tolist())


def _evaluate_classes(running: Running, held_out: Classification, done: int) -> Evaluation:
    """Evaluate a classifier: loss and confusion matrix from one forward."""
    num_classes = len(held_out.labels)
    total, num_tokens = 0.0, 0
    counted = np.zeros((num_classes, num_classes), dtype=np.int64)
    for batch, counts in _batches(running, held_out):
        on_device = batch.to(running.context.device)
        logits_BK = running.strategy.logits(on_device)[:, :num_classes]
        if counts:
            total += float(loss_sum(logits_BK, on_device.targets_BT))
            num_tokens += batch.num_tokens
            counted += confusion(batch.targets_BT.tolist(), logits_BK.argmax(-1).tolist(), num_classes)
    by_rank = running.context.gather((total, num_tokens, counted))
    total, num_tokens, counted = (sum(part) for part in zip(*by_rank, strict=True))
    quality: ClassificationQuality = classification_quality(counted, held_out.labels)
    return Evaluation(step=done, loss=total / int(counted.sum()), num_tokens=num_tokens, classification=quality)


def translate_held_out(running: Running, held_out: Translation) -> TranslationQuality:
    """Translate the first held-out rows, spread over all ranks, and score them; the scores are the same on every rank.

    Each rank builds the whole model for itself, from the strategy's weights, so that any strategy can be asked.
    """
    config, context = running.config, running.context
    running.where.stage = "translating"
    running.say(Progress("evaluating", config.train.steps, config.train.steps, note="translating held-out text"))
    model = build(config.model, config.train.seed, context.device)
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in running.strategy.full_parameters():
            own[name].copy_(tensor)
    num_rows = min(config.train.eval_translations, held_out.num_rows)
    mine = range(context.rank, num_rows, context.world_size)
    began_s = time.perf_counter()
    sources = [held_out.source(index) for index in mine]
    longest = list(map(longest_of, sources))
    ids = translate(model.eval(), sources, held_out.end, longest, config.train.eval_beams)
    tokenizer = held_out.tokenizer()
    texts = {index: text_of(tokenizer, found) for index, found in zip(mine, ids, strict=True)}
    by_rank = context.gather((texts, time.perf_counter() - began_s))
    merged = {index: text for texts, _ in by_rank for index, text in texts.items()}
    translations = [merged[index] for index in range(num_rows)]
    references = list(held_out.references[:num_rows])
    examples = [
        [tokenizer.decode(held_out.source(index)), translations[index], references[index]]
        for index in range(min(NUM_EXAMPLES, num_rows))
    ]
    return TranslationQuality(
        num_sentences=num_rows,
        num_beams=config.train.eval_beams,
        seconds=max(seconds for _, seconds in by_rank),
        examples=examples,
        **translation_scores(translations, references),
    )
