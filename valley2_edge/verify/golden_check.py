"""Compares one case of the reference's outputs with what a bundle computes, stage by stage, on the way of a chat."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from valley2_edge.errors import InputError
from valley2_edge.policy import Policy
from valley2_edge.precisions import LARGEST_ROW_ERROR, LARGEST_VISION_ERROR, VisionPrecision
from valley2_edge.rotation import Rotation
from valley2_edge.runtime.cancellation import CancelToken
from valley2_edge.runtime.core.decoder_session import DecoderSession
from valley2_edge.runtime.core.generation import GenerateOptions
from valley2_edge.runtime.core.preprocess import PreparedPicture, black_picture, prepare_pictures
from valley2_edge.runtime.core.prompt import PICTURE_ID, Layout, build_conversation, encode, render
from valley2_edge.runtime.devices.comparison import (
    LOGIT_TOLERANCE,
    RELATIVE_TOLERANCE,
    Row,
    compare_absolute,
    compare_exact,
    compare_relative,
    compare_rows,
    compare_tokens,
    compare_values,
)
from valley2_edge.runtime.engines import Engines, prompt_segments
from valley2_edge.runtime.vision.encoder import VisionEncoder
from valley2_edge.verify.golden import GoldenCase, patches_from_bytes, tiles_from_bytes

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Tolerances:
    """How far the stages of a case may be from the reference's."""

    relative: float
    """For features and embeddings: norm of the difference over norm of the reference."""
    rows: float
    """The same for the embedding of every position alone."""
    absolute: float
    """For logits."""


EXACT = Tolerances(RELATIVE_TOLERANCE, RELATIVE_TOLERANCE, LOGIT_TOLERANCE)
"""For towers in fp32, and for questions without a picture."""
TOLERANCES: dict[VisionPrecision, Tolerances] = {
    "fp32": EXACT,
    "bf16": Tolerances(LARGEST_VISION_ERROR["bf16"], LARGEST_ROW_ERROR["bf16"], 0.5),
    "int8": Tolerances(LARGEST_VISION_ERROR["int8"], LARGEST_ROW_ERROR["int8"], 2.0),
}
"""By the precision of the towers; a rounded decoder exceeds those on logits."""

TURNED_EMBEDDINGS_ERROR = 1e-3
"""Largest relative error of an embedding that was turned and rounded to fp16: each number by half of 2^-10 at most, and
numbers below 2^-14, of which a row has few, by 2^-25."""


def check_case(
    case: GoldenCase, engines: Engines, policy: Policy, tolerances: Tolerances, rotation: Rotation | None = None
) -> Iterator[Row]:
    """Runs one case and yields a row for each stage that the reference's outputs cover.

    Args:
        case: What went in and what has to come out.
        engines: The bundle's engines.
        policy: The policy that the reference ran with.
        tolerances: What the bundle's towers may make of a case with pictures.
        rotation: The basis of what the bundle computes; the reference knows the model's own.

    Raises:
        InputError: The case is not complete.
    """
    architecture, expected_ids = engines.architecture, _stored(case, "input_ids")
    with_pictures = PICTURE_ID in expected_ids or "image_sizes_wh" in case.record
    prepared: list[PreparedPicture] = []
    if with_pictures:
        pictures = (case.pictures or [black_picture()])[: policy.picture_limit()]
        prepared = prepare_pictures(pictures, architecture, policy)
    else:
        # The reference runs these past its chat class, which knows no question without a picture.
        policy = replace(policy, strict=False)
    if case.history is None:
        ids = engines.tokenizer.encode_with_controls(_recorded(case, "prompt_text"))
    else:
        layout = Layout(policy, architecture.picture.use_special_start_end_token)
        parts = build_conversation(case.history, len(prepared), layout)
        ids = encode(parts, engines.tokenizer, policy.strict)
        yield compare_values(case.name, "prompt", render(parts), _recorded(case, "prompt_text"))
    yield compare_exact(case.name, "input_ids", np.array(ids), expected_ids)
    if prepared:
        yield from _check_preprocessing(case, prepared, architecture.picture.anyres)
        yield from _check_vision(case, prepared, engines.vision, tolerances, rotation)
    else:
        tolerances = EXACT
    yield from _check_decoder(case, ids, prepared, engines, tolerances, rotation)


