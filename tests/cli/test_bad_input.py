"""Bad input: one clear sentence, exit code 2, nothing half written."""

from __future__ import annotations

import errno
import json
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from valley2_edge.export.bundle import writer as bundle_writer

CHECKPOINT = Path(__file__).parents[1] / "golden" / "ckpt" / "eagle_ovis"


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def noise(mode: str, size: tuple[int, int] = (64, 48)) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


@pytest.fixture
def ask(run, fp32_bundle: Path):
    """Asks about one picture."""
    return lambda file, *words: run("chat", file, "What?", "--bundle", fp32_bundle, "--max-new-tokens", 2, *words)


def test_missing_file(ask, tmp_path: Path) -> None:
    outcome = ask(tmp_path / "nothing.jpg")
    assert outcome.code == 2
    assert "there is no picture or video at" in outcome.error


def test_text_file_named_jpg(ask, tmp_path: Path) -> None:
    file = tmp_path / "text.jpg"
    file.write_text("not a picture")
    outcome = ask(file)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert "text.jpg is not a picture" in outcome.error


def test_truncated_jpeg(ask, tmp_path: Path) -> None:
    file = save(tmp_path / "cut.jpg", noise("RGB", (640, 480)))
    file.write_bytes(file.read_bytes()[:5000])
    outcome = ask(file)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert "cut.jpg is truncated" in outcome.error


@pytest.mark.parametrize(("width", "height"), [(0, 0), (20_000, 20_000)])
def test_picture_without_pixels_or_with_too_many(ask, tmp_path: Path, width: int, height: int) -> None:
    file = tmp_path / "size.png"
    file.write_bytes(png_header(width, height))
    outcome = ask(file)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert "size.png" in outcome.error


def test_thread_of_a_picture(ask, tmp_path: Path) -> None:
    outcome = ask(save(tmp_path / "thread.png", noise("RGB", (1, 20_000))))
    assert (outcome.code, outcome.stdout) == (2, "")
    assert "200" in outcome.error


def test_animated_gif_gives_its_first_frame_and_says_so(ask, tmp_path: Path) -> None:
    frames = [noise("P"), noise("P").rotate(90)]
    file = save(tmp_path / "moving.gif", frames[0], save_all=True, append_images=frames[1:])
    outcome = ask(file)
    assert outcome.code == 0
    assert "warning" in outcome.stderr
    assert "only the first is used" in outcome.stderr


@pytest.mark.parametrize(("name", "mode"), [("ink.jpg", "CMYK"), ("deep.png", "I;16")])
def test_unusual_pixels_are_pictures_all_the_same(ask, tmp_path: Path, name: str, mode: str) -> None:
    image = (
        noise("CMYK") if mode == "CMYK" else Image.fromarray(np.arange(64 * 48, dtype=np.uint16).reshape(48, 64) * 20)
    )
    assert ask(save(tmp_path / name, image)).code == 0


def test_choice_that_does_not_exist_is_one_sentence(ask, picture: Path) -> None:
    error = ask(picture, "--kv-precision", "int3").error
    assert error == (
        "valley2-edge: error: Invalid value for '--kv-precision': 'int3' is not one of 'auto', 'fp32', 'fp16', 'int8'."
    )


def test_prompt_longer_than_the_context(ask, picture: Path) -> None:
    outcome = ask(picture, "--context-length", 64)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert "64" in outcome.error


@pytest.mark.parametrize(
    "words",
    [["--top-p", "7"], ["--temperature", "-1"], ["--eagle-max-tokens", "0"], ["--policy", "mine"], ["--threads", "-1"]],
)
def test_option_out_of_range(ask, picture: Path, words: list[str]) -> None:
    outcome = ask(picture, *words)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert outcome.error.startswith("valley2-edge: error: ")


@pytest.fixture
def copied_bundle(fp32_bundle: Path, tmp_path: Path) -> Path:
    """A bundle to be damaged."""
    return shutil.copytree(fp32_bundle, tmp_path / "bundle")


@pytest.mark.parametrize("command", [["chat", "Hello", "--bundle"], ["verify"]])
def test_bundle_with_one_flipped_byte(run, copied_bundle: Path, command: list[str]) -> None:
    file = copied_bundle / "decoder" / "decoder.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    outcome = run(*command, copied_bundle)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert "decoder.safetensors is damaged" in outcome.stderr.splitlines()[-1]


@pytest.mark.parametrize("command", [["chat", "Hello", "--bundle"], ["verify"], ["inspect"]])
def test_bundle_of_a_future_version(run, copied_bundle: Path, command: list[str]) -> None:
    manifest = json.loads((copied_bundle / "valley2.json").read_text())
    (copied_bundle / "valley2.json").write_text(json.dumps({**manifest, "format_version": 99}))
    outcome = run(*command, copied_bundle)
    assert outcome.code == 2
    assert "format version 99" in outcome.error


@pytest.mark.slow
def test_checkpoint_that_lacks_a_tensor(run, tmp_path: Path) -> None:
    checkpoint = shutil.copytree(CHECKPOINT, tmp_path / "checkpoint")
    name = "model.layers.1.mlp.up_proj.weight"
    index = checkpoint / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    shard = checkpoint / content["weight_map"].pop(name)
    index.write_text(json.dumps(content))
    tensors = {key: value for key, value in load_bytes(shard).items() if key != name}
    save_file(tensors, shard)
    outcome = run("export", checkpoint, "--method", "rtn", "--output", tmp_path / "bundle")
    assert outcome.code == 2
    assert name in outcome.stderr.splitlines()[-1]
    assert nothing_written(tmp_path)


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json"])
def test_checkpoint_that_lacks_a_file(run, tmp_path: Path, missing: str) -> None:
    checkpoint = shutil.copytree(CHECKPOINT, tmp_path / "checkpoint")
    (checkpoint / missing).unlink()
    outcome = run("export", checkpoint, "--output", tmp_path / "bundle")
    assert outcome.code == 2
    assert missing in outcome.stderr.splitlines()[-1]
    assert nothing_written(tmp_path)


def test_disk_too_small_for_the_bundle(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(bundle_writer.shutil, "disk_usage", lambda path: usage)
    outcome = run("export", CHECKPOINT, "--method", "rtn", "--output", tmp_path / "bundle")
    assert outcome.code == 2
    assert outcome.stderr.splitlines()[-1].startswith("valley2-edge: error: ")
    assert nothing_written(tmp_path)


def test_disk_that_becomes_full(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def export_vision(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "siglip.onnx.data")

    monkeypatch.setattr("valley2_edge.export.steps.export_vision", export_vision)
    outcome = run("export", CHECKPOINT, "--method", "rtn", "--output", tmp_path / "bundle")
    assert outcome.code == 2
    assert outcome.stderr.splitlines()[-1].startswith("valley2-edge: error: ")
    assert nothing_written(tmp_path)


def test_output_that_exists_is_kept(run, tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    output.mkdir()
    (output / "mine").touch()
    outcome = run("export", CHECKPOINT, "--output", output)
    assert outcome.code == 2
    assert [path.name for path in output.iterdir()] == ["mine"]


def load_bytes(shard: Path) -> dict[str, np.ndarray]:
    """Tensors of a bf16 shard; numpy has no bf16, and the values do not matter here."""
    import torch
    from safetensors.torch import load_file as load_torch

    return {name: tensor.to(torch.float32).numpy() for name, tensor in load_torch(shard).items()}


def nothing_written(directory: Path) -> bool:
    """Whether neither the bundle nor a partial one is there."""
    return not any("bundle" in path.name for path in directory.iterdir())
