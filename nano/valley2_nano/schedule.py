"""How the learning rate and the stages follow the share of the training that is done."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Warm-up, a constant rate through the broad stage, then down to zero in the annealing stage."""

    rate: float
    warmup_steps: int
    annealing_share: float
    """Share of the whole training at its end."""
    minutes: float | None
    """Training time of all; None: `steps` decides."""
    steps: int | None

    def progress(self, step: int, minutes: float) -> float:
        """Share of the training that is done, 0 to 1.

        Args:
            step: Steps made.
            minutes: Time spent in them, over all runs.
        """
        done = step / self.steps if self.steps else minutes / (self.minutes or 1.0)
        return min(done, 1.0)

    def annealing(self, progress: float) -> bool:
        """Whether the annealing stage has begun."""
        return progress >= 1 - self.annealing_share

    def rate_at(self, step: int, progress: float) -> float:
        """The learning rate of a step."""
        warm = min(1.0, (step + 1) / self.warmup_steps)
        if not self.annealing(progress):
            return self.rate * warm
        return self.rate * warm * (1 - progress) / max(self.annealing_share, 1e-9)
