"""Makes the self-test of a bundle: a picture, a question, and what torch computes for them."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from valley2_edge.bundle import Bundle
from valley2_edge.config import ModelConfig
from valley2_edge.errors import ExportError, NumericError
from valley2_edge.export.bundle.safetensors_stream import SafetensorsStream, TensorPlan
from valley2_edge.export.checkpoint.checkpoint import Checkpoint
from valley2_edge.export.control import Progress, no_progress
from valley2_edge.export.decoder.reference import reference_logits
from valley2_edge.export.decoder.stored_decoder import StoredDecoder
from valley2_edge.export.selftest.picture import draw_picture
from valley2_edge.export.vision.component import open_component
from valley2_edge.geometry import Geometry, GeometryOptions
from valley2_edge.policy import Policy
from valley2_edge.precisions import LARGEST_ROW_ERROR, LARGEST_VISION_ERROR, VisionPrecision
from valley2_edge.runtime.core.picture_policy import geometry_options
from valley2_edge.runtime.core.pixels import make_patches, make_tiles, plan_picture, stitch_tiles
from valley2_edge.runtime.core.prompt import Layout, build_first_turn, encode, render, split_at_pictures
from valley2_edge.runtime.core.tokenizer import Tokenizer
from valley2_edge.runtime.core.vision_engine import NATIVE_SUFFIX, ComponentName
from valley2_edge.selftest import (
    MAX_SELFTEST_BYTES,
    SELFTEST_FILE,
    SELFTEST_PICTURE,
    SELFTEST_REFERENCE,
    SelfTest,
    SelfTestStage,
    read_self_test,
)

QUESTION = "What is in this picture?"
"""The question of the self-test."""
TILE_STRIDE = 31
"""One in this many rows of a tile stage is stored."""
EAGLE_STRIDE = 2
"""One in this many tokens of the Eagle tower is stored."""
LOGIT_ROWS = 4
"""Number of the prompt's last positions whose logits are stored."""

LOGIT_TOLERANCE = 1e-4
"""Tolerance of the logits of a decoder without quantised matrices."""
QUANTIZED_LOGIT_TOLERANCE = 5e-3
"""Tolerance of the logits of a quantised decoder: its activations are rounded to int16, which costs 1.6e-4 with two
layers of random weights, and more with outliers."""

_VISION_STAGES: tuple[SelfTestStage, ...] = ("siglip_features", "projector_tokens", "eagle_tokens")

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class _Vision:
    """What the vision components compute for the picture."""

    siglip_features: Floats  # (tiles, patches, C)
    projector_tokens: Floats  # (tiles, tokens, hidden)
    eagle_tokens: Floats | None  # (eagle tokens, hidden)


@dataclass(frozen=True)
class _Answer:
    """What the decoder computes for the prompt."""

    siglip_tokens: int
    embeddings: Floats  # (L, hidden)
    logits: Floats  # (logit rows, vocabulary)


@dataclass(frozen=True)
class _Inputs:
    """The picture as the towers take it."""

    options: GeometryOptions
    geometry: Geometry
    tiles: Floats  # (tiles, 3, S, S)
    patches: Floats | None  # (P, 588)
    positions: NDArray[np.int64] | None  # (P, 2)


