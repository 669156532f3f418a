"""Measures the vision engines of a bundle, and one whole question about a picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from valley2_edge.bench.alternation import Limits, Measurement, Spread
from valley2_edge.bench.decoder import Plan, Repeated
from valley2_edge.bench.work import eagle_operations, projector_operations, siglip_operations
from valley2_edge.bundle import VisionComponent
from valley2_edge.errors import EngineError, InputError
from valley2_edge.options import EaglePreset
from valley2_edge.policy import Policy
from valley2_edge.runtime.core.preprocess import PreparedPicture, prepare_pictures
from valley2_edge.runtime.core.probe import LimitName
from valley2_edge.runtime.core.vision_engine import NATIVE, TENSORRT
from valley2_edge.runtime.model import Valley2
from valley2_edge.runtime.stats import Statistics

WIDTH, HEIGHT = 1280, 720
QUESTION = "What is on the label?"
STAGES = ("vision_load", "preprocess", "siglip", "projector", "eagle", "prefill", "decode")
"""Stages of a question, in order; their seconds are fields of `Statistics`."""


@dataclass(frozen=True)
class FirstToken:
    """Times from a question about a picture to the first token of its answer."""

    statistics: tuple[Statistics, ...]
    """Statistics of each repetition."""

    @property
    def seconds(self) -> Spread:
        """Until the first token, loading the vision engines included, as a conversation begins."""
        return Spread.of([_first_token_seconds(one) for one in self.statistics])

    def as_json(self) -> dict[str, object]:
        """The times under the names of docs/performance.md."""
        first = self.statistics[0]
        stages = {
            stage: Spread.of([getattr(one, f"{stage}_seconds") for one in self.statistics]).median for stage in STAGES
        }
        counts = ("tiles", "siglip_tokens", "eagle_tokens", "prompt_tokens")
        return {
            **self.seconds.as_json("seconds"),
            "stage_seconds": stages,
            "width": WIDTH,
            "height": HEIGHT,
            **{name: getattr(first, name) for name in counts},
        }


def measure_siglip(model: Valley2, plan: Plan, limits: Limits, done: Repeated) -> Measurement:
    """One tile at a time."""
    tile = _prepared(model, "balanced").tiles()[:1]  # (1, 3, size, size)
    architecture = model.bundle.manifest.architecture
    work = siglip_operations(architecture.siglip)
    limit = _limit(model.bundle.manifest.siglip, model)
    run = _Run("siglip", lambda: model.engines.vision.siglip(tile), "tiles", 1, work, limit)
    return _measure(model, run, plan, limits, done)


def measure_projector(model: Valley2, plan: Plan, limits: Limits, done: Repeated) -> Measurement:
    """One tile at a time."""
    architecture = model.bundle.manifest.architecture
    siglip = architecture.siglip
    shape = (1, siglip.patches_per_side**2, siglip.hidden_size)
    features = np.random.default_rng(0).standard_normal(shape, np.float32)
    work = projector_operations(architecture.projector, siglip)
    limit = _limit(model.bundle.manifest.projector, model)
    run = _Run("projector", lambda: model.engines.vision.project(features), "tiles", 1, work, limit)
    return _measure(model, run, plan, limits, done)


def measure_eagle(model: Valley2, preset: EaglePreset, plan: Plan, limits: Limits, done: Repeated) -> Measurement:
    """The patches of one picture.

    Raises:
        InputError: The bundle has no Eagle branch.
    """
    component, config = model.bundle.manifest.eagle, model.bundle.manifest.architecture.eagle
    if component is None or config is None:
        raise InputError("this bundle has no Eagle branch to measure; name other parts with --parts")
    patches, positions = _prepared(model, preset).patches()
    work = eagle_operations(config, len(patches))
    limit = _limit(component, model)
    run = _Run("eagle", lambda: model.engines.vision.eagle(patches, positions), "patches", len(patches), work, limit)
    return _measure(model, run, plan, limits, done)


def measure_first_token(model: Valley2, preset: EaglePreset, plan: Plan, done: Repeated) -> FirstToken:
    """Asks in a new session each time, about another picture each time, so that nothing is remembered."""
    statistics = []
    for repetition in range(plan.warm_up + plan.repetitions):
        session = model.session(eagle_preset=preset)
        try:
            for _ in session.ask(QUESTION, images=[_picture(repetition)], max_new_tokens=1):
                pass
            statistics.append(session.statistics)
        finally:
            session.close()
        done()
    return FirstToken(tuple(statistics[plan.warm_up :]))


@dataclass(frozen=True)
class _Run:
    """One run of an engine."""

    name: str
    call: Callable[[], object]
    unit: str
    amount: int
    """How many units of work one call does."""
    operations: int
    limit: LimitName
    """Name of the machine's limit that the run is a share of."""


def _limit(component: VisionComponent, model: Valley2) -> LimitName:
    """Graphs compute in fp32, in TensorRT fp16, and towers in bf16 in fp32 where the machine does not multiply it."""
    if model.engines.vision.engine == TENSORRT:
        return "fp16"
    return "int8" if component.precision == "int8" and model.engines.vision.engine == NATIVE else "fp32"


def _measure(model: Valley2, run: _Run, plan: Plan, limits: Limits, done: Repeated) -> Measurement:
    try:
        samples = plan.run(limits, run.limit, lambda _pause: run.call(), done)
    finally:
        model.engines.vision.release()
    provider = model.engines.vision.providers[run.name][0]
    if run.limit == "fp16" and not provider.startswith("TensorRT"):
        raise EngineError(f"the {run.name} engine runs on {provider}, which is no share of the GPU; measure it without")
    return Measurement(run.unit, run.amount, run.operations, run.limit, samples, {run.unit: run.amount})


def _prepared(model: Valley2, preset: EaglePreset) -> PreparedPicture:
    return prepare_pictures([_picture(0)], model.bundle.manifest.architecture, Policy(eagle_preset=preset))[0]


def _picture(seed: int) -> npt.NDArray[np.uint8]:
    """(HEIGHT, WIDTH, 3) RGB noise."""
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def _first_token_seconds(statistics: Statistics) -> float:
    # A model that would rather say nothing is done when it has said so.
    first = statistics.first_token_seconds
    return statistics.total_seconds if first is None else first
