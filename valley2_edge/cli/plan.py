"""`valley2-edge plan`: what a question will cost in memory, before anything is loaded."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Annotated, Any

import typer

from valley2_edge.chosen_bundle import resolve_bundle
from valley2_edge.cli.bundle_argument import BundleArgument
from valley2_edge.cli.flags import Without, with_flags
from valley2_edge.cli.help_page import examples
from valley2_edge.cli.option_groups import FLAGS
from valley2_edge.cli.terminal import output_console, print_line
from valley2_edge.errors import InputError
from valley2_edge.options import DEFAULT_FRAMES, LoadOptions, SessionOptions, size_bytes

EXAMPLES = examples(
    "valley2-edge plan nano --image 1280x720",
    "valley2-edge plan my-bundle --image 4000x3000 --image 4000x3000 --memory 6GiB",
    "valley2-edge plan my-bundle --video 1920x1080 --frames 16 --context-length 8192",
)


@with_flags(FLAGS)
def plan(
    bundle: BundleArgument = None,
    image: Annotated[
        list[str] | None,
        typer.Option(metavar="WxH", help="A picture's size in pixels, such as 1280x720; once for each picture."),
    ] = None,
    video: Annotated[
        str | None, typer.Option(metavar="WxH", help="The size of a video's frames in pixels, instead of pictures.")
    ] = None,
    frames: Annotated[int, typer.Option(help="Most frames to take of a video.")] = DEFAULT_FRAMES,
    conversation: Annotated[
        bool, typer.Option("--conversation", help="Plan for pictures that come when the context is full.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print bytes as JSON.")] = False,
    *,
    load: Annotated[LoadOptions, Without(("isa", "gpu_layers", "providers"))],
    session: Annotated[SessionOptions, Without(("system", "think", "strict", "max_picture_pixels"))],
) -> None:
    """Show how much memory a question will take, without loading the model."""
    pictures = _picture_sizes(image or [], video, frames)
    from valley2_edge.bundle import open_bundle
    from valley2_edge.cli.plan_view import plan_as_json, print_gpu, print_plan
    from valley2_edge.runtime.core.memory import MemorySettings, check_positions
    from valley2_edge.runtime.decoder_choice import place, with_layers
    from valley2_edge.runtime.memory_budget import MemoryBudget

    settings, limit = MemorySettings.of(load, session), size_bytes(load.memory) or None
    opened = open_bundle(resolve_bundle(bundle), check="sizes")
    about: dict[str, Any] = {"video": video is not None, "conversation": conversation}
    check_positions(opened, pictures, settings, video=video is not None)
    sizes = list(pictures.elements())
    elsewhere = load.device == "cuda" and load.gpu_memory is not None
    placed, gpu = place(opened, settings, load.device, elsewhere=elsewhere)
    wanted = with_layers(opened, placed, gpu)
    choice = MemoryBudget(opened, limit or 0, wanted).choose(wanted, sizes, **about)
    if as_json:
        typer.echo(json.dumps(plan_as_json(opened.directory, sizes, limit, choice), indent=2))
        return
    print_plan(opened.directory, limit, choice)
    if choice.plan.gpu_bytes:
        print_gpu(choice.plan, "" if gpu is None else gpu.text)
    elif load.device == "auto":
        print_line(output_console(), "GPU: none that can be used")


def _picture_sizes(images: list[str], video: str | None, frames: int) -> Counter[tuple[int, int]]:
    """The number of pictures of each size."""
    if images and video:
        raise InputError("one question can be about pictures or about a video, not about both")
    if frames < 1:
        raise InputError(f"--frames must be at least 1, not {frames}")
    if video:
        return Counter({_read_size("--video", video): frames})
    return Counter(_read_size("--image", text) for text in images)


def _read_size(option: str, text: str) -> tuple[int, int]:
    match = re.fullmatch(r"\s*(\d{1,9})\s*[xX]\s*(\d{1,9})\s*", text)
    if match is None or not (int(match[1]) and int(match[2])):
        raise InputError(f"{option} takes width x height in pixels, for example 1280x720, not {text!r}")
    return int(match[1]), int(match[2])
