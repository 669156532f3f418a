"""Puts a trained checkpoint, and its int4 bundle, where the package finds them by the name nano.

python nano/publish.py build/nano/checkpoint
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from valley2_edge.byte_count import format_bytes
from valley2_edge.export.options import ExportOptions
from valley2_edge.export.pipeline import export_bundle
from valley2_edge.export.rounding.options import RoundingOptions

BUILTIN = Path(__file__).parents[1] / "valley2_edge" / "builtin"
CHECKPOINT = BUILTIN / "valley2-nano"
BUNDLE = BUILTIN / "valley2-nano-int4"


def main(trained: Path) -> None:
    """Copies the checkpoint and exports it."""
    if trained.resolve() != CHECKPOINT.resolve():
        shutil.rmtree(CHECKPOINT, ignore_errors=True)
        shutil.copytree(trained, CHECKPOINT)
    # GPTQ and the rotation gain nothing that can be measured on so small a decoder.
    options = ExportOptions(precision="int4", group_size=128, rotation="none", rounding=RoundingOptions(method="rtn"))
    export_bundle(CHECKPOINT, BUNDLE, options, overwrite=True)
    for directory in (CHECKPOINT, BUNDLE):
        size = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
        print(f"{directory}: {format_bytes(size)}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
