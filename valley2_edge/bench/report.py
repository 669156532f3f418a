"""What a run of `valley2-edge bench` measured."""

from __future__ import annotations

import dataclasses
import os
import platform
from dataclasses import dataclass

from valley2_edge.bench.alternation import Measurement
from valley2_edge.bench.bundle import FirstToken
from valley2_edge.bench.options import Options, Part
from valley2_edge.runtime.core.probe import LimitName
from valley2_edge.version import __version__

HEADLINE_POSITIONS = 512
"""The length of a prefill that speaks for all."""
_LIMIT_NAMES: dict[LimitName, str] = {
    "read": "read_gb_per_s",
    "int8": "int8_gops",
    "fp32": "fp32_gflops",
    "fp16": "fp16_gflops",
}


@dataclass(frozen=True)
class Report:
    """What one run measured."""

    model: dict[str, object]
    """What was measured, by name."""
    options: Options
    isa: str
    threads: int
    limits: dict[LimitName, float]
    """Medians of all readings, bytes or operations a second."""
    prefill: tuple[Measurement, ...] = ()
    """A measurement for each length."""
    others: dict[Part, Measurement] = dataclasses.field(default_factory=dict)
    """Measurements of decode, siglip, projector and eagle, as far as they were asked for."""
    first_token: FirstToken | None = None
    device_name: str = ""
    """Name of the GPU that has layers of the decoder; empty without one."""
    complete: bool = False
    """Whether every part was measured; not so when the run was interrupted."""

    def as_json(self) -> dict[str, object]:
        """The report under the names of docs/performance.md."""
        content: dict[str, object] = {
            "format": "valley2-bench",
            "format_version": 2,
            "tool_version": __version__,
            "complete": self.complete,
            "machine": {
                "system": f"{platform.system()} {platform.machine()}",
                "processors": os.cpu_count(),
                "isa": self.isa,
                "threads": self.threads,
                **({"gpu": self.device_name} if self.device_name else {}),
                **{_LIMIT_NAMES[name]: rate / 1e9 for name, rate in self.limits.items()},
            },
            "model": self.model,
            "settings": dataclasses.asdict(self.options),
        }
        if self.prefill:
            lengths = [measurement.as_json() for measurement in self.prefill]
            content["prefill"] = {**self.headline.as_json(), "lengths": lengths}
        content |= {part: measurement.as_json() for part, measurement in self.others.items()}
        if self.first_token is not None:
            content["first-token"] = self.first_token.as_json()
        return content

    @property
    def headline(self) -> Measurement:
        """The prefill of `HEADLINE_POSITIONS` or else the longest one."""
        return max(self.prefill, key=lambda one: (one.amount == HEADLINE_POSITIONS, one.amount))