def _in_basis_of_model(vectors: Array, rotation: Rotation | None) -> Array:
    return vectors if rotation is None else rotation.turn_back(vectors)


def _check_preprocessing(case: GoldenCase, prepared: list[PreparedPicture], anyres: bool) -> Iterator[Row]:
    name, expected = case.name, case.preprocessing
    plans = [picture.geometry for picture in prepared]
    tile_counts = np.array([plan.tile_count for plan in plans])
    stored_counts = expected.get("tiles_per_image")
    recorded_counts = case.record.get("tiles_per_image", stored_counts)
    # Without anyres the reference stacks the pictures and has no tiles to count; prefill_len shows that it is right.
    if recorded_counts is not None and anyres:
        yield compare_exact(name, "tiles_per_image", tile_counts, np.asarray(recorded_counts))
    tiles = np.concatenate([picture.tiles() for picture in prepared])  # (T, 3, S, S)
    if "tiles_u8" in expected and stored_counts is not None:
        stored = _tiles_of(expected["tiles_u8"], stored_counts, tile_counts)
        yield compare_exact(name, "tiles", tiles, tiles_from_bytes(stored))
    hashes = case.record.get("pre_sha256", {})
    if "tiles_f32" in hashes:
        yield compare_values(name, "tiles sha256", _sha256(tiles), hashes["tiles_f32"])
    if prepared[0].options.eagle:
        yield from _check_patches(case, prepared)


