"""Measures how soon a cancel is obeyed in each stage of an answer, at the released layer sizes.

    python benchmarks/cancel_latency.py --directory build/cancel

The first call writes a decoder and vision towers of a few layers with weights that mean nothing, about 2 GB. Then every
stage is started again and again, and cancelled from another thread at seeded random moments; a latency is the time from
the call of `cancel` until the stage has raised Cancelled. Fewer layers change no latency: a cancel never waits for one.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from vision_towers import Subject, inputs_of, open_engine, prepare, released

from valley2_edge.bench.synthetic_decoder import SyntheticDecoder
from valley2_edge.config import DecoderConfig, ModelConfig
from valley2_edge.errors import Cancelled, Valley2Error
from valley2_edge.options import EaglePreset
from valley2_edge.policy import Policy
from valley2_edge.runtime.cancellation import CancelToken
from valley2_edge.runtime.core.decoder import Decoder
from valley2_edge.runtime.core.generation import GenerateOptions
from valley2_edge.runtime.core.preprocess import PreparedPicture, prepare_pictures
from valley2_edge.runtime.core.vision_engine import ComponentName, EngineInputs

PICTURE_SIDE = 10_000
"""Pixels of a picture that is as large as the command line accepts."""
PROMPT = 512
CONTEXT = 64
"""Positions before the tokens that are decoded."""
ANSWER = 6
MOST_TRIES = 3
"""How often one moment is tried: a stage may end just before it."""


@dataclass(frozen=True)
class Stage:
    """Something that a cancel stops."""

    name: str
    run: Callable[[CancelToken], None]
    make_ready: Callable[[], None] = lambda: None
    """What comes before each run, and is not stopped."""


def seconds_of(stage: Stage) -> float:
    """How long the stage takes when nobody stops it."""
    stage.make_ready()
    begin = time.perf_counter()
    stage.run(CancelToken())
    return time.perf_counter() - begin


def latency_of(stage: Stage, delay: float) -> float | None:
    """Seconds from a cancel `delay` seconds after the begin to the stage's end; None: it had ended before."""
    token, ended = CancelToken(), 0.0
    stopped = False

    def work() -> None:
        nonlocal ended, stopped
        try:
            stage.run(token)
        except Cancelled:
            stopped = True
        ended = time.perf_counter()

    stage.make_ready()
    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(delay)
    asked = time.perf_counter()
    token.cancel()
    thread.join()
    return ended - asked if stopped else None


def latencies_of(stage: Stage, moments: int, random: np.random.Generator) -> list[float]:
    """Latencies at so many random moments, in seconds."""
    seconds = seconds_of(stage)
    found = []
    for _ in range(moments):
        for _ in range(MOST_TRIES):
            latency = latency_of(stage, float(random.uniform(0, seconds)))
            if latency is not None:
                found.append(latency)
                break
    return found


def picture_stages(model: ModelConfig) -> Iterator[Stage]:
    """Resizing and cutting a picture of 100 megapixels."""
    row = np.random.default_rng(0).integers(0, 256, (1, PICTURE_SIDE, 3), np.uint8)
    pixels = np.repeat(row, PICTURE_SIDE, axis=0)  # (side, side, 3)
    (picture,) = prepare_pictures([pixels], model, Policy(eagle_preset="document"))

    def tiles(token: CancelToken) -> None:
        picture.tiles(token)

    def patches(token: CancelToken) -> None:
        picture.patches(token)

    yield Stage("tiles of 100 MP", tiles)
    yield Stage("patches of 100 MP", patches)


def eagle_inputs(model: ModelConfig, preset: EaglePreset) -> EngineInputs:
    """Patches of a large picture under a preset."""
    pixels = np.random.default_rng(0).integers(0, 256, (2000, 3000, 3), np.uint8)
    picture: PreparedPicture = prepare_pictures([pixels], model, Policy(eagle_preset=preset))[0]
    patches, positions = picture.patches()
    return {"patches": patches, "positions": positions}


