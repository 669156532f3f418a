"""How the fields of the options classes appear on the command line: their groups, units and lists.

Names, defaults and meanings are those of `valley2_edge.options`.
"""

from __future__ import annotations

from collections.abc import Callable

from valley2_edge.byte_count import parse_bytes
from valley2_edge.cli.flags import Flag
from valley2_edge.errors import InputError
from valley2_edge.options import Activations, Device, Isa, KvPrecision, Speculation, VisionEngineName

_MODEL = "Model and machine"
_CONTEXT = "Context"
_PICTURES = "Pictures"
_SAMPLING = "Sampling"


def size_reader(name: str, least: int = 1) -> Callable[[str], int]:
    """A function that reads an amount of memory such as 6GiB and names the flag when it cannot.

    Args:
        name: The flag's name.
        least: Fewest bytes that are acceptable.
    """

    def read(text: str) -> int:
        try:
            return parse_bytes(text, least)
        except InputError as error:
            raise InputError(f"{name}: {error}") from error

    return read


FLAGS: dict[str, Flag] = {
    # LoadOptions
    "threads": Flag(),
    "isa": Flag(_MODEL, kind=Isa),
    "activations": Flag(_MODEL, kind=Activations),
    "device": Flag(kind=Device | None),
    "gpu_layers": Flag(_MODEL),
    "gpu_memory": Flag(_MODEL, kind=str | None, metavar="SIZE", read=size_reader("--gpu-memory")),
    "providers": Flag(
        _MODEL,
        names=("--provider",),
        kind=list[str] | None,
        metavar="NAME",
        note="Give the flag once for each.",
    ),
    "vision_engine": Flag(_MODEL, kind=VisionEngineName),
    "keep_vision": Flag(_MODEL),
    "vision_cache_bytes": Flag(
        _MODEL,
        names=("--vision-cache",),
        kind=str,
        metavar="SIZE",
        default="256MiB",
        read=size_reader("--vision-cache", least=0),
    ),
    "prefix_cache_bytes": Flag(
        _MODEL,
        names=("--prefix-cache",),
        kind=str,
        metavar="SIZE",
        default="256MiB",
        read=size_reader("--prefix-cache", least=0),
    ),
    "memory": Flag(kind=str | None, metavar="SIZE", read=size_reader("--memory")),
    # SessionOptions
    "policy": Flag(_PICTURES),
    "strict": Flag(_PICTURES),
    "eagle": Flag(_PICTURES),
    "tiles": Flag(_PICTURES),
    "eagle_preset": Flag(_PICTURES),
    "eagle_max_tokens": Flag(_PICTURES),
    "eagle_min_tokens": Flag(_PICTURES),
    "max_picture_pixels": Flag(_PICTURES, metavar="COUNT"),
    "system": Flag(metavar="TEXT"),
    "think": Flag(),
    "context_length": Flag(_CONTEXT, names=("--context-length", "--context")),
    "kv_precision": Flag(_CONTEXT, kind=KvPrecision),
    "prefill_chunk": Flag(_CONTEXT),
    # SamplingOptions
    "max_new_tokens": Flag(),
    "temperature": Flag(_SAMPLING),
    "top_k": Flag(_SAMPLING),
    "top_p": Flag(_SAMPLING),
    "min_p": Flag(_SAMPLING),
    "repetition_penalty": Flag(_SAMPLING),
    "seed": Flag(_SAMPLING),
    "speculation": Flag(_SAMPLING, kind=Speculation),
}
"""How each field is typed, by its name; a field that is missing here would be a common option."""