def write_selftest(
    checkpoint: Checkpoint,
    directory: Path,
    vision_precision: VisionPrecision,
    quantized: bool,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Writes selftest/ for a bundle whose other components are finished.

    Args:
        checkpoint: Where the vision weights of the reference come from.
        directory: The bundle under construction, with vision/, decoder/ and tokenizer/.
        vision_precision: Precision of the towers, which decides the tolerances on what they compute.
        quantized: Whether a matrix of the decoder is quantised, which decides the tolerance on the logits.
        progress: Called with the stage "selftest", the number of finished steps and the number of all steps.

    Returns:
        The relative error of the bundle's own vision components against torch on the picture, by stage.

    Raises:
        CheckpointError: A tensor cannot be read.
        ExportError: The bundle's vision components do not run.
        NumericError: A stage computes a NaN or an infinity.
        OSError: A file cannot be written.
    """
    config = checkpoint.config
    steps = 2 + config.decoder.num_hidden_layers
    report = progress or no_progress
    policy = Policy()
    (directory / SELFTEST_PICTURE).parent.mkdir(exist_ok=True)
    draw_picture().save(directory / SELFTEST_PICTURE)
    inputs = _prepare(directory, config, policy)
    report("selftest", 0, steps)
    expected = _vision_by_torch(checkpoint, inputs)
    report("selftest", 1, steps)
    found = _vision_by_bundle(directory, config, inputs)
    errors = _vision_errors(found, expected)
    report("selftest", 2, steps)

    layout = Layout(policy, wrapped=config.picture.use_special_start_end_token)
    parts = build_first_turn(QUESTION, 1, None, layout)
    input_ids = encode(parts, Tokenizer(directory / "tokenizer"))
    answer = _decode(directory, inputs, found, input_ids, lambda done, total: report("selftest", 2 + done, steps))
    _write_reference(directory, _strided(expected), answer)
    selftest = SelfTest(
        question=QUESTION,
        policy=policy.policy,
        strict=policy.strict,
        eagle_preset=policy.eagle_preset,
        prompt=render(parts),
        input_ids=input_ids,
        tile_stride=TILE_STRIDE,
        eagle_stride=EAGLE_STRIDE,
        siglip_tokens=answer.siglip_tokens,
        eagle_tokens=0 if found.eagle_tokens is None else len(found.eagle_tokens),
        prefill_length=len(answer.embeddings),
        logit_rows=LOGIT_ROWS,
        activations="int16",
        tolerances=_tolerances(errors, vision_precision, quantized),
    )
    (directory / SELFTEST_FILE).write_text(selftest.model_dump_json(indent=2) + "\n", "utf-8")
    return {stage: float(f"{error:.6g}") for stage, error in errors.items()}


def renew_selftest(
    directory: Path, config: ModelConfig, previous: Bundle, quantized: bool, progress: Progress | None = None
) -> None:
    """Writes selftest/ for a bundle that has the vision half of another one and a decoder of its own.

    Args:
        directory: The bundle under construction, with vision/, decoder/ and tokenizer/.
        config: The architecture of both bundles.
        previous: The bundle whose vision/ and tokenizer/ it has; the vision half of its self-test is kept.
        quantized: Whether a matrix of the decoder is quantised, which decides the tolerance on the logits.
        progress: Called with the stage "selftest", the number of finished steps and the number of all steps.

    Raises:
        BundleError: The previous self-test cannot be read.
        ExportError: The bundle's vision components do not run.
        NumericError: A stage computes a NaN or an infinity.
        OSError: A file cannot be written.
    """
    report = progress or no_progress
    test, reference = read_self_test(previous)
    picture = previous.read(SELFTEST_PICTURE, MAX_SELFTEST_BYTES)
    (directory / SELFTEST_PICTURE).parent.mkdir(exist_ok=True)
    (directory / SELFTEST_PICTURE).write_bytes(picture)
    inputs = _prepare(directory, config, Policy(policy=test.policy, strict=test.strict, eagle_preset=test.eagle_preset))
    found = _vision_by_bundle(directory, config, inputs)
    answer = _decode(directory, inputs, found, test.input_ids, lambda done, total: report("selftest", done, total))
    _write_reference(directory, {name: reference[name] for name in _VISION_STAGES if name in reference}, answer)
    tolerance = _logit_tolerance(
        quantized, max(test.tolerances[stage] for stage in _VISION_STAGES if stage in reference)
    )
    renewed = test.model_copy(
        update={
            "siglip_tokens": answer.siglip_tokens,
            "prefill_length": len(answer.embeddings),
            "logit_rows": LOGIT_ROWS,
            "tolerances": {**test.tolerances, "logits": tolerance},
        }
    )
    (directory / SELFTEST_FILE).write_text(renewed.model_dump_json(indent=2) + "\n", "utf-8")


def _prepare(directory: Path, config: ModelConfig, policy: Policy) -> _Inputs:
    with Image.open(directory / SELFTEST_PICTURE) as picture:
        rgb = np.asarray(picture.convert("RGB"))  # (height, width, 3)
    options = geometry_options(policy, config, picture_count=1)
    geometry = plan_picture(rgb.shape[1], rgb.shape[0], options)
    patches, positions = make_patches(rgb, geometry, options) if options.eagle else (None, None)
    return _Inputs(options, geometry, make_tiles(rgb, geometry, options), patches, positions)


def _vision_by_torch(checkpoint: Checkpoint, inputs: _Inputs) -> _Vision:
    # Imported here because transformers takes seconds to load.
    from valley2_edge.export.vision.torch_reference import load_eagle, load_projector, load_siglip

    with torch.inference_mode():
        siglip = load_siglip(checkpoint)
        features = siglip(torch.from_numpy(inputs.tiles))
        del siglip  # one tower in memory at a time
        projector = load_projector(checkpoint)
        tokens = projector(features)
        del projector
        eagle_tokens = None
        eagle_config = checkpoint.config.eagle
        if inputs.patches is not None and inputs.positions is not None and eagle_config is not None:
            eagle = load_eagle(checkpoint, eagle_config)
            rows, columns = (int(last) + 1 for last in inputs.positions.max(axis=0))
            eagle_tokens = _finite(eagle(torch.from_numpy(inputs.patches), rows, columns).numpy(), "Eagle")
            del eagle
    gc.collect()
    return _Vision(_finite(features.numpy(), "SigLIP"), _finite(tokens.numpy(), "projector"), eagle_tokens)


def _vision_by_bundle(directory: Path, config: ModelConfig, inputs: _Inputs) -> _Vision:
    features = _run(directory, "siglip", config, {"tiles": inputs.tiles})
    tokens = _run(directory, "projector", config, {"features": features})
    eagle_tokens = None
    if inputs.patches is not None:
        eagle_tokens = _run(directory, "eagle", config, {"patches": inputs.patches, "positions": inputs.positions})
    return _Vision(features, tokens, eagle_tokens)


def _run(directory: Path, name: ComponentName, config: ModelConfig, inputs: dict[str, Any]) -> Floats:
    return open_component(directory / "vision" / f"{name}{NATIVE_SUFFIX}", name, config)(inputs)


def _vision_errors(found: _Vision, expected: _Vision) -> dict[SelfTestStage, float]:
    errors: dict[SelfTestStage, float] = {
        "siglip_features": _relative_error(found.siglip_features, expected.siglip_features),
        "projector_tokens": _relative_error(found.projector_tokens, expected.projector_tokens),
    }
    if found.eagle_tokens is not None and expected.eagle_tokens is not None:
        errors["eagle_tokens"] = _relative_error(found.eagle_tokens, expected.eagle_tokens)
    return errors


def _tolerances(
    errors: dict[SelfTestStage, float], precision: VisionPrecision, quantized: bool
) -> dict[SelfTestStage, float]:
    """What another machine may make of the towers: their rounding differs with the instruction set."""
    allowed = LARGEST_VISION_ERROR[precision]
    tolerances = {stage: max(allowed, 2 * error) for stage, error in errors.items()}
    # The embeddings and logits of the reference come from the exporter's own vision.
    of_logits = _logit_tolerance(quantized, max(tolerances.values()))
    rows = max(LARGEST_ROW_ERROR[precision], *(2 * error for error in errors.values()))
    return {**tolerances, "input_embeddings": rows, "logits": of_logits}


def _logit_tolerance(quantized: bool, of_vision: float) -> float:
    return max(QUANTIZED_LOGIT_TOLERANCE if quantized else LOGIT_TOLERANCE, of_vision)


def _decode(
    directory: Path, inputs: _Inputs, found: _Vision, input_ids: list[int], on_layer: Callable[[int, int], None]
) -> _Answer:
    """Runs the bundle's dequantised decoder in torch on the bundle's own picture tokens."""
    decoder = StoredDecoder(directory)
    picture_tokens = stitch_tiles(found.projector_tokens, inputs.geometry, inputs.options)  # (siglip tokens, hidden)
    siglip_tokens = len(picture_tokens)
    if found.eagle_tokens is not None:
        picture_tokens = np.concatenate([picture_tokens, found.eagle_tokens])
    before, after = (decoder.embed(run).numpy() for run in split_at_pictures(input_ids))
    embeddings = np.concatenate([before, picture_tokens, after])  # (L, hidden)
    logits = reference_logits(decoder, torch.from_numpy(embeddings), LOGIT_ROWS, on_layer).numpy()
    return _Answer(siglip_tokens, embeddings, _finite(logits, "decoder"))


def _strided(vision: _Vision) -> dict[str, Floats]:
    """The rows of the vision stages that are stored in a self-test."""
    features, tokens = vision.siglip_features, vision.projector_tokens
    tensors = {
        "siglip_features": features.reshape(-1, features.shape[-1])[::TILE_STRIDE],
        "projector_tokens": tokens.reshape(-1, tokens.shape[-1])[::TILE_STRIDE],
    }
    if vision.eagle_tokens is not None:
        tensors["eagle_tokens"] = vision.eagle_tokens[::EAGLE_STRIDE]
    return tensors


def _write_reference(directory: Path, vision: dict[str, Floats], answer: _Answer) -> None:
    rows = answer.embeddings.astype(np.float64)
    tensors = {
        **vision,
        "embedding_sums": rows.sum(axis=1),
        "embedding_norms": np.linalg.norm(rows, axis=1),
        "logits": answer.logits,
    }
    plan = [TensorPlan(name, "F32", tensor.shape) for name, tensor in tensors.items()]
    with SafetensorsStream(directory / SELFTEST_REFERENCE, plan, {"format": "valley2-selftest"}) as stream:
        for name, tensor in tensors.items():
            stream.write(name, [torch.from_numpy(np.ascontiguousarray(tensor, np.float32))])


def _relative_error(found: Floats, expected: Floats) -> float:
    if found.shape != expected.shape:
        raise ExportError(f"a vision tower gives shape {found.shape}, torch gives {expected.shape}")
    difference = np.linalg.norm((found - expected).astype(np.float64))
    error = float(difference / np.linalg.norm(expected.astype(np.float64)))
    if not math.isfinite(error):
        raise NumericError("a vision tower of the bundle computed a NaN or an infinity")
    return error


def _finite(values: Floats, stage: str) -> Floats:
    if not np.isfinite(values).all():
        raise NumericError(f"{stage} computed a NaN or an infinity in the self-test: the checkpoint is damaged")
    return values
