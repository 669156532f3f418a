"""Runs a command and reports the most memory that it had resident, pages of mapped files included.

    python benchmarks/measure_memory.py [--limit-gib 8] -- valley2-edge export DIR --precision int4 --output OUT

The total is the kernel's own high-water mark of the process, so no peak is missed. How it divides into private memory
and mapped files is sampled, on Linux. The report goes to stderr; the exit code is the command's, or 1 above the limit.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

GIB = 2**30
SAMPLE_SECONDS = 0.05


@dataclass
class ResidentSplit:
    """The sample with the largest total; bytes."""

    anonymous: int = 0
    files: int = 0
    shared: int = 0
    samples: int = 0
    stopped: threading.Event = field(default_factory=threading.Event)

    def watch(self, process_id: int) -> None:
        """Samples /proc until the process or the caller ends it; does nothing on systems without /proc."""
        status = Path(f"/proc/{process_id}/status")
        while not self.stopped.is_set():
            try:
                lines = status.read_text().splitlines()
            except OSError:
                return
            values = {key: value for key, _, value in (line.partition(":") for line in lines)}
            parts = [1024 * int(values.get(name, "0 kB").split()[0]) for name in ("RssAnon", "RssFile", "RssShmem")]
            if sum(parts) > self.anonymous + self.files + self.shared:
                self.anonymous, self.files, self.shared = parts
            self.samples += 1
            self.stopped.wait(SAMPLE_SECONDS)


def measure(command: list[str]) -> tuple[int, int, float, ResidentSplit]:
    """Runs a command to its end.

    Args:
        command: Program and arguments.

    Returns:
        Exit code, peak resident bytes, seconds, and the sampled division of the peak.

    Raises:
        OSError: The program cannot be started.
    """
    began = time.perf_counter()
    process = subprocess.Popen(command)
    split = ResidentSplit()
    watcher = threading.Thread(target=split.watch, args=(process.pid,), daemon=True)
    watcher.start()
    _, status, usage = os.wait4(process.pid, 0)
    elapsed = time.perf_counter() - began
    split.stopped.set()
    watcher.join()
    process.returncode = os.waitstatus_to_exitcode(status)
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return process.returncode, peak, elapsed, split


def main() -> int:
    """Reads the command line, measures, reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit-gib", type=float, help="exit with 1 when the peak is above this")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- and the command to run")
    arguments = parser.parse_args()
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if not command:
        parser.error("no command given")
    code, peak, elapsed, split = measure(command)
    report = f"peak resident memory {peak / GIB:.2f} GiB in {elapsed:.1f} s"
    if split.anonymous:
        report += f" (at the largest sample: private {split.anonymous / GIB:.2f}, mapped files {split.files / GIB:.2f})"
    print(report, file=sys.stderr)
    if code != 0:
        print(f"the command failed with exit code {code}", file=sys.stderr)
        return code if code > 0 else 128 - code
    if arguments.limit_gib is not None and peak > arguments.limit_gib * GIB:
        print(f"that is more than the limit of {arguments.limit_gib:g} GiB", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
