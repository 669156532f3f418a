"""How well a bundle predicts a text, and how far its predictions are from those of another bundle of the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from valley2_edge.errors import InputError, NumericError
from valley2_edge.eval.compare import check_comparable
from valley2_edge.eval.distributions import kl_divergences, log_probabilities
from valley2_edge.eval.intervals import Estimate, bootstrap_percentiles, bootstrap_ratio
from valley2_edge.eval.passages import Passage, Window
from valley2_edge.runtime.core.prompt import encode_answer
from valley2_edge.runtime.inquiry import Inquiry
from valley2_edge.runtime.model import Valley2

PERCENTILES = (50, 90, 99)
"""The percentiles of KL that are measured."""
_ROWS = 8
"""Rows whose probabilities are in memory at a time: 10 MB for each intermediate result with Qwen2.5's vocabulary."""
_LARGEST_LOSS = 700.0
"""Mean loss in nats above which the perplexity is no number of float64."""

Logits = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Progress = Callable[[int, int], None]
"""Called with the passages that are measured and their total."""


@dataclass(frozen=True)
class Distance:
    """How far a bundle is from the reference, at the same tokens; the intervals are bootstraps over passages."""

    reference_perplexity: Estimate
    perplexity_ratio: Estimate
    """The bundle's perplexity divided by the reference's."""
    mean_kl: Estimate
    """Mean KL(reference || bundle) over all tokens, in nats."""
    same_top: Estimate
    """Share of the tokens at which both find the same token the likeliest."""
    kl_percentiles: Mapping[int, Estimate]
    """The KL that so many per cent of the tokens do not exceed, by per cent."""
    largest_kl: float
    """The largest KL of a token. It has no interval: no bootstrap draws a value beyond the largest that was seen."""


@dataclass(frozen=True)
class TextMeasure:
    """How well a bundle predicts passages; with one passage alone the intervals have no width and mean nothing."""

    passages: int
    tokens: int
    """Number of tokens that were predicted."""
    perplexity: Estimate
    """exp of the mean loss; the interval is a bootstrap over passages."""
    distance: Distance | None
    """None without a reference."""


@dataclass(frozen=True)
class _Found:
    """What was measured at the n tokens of a passage."""

    loss: Floats
    """(n,): the bundle's loss, the negative logarithm of the token's probability, in nats."""
    reference_loss: Floats
    """(n,); (0,) without a reference, as the next two."""
    kl: Floats
    same_top: npt.NDArray[np.bool_]


def measure_text(
    model: Valley2,
    passages: Sequence[Passage],
    against: Valley2 | None = None,
    *,
    kv_precision: str = "auto",
    seed: int = 0,
    on_progress: Progress | None = None,
) -> TextMeasure:
    """Measures how well a model predicts passages, each of which it sees alone.

    Both models compute the same passage one after the other, at most 64 positions of logits at a time. Pictures go
    through each bundle's own towers.

    Args:
        model: The model to be measured; loaded with `keep_vision`, it does not load its towers for every picture.
        passages: At least one.
        against: Another bundle of the model, the reference; None measures the perplexity alone.
        kv_precision: Precision of the KV cache of `model`; that of the reference is always the default.
        seed: Random seed of the bootstrap.
        on_progress: Told how many passages are done.

    Raises:
        InputError: There is no passage, a picture is unusable, or the bundles have different tokens.
        BudgetError: A passage is longer than the context, or the memory does not suffice.
        NumericError: A NaN or an infinity; the text names the layer.
    """
    if not passages:
        raise InputError("There is no text to measure.")
    if against is not None:
        check_comparable(against.bundle, model.bundle)
    _check_windows(model, passages)
    found = []
    with ExitStack() as opened:
        reader = opened.enter_context(_Reader(model, kv_precision))
        reference = None if against is None else opened.enter_context(_Reader(against, "auto"))
        for done, passage in enumerate(passages):
            if on_progress is not None:
                on_progress(done, len(passages))
            found.append(_measure(reader, reference, passage))
    if on_progress is not None:
        on_progress(len(passages), len(passages))
    return _summarise(found, seed, against is not None)


def _check_windows(model: Valley2, passages: Sequence[Passage]) -> None:
    context = model.engines.architecture.decoder.max_position_embeddings
    longest = max((1 + len(passage.tokens) for passage in passages if isinstance(passage, Window)), default=0)
    if longest > context:
        raise InputError(f"A window of {longest} tokens is longer than the context of {context}; choose a smaller one.")


