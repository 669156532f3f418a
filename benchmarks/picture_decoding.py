"""How long the core takes to decode a picture, beside Pillow: `python benchmarks/picture_decoding.py`.

The picture is a soft slope with noise, 4000 x 3000 pixels unless another size is asked for, in each kind that the core
reads. Times are CPU seconds of the process, the best of some runs.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from valley2_edge.picture_limits import DEFAULT_MAX_PICTURE_PIXELS
from valley2_edge.runtime.cancellation import CancelToken
from valley2_edge.runtime.core.pictures import decode_picture, inspect_picture
from valley2_edge.runtime.media.pillow_picture import read_picture

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "JPEG 4:2:0": ("JPEG", {"quality": 90, "subsampling": "4:2:0"}),
    "JPEG 4:4:4": ("JPEG", {"quality": 90, "subsampling": "4:4:4"}),
    "JPEG progressive": ("JPEG", {"quality": 90, "progressive": True}),
    "PNG": ("PNG", {"compress_level": 3}),
    "WebP lossy": ("WEBP", {"quality": 80, "method": 0}),
    "WebP lossless": ("WEBP", {"lossless": True, "quality": 0, "method": 0}),
    "GIF": ("GIF", {}),
    "BMP": ("BMP", {}),
}


def picture(width: int, height: int) -> Image.Image:
    """A slope of colours with noise on it."""
    rows, columns = np.linspace(0, 190, height)[:, None, None], np.linspace(0, 40, width)[None, :, None]
    noise = np.random.default_rng(1).integers(0, 12, (height, width, 3))
    return Image.fromarray((rows + columns * np.array([1.0, 0.5, 0.2]) + noise).astype(np.uint8))


def best_seconds(work: Callable[[], NDArray[np.uint8]], runs: int) -> float:
    """The least CPU time of some runs, all threads together."""
    seconds = []
    for _ in range(runs):
        begin = time.process_time()
        work()
        seconds.append(time.process_time() - begin)
    return min(seconds)


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--width", type=int, default=4000)
    parser.add_argument("--height", type=int, default=3000)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    image, limit = picture(options.width, options.height), DEFAULT_MAX_PICTURE_PIXELS
    print("| kind | file, MB | core, s | Pillow, s |\n| --- | --- | --- | --- |")
    for name, (kind, settings) in KINDS.items():
        stream = io.BytesIO()
        (image.quantize(256, Image.Quantize.FASTOCTREE) if kind == "GIF" else image).save(stream, kind, **settings)
        content = stream.getvalue()
        if not inspect_picture(content, name=name, strict=False, max_pixels=limit).readable:
            print(f"| {name} | {len(content) / 1e6:.1f} | not in this build | |")
            continue

        def by_core(content: bytes = content, name: str = name) -> NDArray[np.uint8]:
            return decode_picture(content, name=name, strict=False, max_pixels=limit, cancel=CancelToken()).pixels

        def by_pillow(content: bytes = content, name: str = name) -> NDArray[np.uint8]:
            return read_picture(io.BytesIO(content), name, False, limit, CancelToken())[0]

        np.testing.assert_array_equal(by_core(), by_pillow())
        times = [best_seconds(work, options.runs) for work in (by_core, by_pillow)]
        print(f"| {name} | {len(content) / 1e6:.1f} | {times[0]:.2f} | {times[1]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