def _check_patches(case: GoldenCase, prepared: list[PreparedPicture]) -> Iterator[Row]:
    name, expected = case.name, case.preprocessing
    grid = np.array(
        [(1, picture.geometry.eagle_height // 14, picture.geometry.eagle_width // 14) for picture in prepared]
    )
    recorded = case.record.get("eagle_grid_thw", expected.get("eagle_grid_thw"))
    if recorded is not None:
        yield compare_exact(name, "eagle_grid", grid, np.asarray(recorded))
    patches = np.concatenate([picture.patches()[0] for picture in prepared])  # (P, 588)
    if "eagle_patches_u8" in expected:
        yield compare_exact(name, "patches", patches, patches_from_bytes(expected["eagle_patches_u8"]))
    hashes = case.record.get("pre_sha256", {})
    if "pixel_values_f32" in hashes:
        # The reference holds every patch's pixels twice, once for each of two temporal slices: (P, 3, 2, 14 * 14).
        doubled = np.repeat(patches.reshape(len(patches), 3, 1, -1), 2, axis=2)
        yield compare_values(name, "patches sha256", _sha256(doubled), hashes["pixel_values_f32"])


def _tiles_of(stored: Array, stored_counts: Array, counts: Array) -> Array:
    """The stored tiles that a variant sees.

    The stored ones are those of a tiling variant. Without tiling a picture is one plain resize, which is exactly the
    global view that stands first among its stored tiles.
    """
    if counts.shape == stored_counts.shape and (counts == 1).all():
        return stored[np.concatenate(([0], np.cumsum(stored_counts)[:-1]))]
    return stored


def _check_vision(
    case: GoldenCase,
    prepared: list[PreparedPicture],
    vision: VisionEncoder,
    tolerances: Tolerances,
    rotation: Rotation | None,
) -> Iterator[Row]:
    name, expected = case.name, case.forward
    if "siglip_features" in expected or "projector_out" in expected:
        features, tokens = [], []
        for picture in prepared:
            for tile in picture.tiles():
                features.append(vision.siglip(tile[None]))  # (1, 729, C)
                # (1, side * side, hidden)
                tokens.append(_in_basis_of_model(vision.project(features[-1]), rotation))
        for stage, found in (("siglip_features", features), ("projector_out", tokens)):
            if stage in expected:
                yield compare_relative(name, stage, np.concatenate(found), expected[stage], tolerances.relative)
    if "eagle_features" in expected:
        eagle = np.concatenate([vision.eagle(*picture.patches()) for picture in prepared])  # (P / 4, hidden)
        eagle = _in_basis_of_model(eagle, rotation)
        yield compare_relative(name, "eagle_features", eagle, expected["eagle_features"], tolerances.relative)


def _check_decoder(
    case: GoldenCase,
    ids: list[int],
    prepared: list[PreparedPicture],
    engines: Engines,
    tolerances: Tolerances,
    rotation: Rotation | None,
) -> Iterator[Row]:
    name, expected = case.name, case.forward
    allowed, allowed_rows = tolerances.relative, tolerances.rows
    if rotation is not None:
        # Only a table in its own basis is stored without a rounding.
        allowed, allowed_rows = max(allowed, TURNED_EMBEDDINGS_ERROR), max(allowed_rows, TURNED_EMBEDDINGS_ERROR)
    encoded = engines.vision.encode(prepared, CancelToken()).tokens if prepared else []
    segments = prompt_segments(ids, encoded)
    embeddings = _in_basis_of_model(engines.embeddings(segments), rotation)  # (L, hidden)
    yield compare_values(name, "prefill_len", len(embeddings), _recorded(case, "prefill_len"))
    if len(embeddings) != case.record["prefill_len"]:
        return
    if "inputs_embeds" in expected:
        yield compare_relative(name, "inputs_embeds", embeddings, expected["inputs_embeds"], allowed)
    if "inputs_embeds_sample" in expected:
        sample = embeddings[expected["inputs_embeds_rows"]]
        yield compare_relative(name, "inputs_embeds sample", sample, expected["inputs_embeds_sample"], allowed)
    if "inputs_embeds_row_sum" in expected:
        sums, norms = expected["inputs_embeds_row_sum"], expected["inputs_embeds_row_norm"]
        yield compare_rows(name, "inputs_embeds rows", embeddings, sums, norms, allowed_rows)
    session = engines.decoder.session(kv_precision=engines.decoder.finest_kv_precision)
    try:
        yield from _check_logits(case, session, segments, len(embeddings), tolerances.absolute)
    finally:
        session.close()


def _check_logits(
    case: GoldenCase, session: DecoderSession, segments: list[Array], length: int, allowed: float
) -> Iterator[Row]:
    name, expected = case.name, case.forward
    stored = {stage: expected[stage] for stage in ("logits_all", "logits_last") if stage in expected}
    rows = max((len(logits) for logits in stored.values()), default=1)
    session.prefill(segments, logit_rows=min(rows, length))
    for stage, logits in stored.items():
        yield compare_absolute(name, stage, session.logits(min(len(logits), length)), logits, allowed)
    scores, tokens = _stored(case, "scores"), [int(token) for token in _stored(case, "greedy_tokens")]
    found_scores, found_tokens = _decode(session, tokens)
    row = compare_absolute(name, "scores", found_scores[: len(scores)], scores, allowed)
    yield row
    yield compare_tokens(name, "tokens", found_tokens, tokens, _recorded(case, "greedy_margins"), row.error)


def _decode(session: DecoderSession, tokens: list[int]) -> tuple[Array, list[int]]:
    """Decodes greedily, but goes on from the reference's token where the choice differs.

    Args:
        session: A session that holds the prompt.
        tokens: The reference's tokens.

    Returns:
        Logits (len(tokens), vocabulary) before each choice, and the choices.
    """
    scores, chosen = [], []
    for token in tokens:
        scores.append(session.logits(1))  # (1, vocabulary)
        step: list[int] = []
        # Without stop tokens: the reference's scores go on to its own last token.
        session.generate(GenerateOptions(max_new_tokens=1), step.append)
        chosen += step
        if step != [token]:
            session.truncate(session.length - len(step))
            session.prefill([np.array([token], np.int32)], logit_rows=1)
    return np.concatenate(scores), chosen


def _recorded(case: GoldenCase, key: str) -> Any:
    if key not in case.record:
        raise InputError(f'manifest.json: case {case.name} has no "{key}".')
    return case.record[key]


def _stored(case: GoldenCase, name: str) -> Array:
    if name not in case.forward:
        raise InputError(f'The outputs of case {case.name} have no "{name}".')
    return case.forward[name]


def _sha256(array: Array) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