class _Reader:
    """Asks one model for its logits at the tokens of passages.

    Args:
        model: The model.
        kv_precision: Precision of its KV cache.
    """

    def __init__(self, model: Valley2, kv_precision: str) -> None:
        self._engines = model.engines
        self._inquiry = Inquiry(model.engines, kv_precision=kv_precision)

    def targets(self, passage: Passage) -> tuple[int, ...]:
        """The ids of the tokens that are predicted; an answer ends with the stop token."""
        if isinstance(passage, Window):
            return passage.tokens
        stop = self._engines.architecture.stop_tokens[0]
        return tuple(encode_answer(passage.answer, self._engines.tokenizer, stop))

    def blocks(self, passage: Passage) -> Iterator[Logits]:
        """The logits for each of `targets`, as blocks of rows (n, vocabulary)."""
        if isinstance(passage, Window):
            yield from self._inquiry.text_logit_blocks(passage.before, passage.tokens)
            return
        try:
            self._inquiry.show(passage.images, video=passage.video)
            yield from self._inquiry.logit_blocks(passage.prompt, self.targets(passage))
        except InputError as error:
            raise InputError(f"{passage.name}: {error}") from error

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *failure: object) -> None:
        self._inquiry.close()


def _measure(reader: _Reader, reference: _Reader | None, passage: Passage) -> _Found:
    targets = np.array(reader.targets(passage))
    if reference is None:
        pieces = [_losses(block) for block in _with_targets(reader.blocks(passage), targets)]
    else:
        both = zip(_with_targets(reader.blocks(passage), targets), reference.blocks(passage), strict=True)
        pieces = [_differences(ours, theirs) for ours, theirs in both]
    return _joined(pieces)


def _with_targets(
    blocks: Iterator[Logits], targets: npt.NDArray[np.int64]
) -> Iterator[tuple[Logits, npt.NDArray[np.int64]]]:
    start = 0
    for block in blocks:
        yield block, targets[start : start + len(block)]
        start += len(block)


def _losses(block: tuple[Logits, npt.NDArray[np.int64]]) -> _Found:
    logits, targets = block
    parts = []
    for start in range(0, len(logits), _ROWS):
        rows = slice(start, start + _ROWS)
        loss = _loss(log_probabilities(logits[rows]), targets[rows])
        parts.append(_Found(loss, np.empty(0), np.empty(0), np.empty(0, np.bool_)))
    return _joined(parts)


def _differences(block: tuple[Logits, npt.NDArray[np.int64]], reference: Logits) -> _Found:
    logits, targets = block
    parts = []
    for start in range(0, len(logits), _ROWS):
        rows = slice(start, start + _ROWS)
        ours, theirs = log_probabilities(logits[rows]), log_probabilities(reference[rows])
        same_top = logits[rows].argmax(axis=1) == reference[rows].argmax(axis=1)
        losses = _loss(ours, targets[rows]), _loss(theirs, targets[rows])
        parts.append(_Found(*losses, kl_divergences(theirs, ours), same_top))
    return _joined(parts)


def _loss(log: Floats, targets: npt.NDArray[np.int64]) -> Floats:
    result: Floats = -log[np.arange(len(targets)), targets]
    return result


def _joined(parts: Sequence[_Found]) -> _Found:
    return _Found(
        np.concatenate([part.loss for part in parts]),
        np.concatenate([part.reference_loss for part in parts]),
        np.concatenate([part.kl for part in parts]),
        np.concatenate([part.same_top for part in parts]),
    )


def _summarise(found: Sequence[_Found], seed: int, compared: bool) -> TextMeasure:
    sizes = [len(one.loss) for one in found]

    def mean(values: Sequence[npt.NDArray[np.float64] | npt.NDArray[np.bool_]]) -> Estimate:
        return bootstrap_ratio([float(one.sum()) for one in values], sizes, seed)

    distance = None
    if compared:
        kl = [one.kl for one in found]
        distance = Distance(
            reference_perplexity=_exp(mean([one.reference_loss for one in found])),
            perplexity_ratio=_exp(mean([one.loss - one.reference_loss for one in found])),
            mean_kl=mean(kl),
            same_top=mean([one.same_top for one in found]),
            kl_percentiles=dict(zip(PERCENTILES, bootstrap_percentiles(kl, PERCENTILES, seed), strict=True)),
            largest_kl=max(float(one.max()) for one in kl),
        )
    return TextMeasure(len(found), sum(sizes), _exp(mean([one.loss for one in found])), distance)


def _exp(estimate: Estimate) -> Estimate:
    limits = (estimate.value, estimate.low, estimate.high)
    if max(limits) > _LARGEST_LOSS:
        raise NumericError(f"The mean loss is {max(limits):.0f} nats a token: such a perplexity is no number.")
    return Estimate(*(math.exp(limit) for limit in limits))
