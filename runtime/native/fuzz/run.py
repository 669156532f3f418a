"""Run the fuzz targets for a while, some at a time, and say what came of it.

Each target starts from its seeds, from the kept corpus beside this file and from what earlier runs left in the build.
An input that ends a target is kept in the build's `findings`, and the exit status is 1. No Python package is needed.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

FUZZ = Path(__file__).resolve().parent
TARGETS = tuple(sorted(path.stem.removeprefix("fuzz_") for path in FUZZ.glob("fuzz_*.cpp")))
TEXTS = ("json", "safetensors", "plan", "decoder", "tower", "session", "tokenizer")
"""The targets whose input is text in the main, for which there is a dictionary."""
MOST_BYTES = {
    "json": 32768,
    "safetensors": 8192,
    "sampler": 2048,
    "calls": 512,
    "pictures": 4096,
    "picture_bytes": 4096,
    "text": 1024,
}
"""The longest input, where it is not that of the largest seed with room to grow."""
RUN_SECONDS = 10
"""A single input that takes longer is a finding."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a target did."""

    target: str
    executions: int
    inputs: int
    """In the corpus at the end."""
    findings: tuple[Path, ...]
    failed: bool


def fuzz(target: str, build: Path, seconds: int, scratch: Path) -> Outcome:
    """Run one target for the given seconds; its output goes to `findings/TARGET.log` in the build."""
    corpus, findings = build / "corpus" / target, build / "findings"
    corpus.mkdir(parents=True, exist_ok=True)
    findings.mkdir(exist_ok=True)
    before = set(findings.iterdir())
    kept = [folder for folder in (FUZZ / "corpus" / target, build / "seeds" / target) if folder.is_dir()]
    command = [
        str(build / "fuzz" / f"fuzz_{target}"),
        f"-max_total_time={seconds}",
        f"-max_len={MOST_BYTES.get(target, 16384)}",
        f"-timeout={RUN_SECONDS}",
        "-rss_limit_mb=1024",
        "-malloc_limit_mb=256",
        "-print_final_stats=1",
        "-len_control=20",
        f"-artifact_prefix={findings}/{target}-",
        *([f"-dict={FUZZ / 'json.dict'}"] if target in TEXTS else []),
        str(corpus),
        *map(str, kept),
    ]
    sanitizers = {
        "ASAN_OPTIONS": "quarantine_size_mb=16:detect_stack_use_after_return=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    log = findings / f"{target}.log"
    with log.open("w", errors="replace") as output:
        status = subprocess.run(
            command, stdout=output, stderr=output, env={**os.environ, **sanitizers, "TMPDIR": str(scratch)}, check=False
        ).returncode
    executed = re.search(r"stat::number_of_executed_units: *(\d+)", log.read_text(errors="replace"))
    found = tuple(sorted(path for path in findings.iterdir() if path not in before and path.suffix != ".log"))
    count = int(executed.group(1)) if executed else 0
    return Outcome(target, count, len(list(corpus.iterdir())), found, status != 0)


def main() -> int:
    """Parse the command line, run, print one line a target as it ends and a table at last."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("build", type=Path, help="folder of a build with -DV2E_FUZZ=ON")
    parser.add_argument("--seconds", type=int, required=True, help="for each target")
    parser.add_argument("--jobs", type=int, default=1, help="targets at a time")
    parser.add_argument("targets", nargs="*", metavar="target", help=f"of {', '.join(TARGETS)}; all when left out")
    options = parser.parse_intermixed_args()
    targets = options.targets or list(TARGETS)
    if unknown := set(targets) - set(TARGETS):
        parser.error(f"there is no target {', '.join(sorted(unknown))}")
    build = options.build.resolve()
    subprocess.run([build / "fuzz" / "fuzz_seeds", build / "seeds"], check=True)
    memory = Path("/dev/shm")  # files of a run are written thousands of times a second
    with (
        tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as scratch,
        concurrent.futures.ThreadPoolExecutor(options.jobs) as pool,
    ):
        outcomes = list(pool.map(lambda target: fuzz(target, build, options.seconds, Path(scratch)), targets))
    lines = [f"{'target':<12} {'executions':>12} {'corpus':>8} {'findings':>9}"]
    for outcome in outcomes:
        findings = max(len(outcome.findings), int(outcome.failed))
        lines.append(f"{outcome.target:<12} {outcome.executions:>12,} {outcome.inputs:>8,} {findings:>9}")
    sys.stdout.write("\n".join(lines) + "\n")
    for outcome in outcomes:
        if outcome.failed:
            sys.stdout.write(f"{outcome.target}: {build / 'findings' / f'{outcome.target}.log'}\n")
            sys.stdout.writelines(f"  {path}\n" for path in outcome.findings)
    return int(any(outcome.failed for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
