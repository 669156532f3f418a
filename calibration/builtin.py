"""The built-in calibration set: pictures and questions of the training half of the project's generator."""

from __future__ import annotations

from valley2_edge.calibration.samples import CalibrationSet, Sample, Turn, make_set
from valley2_edge.ecom.dialogue import training_dialogue
from valley2_edge.errors import InputError

BUILTIN = "builtin"
CALIBRATION_SEED = 4_000_037
"""Of its own: no training and no benchmark uses it."""


def builtin_set(count: int, seed: int = CALIBRATION_SEED) -> CalibrationSet:
    """Draws the set; the same arguments give the same samples.

    Args:
        count: Samples: a set of pictures or a clip each, with up to ten questions.
        seed: Another seed gives other samples.

    Raises:
        InputError: count is below 1.
    """
    if count < 1:
        raise InputError(f"A calibration set needs at least one sample, not {count}.")
    return make_set(BUILTIN, [_sample(seed, index) for index in range(count)])


def _sample(seed: int, index: int) -> Sample:
    dialogue = training_dialogue(seed, index, "annealing")
    return Sample(
        name=f"sample {index}",
        turns=tuple(Turn(prompt, answer) for prompt, answer in dialogue.turns),
        images=() if dialogue.video else dialogue.pictures,
        video=dialogue.pictures if dialogue.video else None,
    )
