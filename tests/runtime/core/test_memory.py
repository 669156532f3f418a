"""What the planner counts, and what a budget gives up."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from decoder_files import TinyConfig, random_weights, write_decoder

from valley2_edge import Valley2
from valley2_edge.bundle import Bundle, open_bundle
from valley2_edge.bundle_files import MANIFEST_NAME
from valley2_edge.errors import BudgetError, InputError
from valley2_edge.runtime.core.memory import MemoryPlan, MemorySettings, Size, plan_memory
from valley2_edge.runtime.memory_budget import MemoryBudget

MIB = 1 << 20
PHOTO = (4000, 3000)
NO_CACHES: dict[str, Any] = {"vision_cache_bytes": 0, "prefix_cache_bytes": 0}
FULL = MemorySettings(eagle_preset="full", context_length=24_000, **NO_CACHES)


@pytest.fixture(scope="module")
def bundle(int4_bundle: Path) -> Bundle:
    return open_bundle(int4_bundle, check="sizes")


def plan(bundle: Bundle, *pictures: Size, settings: MemorySettings = FULL, **about: bool) -> MemoryPlan:
    return plan_memory(bundle, pictures, settings, process_bytes=100 * MIB, **about)


def budget_of(bundle: Bundle, bytes_beside_process: int) -> MemoryBudget:
    budget = MemoryBudget(bundle, 1)
    budget.limit_bytes = budget.process_bytes + bytes_beside_process
    return budget


def test_larger_pictures_never_take_less(bundle: Bundle) -> None:
    sides = (100, 400, 800, 1600, 2400, 3600)
    peaks = [plan(bundle, (side, side)).peak_bytes for side in sides]
    assert peaks == sorted(peaks) and peaks[-1] > peaks[0]


def test_more_pictures_never_take_less(bundle: Bundle) -> None:
    peaks = [plan(bundle, *[(800, 600)] * count).picture_bytes for count in (2, 3, 4)]
    assert peaks == sorted(set(peaks))


def test_kv_cache_grows_with_the_context(bundle: Bundle) -> None:
    one, two = (plan(bundle, settings=replace(FULL, context_length=count)) for count in (1024, 2048))
    assert two.kv_bytes == 2 * one.kv_bytes > 0
    assert two.peak_bytes > one.peak_bytes


def test_context_of_0_is_the_models_own(bundle: Bundle) -> None:
    most = bundle.manifest.architecture.decoder.max_position_embeddings
    assert plan(bundle, settings=replace(FULL, context_length=0)).context_length == most


def test_kv_cache_in_fp32_takes_twice_that_in_fp16(bundle: Bundle) -> None:
    half, single = (plan(bundle, settings=replace(FULL, kv_precision=name)).kv_bytes for name in ("fp16", "fp32"))
    assert single == 2 * half


@pytest.mark.parametrize(("context", "pages"), [(256, 1), (257, 2), (1024, 4)])
def test_kv_cache_in_int8_has_a_step_for_each_key_and_value(bundle: Bundle, context: int, pages: int) -> None:
    decoder = bundle.manifest.architecture.decoder
    page = decoder.num_hidden_layers * decoder.num_key_value_heads * 2 * 256 * (decoder.head_size + 4)
    planned = plan(bundle, settings=replace(FULL, context_length=context, kv_precision="int8"))
    assert planned.kv_bytes == pages * page


def test_logits_are_those_of_the_longest_draft_and_of_a_prefill(bundle: Bundle, tmp_path: Path) -> None:
    scratch = []
    for vocabulary in (500, 1500):
        directory = tmp_path / str(vocabulary)
        config = TinyConfig(vocab_size=vocabulary)
        write_decoder(directory / "decoder", config, random_weights(config))
        shutil.copy(bundle.directory / MANIFEST_NAME, directory)
        resized = replace(bundle, directory=directory)
        scratch.append(plan(resized, settings=replace(FULL, context_length=256)).scratch_bytes)
    float_bytes, candidate_bytes = 4, 8
    assert scratch[1] - scratch[0] == 1000 * (17 * float_bytes + candidate_bytes)


def test_a_short_chunk_leaves_room_for_a_draft(bundle: Bundle) -> None:
    single, draft, more = (plan(bundle, settings=replace(FULL, prefill_chunk=rows)) for rows in (1, 16, 17))
    assert single.scratch_bytes == draft.scratch_bytes < more.scratch_bytes


def test_keys_that_threads_share_leave_sums_by_the_length_of_the_context(bundle: Bundle) -> None:
    for threads, grows in ((1, False), (64, True)):
        short, long = (
            plan(bundle, settings=replace(FULL, threads=threads, context_length=context)) for context in (512, 4096)
        )
        assert (long.scratch_bytes > short.scratch_bytes) == grows


def test_text_alone_needs_no_vision(bundle: Bundle) -> None:
    text = plan(bundle)
    assert text.tiles_phase_bytes == text.eagle_phase_bytes == text.siglip_bytes == text.picture_tokens == 0
    assert text.peak_phase == "answer"


def test_eagle_counts_only_where_it_runs(bundle: Bundle) -> None:
    without = replace(FULL, eagle=False)
    assert plan(bundle, PHOTO, settings=without).eagle_bytes == 0
    assert plan(bundle, PHOTO).eagle_bytes > 0


def test_engines_that_stay_count_beside_the_decoder(bundle: Bundle) -> None:
    apart, together = (plan(bundle, PHOTO, settings=replace(FULL, keep_vision=keep)) for keep in (False, True))
    engines = together.siglip_bytes + together.projector_bytes + together.eagle_bytes
    assert together.answer_phase_bytes == apart.answer_phase_bytes + engines


def test_late_pictures_meet_a_full_context(bundle: Bundle) -> None:
    early, late = (plan(bundle, PHOTO, conversation=late) for late in (False, True))
    assert late.eagle_phase_bytes == early.eagle_phase_bytes + early.kv_bytes + early.scratch_bytes


def test_what_is_kept_for_reuse_counts_where_pictures_come_late(bundle: Bundle) -> None:
    kept = replace(FULL, vision_cache_bytes=10 * MIB, prefix_cache_bytes=20 * MIB)
    late, without = (plan(bundle, PHOTO, settings=settings, conversation=True) for settings in (kept, FULL))
    for phase in ("tiles_phase_bytes", "eagle_phase_bytes", "answer_phase_bytes"):
        assert getattr(late, phase) == getattr(without, phase) + 30 * MIB
    early = plan(bundle, PHOTO, settings=kept)
    page = plan(bundle, settings=replace(FULL, context_length=256)).kv_bytes
    assert (early.vision_cache_bytes, early.prefix_cache_bytes) == (0, page)
    assert plan(bundle, PHOTO, settings=replace(kept, prefix_cache_bytes=page - 1)).prefix_cache_bytes == 0


def test_budget_keeps_less_for_reuse_before_anything_else_but_engines(bundle: Bundle) -> None:
    wanted = replace(FULL, eagle_preset="balanced", vision_cache_bytes=64 * MIB, prefix_cache_bytes=64 * MIB)
    whole = plan_memory(bundle, [PHOTO], wanted, conversation=True, process_bytes=0).peak_bytes
    assert budget_of(bundle, whole - 1).choose(wanted, [PHOTO]).changes == ("32.0 MiB of earlier pictures kept",)
    less = budget_of(bundle, whole - 65 * MIB).choose(wanted, [PHOTO])
    assert less.changes == ("16.0 MiB of earlier pictures kept", "32.0 MiB of earlier KV pages kept")


def test_process_counts_in_every_phase(bundle: Bundle) -> None:
    assert plan_memory(bundle, [PHOTO], FULL, process_bytes=0).peak_bytes == plan(bundle, PHOTO).peak_bytes - 100 * MIB


def test_pictures_beyond_the_context_are_refused(bundle: Bundle) -> None:
    with pytest.raises(BudgetError, match=r"pictures need \d+ positions, but the context holds 256"):
        plan(bundle, PHOTO, settings=replace(FULL, context_length=256))


def test_unknown_precision_is_refused(bundle: Bundle) -> None:
    with pytest.raises(InputError, match="kv_precision"):
        plan(bundle, settings=replace(FULL, kv_precision="fp7"))


def test_what_fits_stays_as_it_is(bundle: Bundle) -> None:
    choice = budget_of(bundle, 4096 * MIB).choose(replace(FULL, keep_vision=True), [PHOTO])
    assert choice.changes == () and choice.settings.keep_vision


def test_without_a_limit_everything_stays_as_it_is(bundle: Bundle) -> None:
    wanted = replace(FULL, keep_vision=True, kv_precision="fp32", eagle_min_tokens=9)
    choice = MemoryBudget(bundle, 0).choose(wanted, [PHOTO], conversation=False)
    assert (choice.settings, choice.changes) == (wanted, ())


def test_pictures_that_have_no_tiles_anyway_leave_that_to_the_policy(bundle: Bundle) -> None:
    """Several pictures are not cut into tiles; a lone one of a later question still is."""
    wanted = replace(FULL, prefill_chunk=64, kv_precision="int8", eagle_max_tokens=500)
    least = plan(bundle, PHOTO, PHOTO, settings=replace(wanted, eagle_max_tokens=64), conversation=True).peak_bytes
    choice = budget_of(bundle, least - 100 * MIB).choose(wanted, [PHOTO, PHOTO])
    assert choice.settings.tiles and choice.settings.eagle
    assert choice.settings.eagle_max_tokens is not None and len(choice.changes) == 1


def test_budget_lowers_the_eagle_cap_no_further_than_needed(bundle: Bundle) -> None:
    budget = budget_of(bundle, 300 * MIB)
    choice = budget.choose(FULL, [PHOTO])
    cap = choice.settings.eagle_max_tokens
    assert cap is not None and 64 <= cap < 16384
    assert choice.plan.peak_bytes <= budget.limit_bytes
    larger = budget_of(bundle, 400 * MIB).choose(FULL, [PHOTO]).settings.eagle_max_tokens
    assert larger is not None and larger > cap
    assert f"at most {cap} Eagle tokens a picture" in choice.changes


def test_budget_frees_engines_before_it_shrinks_pictures(bundle: Bundle) -> None:
    wanted = replace(FULL, eagle_preset="balanced", keep_vision=True)
    together = plan_memory(bundle, [PHOTO], wanted, conversation=True, process_bytes=0).peak_bytes
    choice = budget_of(bundle, together - 1).choose(wanted, [PHOTO])
    assert choice.changes == ("vision engines are freed after use",)


def test_budget_rounds_the_kv_cache_before_it_shrinks_pictures(bundle: Bundle) -> None:
    wanted = MemorySettings(context_length=24_000, prefill_chunk=16, **NO_CACHES)
    rounded = plan_memory(
        bundle, [PHOTO], replace(wanted, kv_precision="int8"), conversation=True, process_bytes=0
    ).peak_bytes
    choice = budget_of(bundle, rounded).choose(wanted, [PHOTO])
    assert choice.changes == ("KV cache in int8",)


def test_budget_shortens_only_a_context_that_nobody_asked_for(bundle: Bundle) -> None:
    wanted = MemorySettings(eagle_preset="fast", **NO_CACHES)
    whole = plan_memory(bundle, [PHOTO], wanted, conversation=True, process_bytes=0)
    limit = whole.peak_bytes - whole.kv_bytes // 2
    shortened = budget_of(bundle, limit).choose(wanted, [PHOTO]).settings.context_length
    assert 0 < shortened < whole.context_length
    fixed = replace(wanted, context_length=whole.context_length, kv_precision="fp16")
    with pytest.raises(BudgetError, match=f"for a context of {whole.context_length} "):
        budget_of(bundle, MIB).choose(fixed, [PHOTO])


def test_refusal_names_what_would_fit(bundle: Bundle) -> None:
    with pytest.raises(
        BudgetError, match=r"does not fit .* the least that it needs is .*; (\d+)MiB would fit\."
    ) as found:
        budget_of(bundle, MIB).choose(FULL, [PHOTO])
    budget = MemoryBudget(bundle, int(str(found.value).split("; ")[1].split("MiB")[0]) * MIB)
    assert budget.choose(FULL, [PHOTO]).plan.peak_bytes <= budget.limit_bytes


def test_model_that_cannot_fit_is_not_loaded(int4_bundle: Path) -> None:
    with pytest.raises(BudgetError, match="does not fit 1\\.0 MiB"):
        Valley2.load(int4_bundle, memory="1MiB")
    with pytest.raises(InputError, match="no amount of memory"):
        Valley2.load(int4_bundle, memory="much")


def test_session_takes_what_was_chosen(int4_bundle: Path) -> None:
    with Valley2.load(int4_bundle, memory="100GiB") as model:
        session = model.session()
        assert session.memory is not None and session.memory.changes == ()
        assert session.memory.settings.keep_vision


def test_session_that_needs_the_room_ends_the_keeping_of_engines(bundle: Bundle, int4_bundle: Path) -> None:
    with Valley2.load(int4_bundle, memory="100GiB") as model:
        budget = model.budget
        assert budget is not None and model.engines.vision.keeps
        wanted = MemorySettings(eagle_preset="full", keep_vision=True, **NO_CACHES)
        whole = plan_memory(bundle, [(3500, 3500)], wanted, conversation=True, process_bytes=budget.process_bytes)
        budget.limit_bytes = whole.peak_bytes - 1
        session = model.session(eagle_preset="full")
        assert session.memory is not None and session.memory.plan.peak_bytes <= budget.limit_bytes
        assert not session.memory.settings.keep_vision and not model.engines.vision.keeps


def test_question_beyond_the_memory_is_refused(bundle: Bundle) -> None:
    budget = budget_of(bundle, plan(bundle, (800, 600), conversation=True).peak_bytes - 100 * MIB)
    budget.check([(800, 600)], FULL, video=False)
    with pytest.raises(BudgetError, match="show fewer or smaller pictures"):
        budget.check([(4000, 4000)], FULL, video=False)
