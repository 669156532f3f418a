"""Proves that a machine computes what it should: a bundle's own self-test, and the reference's outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from valley2_edge.bundle import Bundle
from valley2_edge.config import ModelConfig
from valley2_edge.options import LoadOptions, PolicyName
from valley2_edge.policy import Policy
from valley2_edge.runtime.cancellation import CancelToken
from valley2_edge.runtime.core.preprocess import prepare_pictures
from valley2_edge.runtime.core.prompt import Layout, build_first_turn, encode, render
from valley2_edge.runtime.core.vision_engine import TENSORRT
from valley2_edge.runtime.devices.comparison import Array, Row, compare_relative, compare_rows, compare_values
from valley2_edge.runtime.engines import Engines, prompt_segments
from valley2_edge.runtime.media.images import load_picture
from valley2_edge.runtime.model import Valley2
from valley2_edge.selftest import MAX_SELFTEST_BYTES, SELFTEST_PICTURE, SelfTest, read_self_test
from valley2_edge.verify.golden import Golden
from valley2_edge.verify.golden_check import TOLERANCES, check_case
from valley2_edge.verify.golden_geometry import check_geometry

SELF_TEST = "self-test"
HALF_TOLERANCE = 1e-2
"""Largest relative error of vision in TensorRT's fp16, and of all that is computed from it."""


def verify_golden(
    bundle: Bundle,
    golden: Golden,
    variant: str,
    policy: PolicyName,
    architecture: ModelConfig | None = None,
    load: LoadOptions = LoadOptions(),
) -> Iterator[Row]:
    """Compares a bundle with the reference's outputs: the geometry table, then every case of a variant.

    Args:
        bundle: A bundle whose files were checked.
        golden: The reference's outputs.
        variant: Name of the model whose outputs are compared.
        policy: Whose rules the variant follows; it runs strict and with the reference's own Eagle caps.
        architecture: The variant's architecture, where it uses the same weights with other settings. By default the
            bundle's.
        load: Where and with what the model computes.

    Yields:
        A row for each case and stage.

    Raises:
        InputError: The variant is not there, or a case is not complete.
        BundleError: An engine cannot be loaded.
    """
    names = golden.case_names(variant)
    table = golden.geometry()
    if table:
        yield check_geometry(table)
    with Valley2.load(bundle.directory, load, keep_vision=True) as model:
        tolerances, rotation = TOLERANCES[bundle.manifest.siglip.precision], bundle.manifest.decoder.rotation
        engines = dataclasses.replace(model.engines, architecture=architecture or model.engines.architecture)
        for name in names:
            case = golden.case(variant, name, policy)
            yield from check_case(case, engines, Policy.of_reference(policy), tolerances, rotation)


def self_test(
    bundle: Bundle,
    load: LoadOptions = LoadOptions(),
) -> Iterator[Row]:
    """Asks the bundle's own question about its own picture and compares each stage with what the exporter computed.

    Args:
        bundle: A bundle whose files were checked.
        load: Where and with what the model computes.

    Yields:
        A row for each stage.

    Raises:
        BundleError: The bundle has no self-test, or an engine cannot be loaded.
    """
    test, reference = read_self_test(bundle)
    with Valley2.load(bundle.directory, load, activations=test.activations, keep_vision=True) as model:
        if model.engines.vision.engine == TENSORRT:
            test = test.model_copy(
                update={"tolerances": {stage: max(HALF_TOLERANCE, value) for stage, value in test.tolerances.items()}}
            )
        yield from _run_self_test(test, reference, bundle, model.engines)


def _run_self_test(test: SelfTest, reference: dict[str, Array], bundle: Bundle, engines: Engines) -> Iterator[Row]:
    architecture, vision = engines.architecture, engines.vision
    policy = Policy(policy=test.policy, strict=test.strict, eagle_preset=test.eagle_preset)
    picture = load_picture(bundle.read(SELFTEST_PICTURE, MAX_SELFTEST_BYTES), strict=test.strict)
    (prepared,) = prepare_pictures([picture], architecture, policy)
    layout = Layout(policy, architecture.picture.use_special_start_end_token)
    parts = build_first_turn(test.question, 1, None, layout)
    ids = encode(parts, engines.tokenizer, test.strict)
    yield compare_values(SELF_TEST, "prompt", render(parts), test.prompt)
    yield compare_values(SELF_TEST, "input_ids", ids, test.input_ids)
    counts = (prepared.geometry.siglip_tokens, prepared.geometry.eagle_tokens)
    yield compare_values(SELF_TEST, "picture tokens", counts, (test.siglip_tokens, test.eagle_tokens))
    features = np.concatenate([vision.siglip(tile[None]) for tile in prepared.tiles()])  # (T, 729, C)
    yield _compare_stride(test, "siglip_features", features, reference, test.tile_stride)
    projected = np.concatenate([vision.project(tile[None]) for tile in features])  # (T, side * side, hidden)
    yield _compare_stride(test, "projector_tokens", projected, reference, test.tile_stride)
    if prepared.options.eagle:
        eagle = vision.eagle(*prepared.patches())  # (P / 4, hidden)
        yield _compare_stride(test, "eagle_tokens", eagle, reference, test.eagle_stride)
    pictures = vision.encode([prepared], CancelToken()).tokens
    yield from _check_decoder(test, reference, engines, prompt_segments(ids, pictures))


def _check_decoder(
    test: SelfTest, reference: dict[str, Array], engines: Engines, segments: list[Array]
) -> Iterator[Row]:
    embeddings = engines.embeddings(segments)  # (L, hidden)
    yield compare_values(SELF_TEST, "prefill length", len(embeddings), test.prefill_length)
    sums, norms = reference["embedding_sums"], reference["embedding_norms"]
    tolerance = test.tolerances["input_embeddings"]
    yield compare_rows(SELF_TEST, "input_embeddings", embeddings, sums, norms, tolerance)
    session = engines.decoder.session(kv_precision=engines.decoder.finest_kv_precision)
    try:
        session.prefill(segments, logit_rows=test.logit_rows)
        logits = session.logits(test.logit_rows)  # (logit_rows, vocabulary)
    finally:
        session.close()
    yield compare_relative(SELF_TEST, "logits", logits, reference["logits"], test.tolerances["logits"])


def _compare_stride(test: SelfTest, stage: str, found: Array, reference: dict[str, Array], stride: int) -> Row:
    rows = found.reshape(-1, found.shape[-1])[::stride]
    return compare_relative(SELF_TEST, stage, rows, reference[stage], test.tolerances[stage])  # type: ignore[index]