def vision_stages(
    directory: Path, engine: str, layers: int, threads: int, presets: list[EaglePreset], stack: ExitStack
) -> Iterator[Stage]:
    """The towers of one engine: int8, bf16 or onnx."""
    model = released(layers)

    def stage_of(name: str, tower: ComponentName, inputs: EngineInputs) -> Stage:
        file_engine = "bf16" if tower == "projector" and engine == "int8" else engine
        suffix = "onnx" if engine == "onnx" else "safetensors"
        subject = Subject(tower, file_engine, directory / f"{tower}-{file_engine}-{layers}.{suffix}")
        prepare(subject, model)
        opened = open_engine(subject, model, threads)
        stack.callback(opened.close)

        def run(token: CancelToken) -> None:
            opened.run(inputs, token)

        return Stage(f"{name}, {file_engine}", run)

    yield stage_of("siglip", "siglip", inputs_of("siglip"))
    yield stage_of("projector", "projector", inputs_of("projector"))
    # A graph that is left behind computes on for a while: a document's attention for longer than a measurement may.
    for preset in presets[:1] if engine == "onnx" else presets:
        yield stage_of(f"eagle {preset}", "eagle", eagle_inputs(model, preset))


def decoder_stages(directory: Path, layers: int, threads: int, stack: ExitStack) -> Iterator[Stage]:
    """A prefill of 512 positions, and decoding after it."""
    config = DecoderConfig(num_hidden_layers=layers)
    place = directory / f"decoder-{layers}"
    if not place.exists():
        place.mkdir(parents=True)
        SyntheticDecoder(config).write(place)
    decoder = stack.enter_context(Decoder(place, threads=threads))
    session = stack.enter_context(decoder.session(reuse="off"))
    random = np.random.default_rng(0)
    embeddings = random.standard_normal((PROMPT, config.hidden_size), np.float32)

    def forget() -> None:
        session.resume()
        session.truncate(0)

    def prefill(token: CancelToken) -> None:
        with token.stopping(session.cancel):
            session.prefill([embeddings])

    def read_prompt() -> None:
        session.resume()
        session.truncate(min(session.length, CONTEXT - 1))
        session.prefill([embeddings[session.length : CONTEXT]])

    def decode(token: CancelToken) -> None:
        with token.stopping(session.cancel):
            session.generate(GenerateOptions(max_new_tokens=ANSWER, speculation="off"))

    yield Stage(f"prefill {PROMPT}", prefill, forget)
    yield Stage("decode", decode, read_prompt)


def all_stages(options: argparse.Namespace, stack: ExitStack) -> Iterator[Stage]:
    """Yields the stages; each is made only when the one before has been measured."""
    for part in options.parts.split(","):
        if part == "pictures":
            yield from picture_stages(ModelConfig())
        elif part == "decoder":
            yield from decoder_stages(options.directory, options.layers, options.threads, stack)
        else:
            presets = options.eagle.split(",")
            yield from vision_stages(options.directory, part, options.layers, options.threads, presets, stack)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--directory", type=Path, default=Path("build/cancel"), help="directory in which the layers are kept"
    )
    parser.add_argument("--layers", type=int, default=2, help="layers of the decoder, SigLIP and Eagle")
    parser.add_argument("--moments", type=int, default=20, help="how often each stage is cancelled")
    parts = "pictures,decoder,int8,onnx"
    parser.add_argument(
        "--parts", default=parts, help=f"what is measured: {parts}, or bf16; the last ones are vision towers"
    )
    parser.add_argument(
        "--eagle", default="balanced,document", help=f"presets of Eagle: {', '.join(get_args(EaglePreset))}"
    )
    parser.add_argument("--threads", type=int, default=2, help="threads of the decoder and the towers")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the moments")
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(options.seed)
    print(f"{'stage':<24} {'cancels':>7} {'median ms':>10} {'95 % ms':>8} {'worst ms':>9}")
    with ExitStack() as stack:
        for stage in all_stages(options, stack):
            found = sorted(1e3 * latency for latency in latencies_of(stage, options.moments, random))
            high = found[min(len(found) - 1, int(0.95 * len(found)))]
            print(
                f"{stage.name:<24} {len(found):>7} {statistics.median(found):>10.1f} {high:>8.1f} {found[-1]:>9.1f}",
                flush=True,
            )


if __name__ == "__main__":
    try:
        main()
    except Valley2Error as error:
        sys.exit(str(error))
