"""The table of `--stats`."""

from __future__ import annotations

from rich.table import Table

from valley2_edge.byte_count import format_bytes
from valley2_edge.runtime.stats import Statistics


def stats_table(statistics: Statistics, sampled: bool) -> Table:
    """What one answer cost, a row for each stage.

    Args:
        statistics: Statistics of the answer.
        sampled: Whether its tokens were drawn, so that the seed matters.
    """
    table = Table("stage", "amount", "seconds", "speed")
    if statistics.pictures:
        _add_vision(table, statistics)
    if statistics.prefill_seconds:
        table.add_row(
            "prefill",
            f"{statistics.prompt_tokens} positions, {statistics.text_tokens} of text",
            _seconds(statistics.prefill_seconds),
            _speed(statistics.prompt_tokens - statistics.reused_tokens, statistics.prefill_seconds, "tokens/s"),
        )
    if statistics.reused_tokens:
        kept = f"{statistics.reused_tokens} positions, {format_bytes(statistics.prefix_cache_bytes)} kept"
        table.add_row("reused", kept, "", "")
    if statistics.decode_seconds:
        table.add_row(
            "answer",
            f"{statistics.new_tokens} tokens",
            _seconds(statistics.decode_seconds),
            _speed(statistics.new_tokens, statistics.decode_seconds, "tokens/s"),
        )
    if statistics.drafted_tokens:
        share = f"{statistics.accepted_tokens} of {statistics.drafted_tokens} drafted tokens"
        table.add_row("accepted", share, "", f"{statistics.tokens_per_step:.2f} tokens/step")
    if statistics.first_token_seconds is not None:
        table.add_row("first-token", "", _seconds(statistics.first_token_seconds), "")
    table.add_row(
        "total", f"ended by {_ENDS.get(statistics.stop or '', 'an error')}", _seconds(statistics.total_seconds), ""
    )
    table.add_row("context", f"{statistics.context_used} of {statistics.context_length} positions", "", "")
    table.add_row("KV cache", format_bytes(statistics.kv_bytes), "", "")
    if statistics.peak_memory_bytes is not None:
        table.add_row("peak memory", format_bytes(statistics.peak_memory_bytes), "", "")
    if sampled:
        table.add_row("seed", str(statistics.seed), "", "")
    return table


def _add_vision(table: Table, statistics: Statistics) -> None:
    """The stages of the pictures that ran: an error or embeddings that were known leave some out."""
    pictures = "1 picture" if statistics.pictures == 1 else f"{statistics.pictures} pictures"
    if statistics.vision_load_seconds:
        table.add_row("vision load", "", _seconds(statistics.vision_load_seconds), "")
    table.add_row("preprocess", pictures, _seconds(statistics.preprocess_seconds), "")
    siglip_seconds = statistics.siglip_seconds + statistics.projector_seconds
    if siglip_seconds:
        table.add_row(
            "SigLIP",
            f"{statistics.tiles} tiles, {statistics.siglip_tokens} tokens",
            _seconds(siglip_seconds),
            _speed(statistics.tiles, siglip_seconds, "tiles/s"),
        )
    if statistics.vocabulary_share is not None:
        used = f"{statistics.vocabulary_share:.1%} used, at most {statistics.dropped_mass:.1e} left out"
        table.add_row("visual vocabulary", used, "", "")
    if statistics.eagle_seconds:
        table.add_row("Eagle", f"{statistics.eagle_tokens} tokens", _seconds(statistics.eagle_seconds), "")
    if statistics.vision_cache_bytes:
        known = f"{statistics.vision_cache_hits} of {pictures} known, {format_bytes(statistics.vision_cache_bytes)}"
        table.add_row("vision cache", known, "", "")


_ENDS = {
    "token": "the model",
    "length": "--max-new-tokens",
    "context": "a full context",
    "cancelled": "cancellation",
    "stopped": "the caller",
}


def _seconds(seconds: float) -> str:
    return f"{seconds:.3f}"


def _speed(amount: int, seconds: float, unit: str) -> str:
    return f"{amount / seconds:.1f} {unit}" if seconds else ""
