"""What it takes of memory to measure a text with one bundle or with two that are open at the same time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from valley2_edge.byte_count import format_bytes
from valley2_edge.errors import BudgetError
from valley2_edge.eval.passages import Passage, Window
from valley2_edge.options import DEFAULT_FRAMES, LoadOptions, SessionOptions
from valley2_edge.policy import Policy
from valley2_edge.runtime.cancellation import CancelToken
from valley2_edge.runtime.core import prompt
from valley2_edge.runtime.core.context_room import picture_tokens
from valley2_edge.runtime.core.memory import MemorySettings, Size
from valley2_edge.runtime.core.process_memory import resident_bytes
from valley2_edge.runtime.inquiry import LOGIT_ROWS
from valley2_edge.runtime.media.sources import load_pictures, sort_sources
from valley2_edge.runtime.model import Valley2
from valley2_edge.runtime.planning import plan_bundle

_LOGIT_BYTES = 4 * (2 + 1)
"""Bytes of a logit in a block: the core holds the last block and the next one, and Python a copy."""
_SHARED_BYTES = 64 << 20
"""Probabilities of some rows in float64, and freed memory that allocators keep."""
_STEP = 64 << 20
"""A refusal names the memory that would do rounded up to this."""


def check_text_memory(
    models: Sequence[tuple[Valley2, LoadOptions, str]], passages: Sequence[Passage], limit_bytes: int
) -> None:
    """Refuses passages for which the memory does not suffice; all bundles count, for all are open at once.

    Args:
        models: Each loaded model, the options that it was loaded with, and the precision of its KV cache.
        passages: What is to be measured; their pictures are read once for their sizes.
        limit_bytes: Most memory of the whole process.

    Raises:
        BudgetError: More memory is needed; the sentence says how much for each bundle.
        InputError: A picture is unusable.
    """
    longest = _longest_by_pictures(models[0][0], passages)
    needs = [_needed_bytes(*one, longest) for one in models]
    total = resident_bytes() + _SHARED_BYTES + sum(needs)
    if total <= limit_bytes:
        return
    names = " and ".join(str(model.bundle.directory) for model, _, _ in models)
    parts = " and ".join(format_bytes(need) for need in needs)
    fitting = -(-total // _STEP) * (_STEP >> 20)
    raise BudgetError(
        f"{names} {'are open at the same time and need' if len(models) > 1 else 'needs'} {format_bytes(total)} of "
        f"memory, {parts} of it for {'each of them' if len(models) > 1 else 'the model'}, more than the "
        f"{format_bytes(limit_bytes)} that this process may take; {fitting}MiB would do."
    )


def _longest_by_pictures(model: Valley2, passages: Sequence[Passage]) -> dict[tuple[tuple[Size, ...], bool], int]:
    """The most positions of passages with the same sizes of pictures, by the sizes and whether they are frames."""
    longest: dict[tuple[tuple[Size, ...], bool], int] = {}
    sizes: tuple[Size, ...]
    architecture, tokenizer = model.engines.architecture, model.engines.tokenizer
    policy = Policy()
    layout = prompt.Layout(policy, architecture.picture.use_special_start_end_token)
    for passage in passages:
        if isinstance(passage, Window):
            sizes, video, positions = (), False, 1 + len(passage.tokens)
        else:
            images, clip = sort_sources(passage.images, passage.video)
            pictures = load_pictures(images, clip, DEFAULT_FRAMES, policy, CancelToken())
            sizes, video = tuple((picture.shape[1], picture.shape[0]) for picture in pictures), clip is not None
            parts = prompt.build_first_turn(passage.prompt, len(sizes), None, layout)
            answer = prompt.encode_answer(passage.answer, tokenizer, architecture.stop_tokens[0])
            positions = len(prompt.encode(parts, tokenizer)) + len(answer)
            positions += picture_tokens(Counter(sizes), policy, architecture, video=video)
        key = (sizes, video)
        longest[key] = max(longest.get(key, 0), positions)
    return longest


def _needed_bytes(
    model: Valley2, load: LoadOptions, kv_precision: str, longest: dict[tuple[tuple[Size, ...], bool], int]
) -> int:
    """Memory of one model at its passages' peak, without what the process has already."""
    decoder = model.engines.architecture.decoder
    peaks = []
    for (sizes, video), positions in longest.items():
        context = min(positions, decoder.max_position_embeddings)
        settings = MemorySettings.of(load, SessionOptions(context_length=context, kv_precision=kv_precision))
        plan = plan_bundle(model.bundle, sizes, settings, video=video, process_bytes=0)
        peaks.append(plan.peak_bytes)
    return max(peaks) + LOGIT_ROWS * decoder.vocab_size * _LOGIT_BYTES
