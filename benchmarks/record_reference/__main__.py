"""Records what the reference's own code computes, so that `valley2-edge verify --golden` can prove a bundle by it.

    python benchmarks/record_reference CHECKPOINT QUESTIONS.jsonl --output DIR --trust-remote-code

For people who have the released weights. The code that lies beside them runs on this machine, with all that its user
may do; it is neither part of this project nor looked at by it. Each line of the file is a question:
{"name": "label", "prompt": "What is on the label?", "images": ["label.jpg"]}.
"""

from __future__ import annotations

import argparse
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from valley2_edge.errors import InputError, Valley2Error

if TYPE_CHECKING:
    from questions import ReferenceQuestion

HUB_PREFIX = "hf_"
"""Variants of this name follow the policy hub, which is what the code beside the weights does."""
EXIT_USER = 2


def record(arguments: argparse.Namespace, questions: list[ReferenceQuestion]) -> str:
    """Asks the reference every question and writes the directory.

    Returns:
        The name of the variant.

    Raises:
        InputError: The code is not that of the release.
    """
    import torch
    import transformers
    from golden_writer import GoldenWriter
    from reference_run import load_reference, run_reference

    torch.manual_seed(0)
    model, processor = load_reference(arguments.checkpoint, getattr(torch, arguments.dtype), arguments.device)
    variant = HUB_PREFIX + Path(arguments.checkpoint).name
    writer = GoldenWriter(arguments.output, variant, processor.tokenizer.decode)
    if Path(arguments.checkpoint).is_dir():
        writer.copy_configuration(Path(arguments.checkpoint))
    for number, question in enumerate(questions, 1):
        print(f"{number} of {len(questions)}: {question.name}", file=sys.stderr, flush=True)
        writer.add(question, run_reference(model, processor, question, arguments.new_tokens))
    writer.finish(
        {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
            "dtype": arguments.dtype,
            "device": arguments.device,
        }
    )
    return variant


def main() -> int:
    """Records, and says how to verify."""
    arguments = _parser().parse_args()
    try:
        if not arguments.trust_remote_code:
            raise InputError(
                f"The reference is code that lies in {arguments.checkpoint} and may do on this machine whatever you "
                "may do: read it, and say --trust-remote-code to run it."
            )
        if arguments.output.exists():
            raise InputError(f"{arguments.output} exists; name a directory that does not.")
        from questions import read_questions

        variant = record(arguments, read_questions(arguments.questions))
    except Valley2Error as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER
    print(f"valley2-edge verify BUNDLE --golden {arguments.output} --variant {variant}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python benchmarks/record_reference", description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", help="a directory with the weights and the reference's code, or an id of the hub")
    parser.add_argument("questions", type=Path, help="a JSONL file: name, prompt, perhaps images and system")
    parser.add_argument("--output", type=Path, required=True, help="the directory to write, which does not exist yet")
    parser.add_argument("--trust-remote-code", action="store_true", help="run the code that lies in the checkpoint")
    parser.add_argument("--new-tokens", type=int, default=16, help="tokens of each answer")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--device", default="cpu")
    return parser


if __name__ == "__main__":
    sys.exit(main())
