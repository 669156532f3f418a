"""A small campaign of damaged files: whatever is in them, the reader answers or says one sentence.

The damage is chosen by a seed, so that a failure can be repeated: values of other kinds and sizes, missing, renamed and
repeated keys, and bytes that break the JSON.
"""

from __future__ import annotations

import copy
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from valley2_edge.builtin import builtin_bundle
from valley2_edge.bundle import open_bundle
from valley2_edge.calibration.jsonl import read_calibration_file
from valley2_edge.chosen_bundle import last_bundle
from valley2_edge.config import DecoderConfig
from valley2_edge.errors import Valley2Error
from valley2_edge.eval.questions_file import read_questions
from valley2_edge.export.checkpoint.config import read_model_config
from valley2_edge.export.checkpoint.shards import find_tensors
from valley2_edge.export.checkpoint.tensor_names import required_tensors
from valley2_edge.export.gptq.config import read_gptq_config
from valley2_edge.export.gptq.source import GptqDecoder
from valley2_edge.runtime.core.tokenizer import Tokenizer
from valley2_edge.user_data import DATA_DIRECTORY_VARIABLE, data_directory
from valley2_edge.verified_files import VerifiedFiles
from valley2_edge.verify.golden import Golden

GOLDEN = Path(__file__).parent / "golden"
CHECKPOINT, GPTQ = GOLDEN / "ckpt" / "eagle_ovis", GOLDEN / "gptq" / "symmetric"
TRIES = 150
SMALL = DecoderConfig(
    hidden_size=64,
    intermediate_size=64,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    vocab_size=32,
    max_position_embeddings=256,
)

STRANGE: list[Any] = [
    None, True, False, 0, -1, 1, 2, 64, 2**31, 2**63, 2**64, 10**30, -(2**70), 0.5, -0.0, 1e308, "", "a", "\x00",
    "\x1b[2J", "../x", "/etc/passwd", "C:\\x", "x" * 3000, "é🙂", [], {}, [[]], [None], {"a": 1}, [[1, 2], [3]],
]  # fmt: skip
BYTES = [b'"', b"{", b"[", b"NaN", b"-Infinity", b"9" * 5000, b"\\ud800", b"\0", b"\xff", b"[" * 3000, b"1e999", b","]

Read = Callable[[bytes], object]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, child in children for place in places(child, (*path, key)))]


def damaged(rng: random.Random, document: Any) -> bytes:
    document = copy.deepcopy(document)
    for _ in range(rng.choice((1, 1, 2, 3))):
        found = places(document)[1:]
        if not found:
            break
        shallow = [place for place in found if len(place) <= 2]
        *parents, key = rng.choice(found if rng.random() < 0.5 else shallow)
        parent = document
        for step in parents:
            parent = parent[step]
        choice = rng.random()
        if choice < 0.2 and isinstance(parent, dict):
            del parent[key]
        elif choice < 0.3 and isinstance(parent, dict):
            parent[rng.choice(("x", "rope_scaling", "", "\ud83d", "\x1b")) + key] = parent.pop(key)
        else:
            parent[key] = copy.deepcopy(rng.choice(STRANGE))
    content = bytearray(json.dumps(document).encode())
    if rng.random() < 0.25:
        place = rng.randrange(len(content))
        content[place : place + rng.choice((0, 1, 40))] = rng.choice(BYTES)
    return bytes(content)


def survives(document: Any, read: Read, seed: int) -> tuple[int, int]:
    """How often damage was read and refused; anything else than that is a failure."""
    rng = random.Random(seed)
    sentences: list[str] = []
    for _ in range(TRIES):
        content = damaged(rng, document)
        try:
            read(content)
        except Valley2Error as error:
            sentences.append(str(error))
    assert not [sentence for sentence in sentences if "\n" in sentence]
    return TRIES - len(sentences), len(sentences)


@pytest.fixture(autouse=True)
def own_data_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATA_DIRECTORY_VARIABLE, str(tmp_path / "data"))


@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "vision_geometry.json", "tokenizer_config.json"]
)
def test_config_files(tmp_path: Path, name: str) -> None:
    for file in CHECKPOINT.glob("*config.json"):
        shutil.copyfile(file, tmp_path / file.name)
    shutil.copyfile(CHECKPOINT / "vision_geometry.json", tmp_path / "vision_geometry.json")

    def read(content: bytes) -> None:
        (tmp_path / name).write_bytes(content)
        required_tensors(read_model_config(tmp_path))

    answered, refused = survives(json.loads((CHECKPOINT / name).read_text("utf-8")), read, 1)
    assert answered > 0
    assert refused > 0


def test_tokenizer(tmp_path: Path) -> None:
    document = json.loads((CHECKPOINT / "tokenizer.json").read_text("utf-8"))

    def read(content: bytes) -> None:
        tokenizer = Tokenizer(tmp_path / "tokenizer.json", content)
        ids = [*tokenizer.encode_text("Grüße 東京 12"), *tokenizer.encode_with_controls("a<|im_end|>b")]
        tokenizer.decode([*ids, 0, tokenizer.largest_id, 1 << 21])

    assert survives(document, read, 2)[1] > 0


def test_manifest(tmp_path: Path) -> None:
    nano = builtin_bundle("nano")
    assert nano is not None
    bundle = Path(shutil.copytree(nano, tmp_path / "bundle"))
    document = json.loads((bundle / "valley2.json").read_text("utf-8"))

    def read(content: bytes) -> None:
        (bundle / "valley2.json").write_bytes(content)
        open_bundle(bundle)

    assert survives(document, read, 3)[1] > 0


def test_quantize_config(tmp_path: Path) -> None:
    document = json.loads((GPTQ / "quantize_config.json").read_text("utf-8"))
    document["dynamic"] = {r"+:.*\.18\..*(gate|up).*": {"sym": False, "bits": 8}, "-:.*[0-9]+x$": {}}

    def read(content: bytes) -> None:
        (tmp_path / "quantize_config.json").write_bytes(content)
        read_gptq_config(tmp_path).is_symmetric("model.layers.18.mlp.gate_proj" * 5)

    assert survives(document, read, 4)[0] > 0


def test_headers_of_safetensors_and_their_index(tmp_path: Path) -> None:
    directory = Path(shutil.copytree(GPTQ, tmp_path / "gptq"))
    raw = (directory / "model.safetensors").read_bytes()
    end = 8 + int.from_bytes(raw[:8], "little")

    def read(content: bytes) -> None:
        (directory / "model.safetensors").write_bytes(len(content).to_bytes(8, "little") + content + raw[end:])
        GptqDecoder(directory, SMALL)

    assert survives(json.loads(raw[8:end]), read, 5)[1] > 0
    index = tmp_path / "model.safetensors.index.json"
    for shard in CHECKPOINT.glob("model-*"):
        (tmp_path / shard.name).symlink_to(shard)

    def read_index(content: bytes) -> None:
        index.write_bytes(content)
        find_tensors(tmp_path)

    assert survives(json.loads((CHECKPOINT / index.name).read_text("utf-8")), read_index, 6)[1] > 0


def test_questions_and_calibration_samples(tmp_path: Path) -> None:
    Image.new("RGB", (4, 3)).save(tmp_path / "a.png")
    question = {"id": "q", "task": "ocr", "question": "W?", "options": [*"1234"], "answer": 2, "images": ["a.png"]}

    def read(content: bytes) -> None:
        (tmp_path / "q.jsonl").write_bytes(content)
        read_questions(tmp_path / "q.jsonl")

    assert survives(question, read, 7)[0] > 0

    def read_samples(content: bytes) -> None:
        (tmp_path / "c.jsonl").write_bytes(content)
        read_calibration_file(tmp_path / "c.jsonl")

    assert survives({"images": ["a.png"], "prompt": "W?", "answer": "1"}, read_samples, 8)[1] > 0


def test_reference_outputs(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "inputs", tmp_path / "inputs")
    for folder in ("fwd", "pre", "pre_hf"):
        (tmp_path / folder).symlink_to(GOLDEN / folder)
    cases = json.loads((GOLDEN / "manifest.json").read_text("utf-8"))["cases"]["eagle_ovis"]

    def read(content: bytes) -> None:
        (tmp_path / "manifest.json").write_bytes(content)
        Golden(tmp_path).case("eagle_ovis", "tiny30x20", "repo")

    assert survives({"cases": {"eagle_ovis": {"tiny30x20": cases["tiny30x20"]}}}, read, 9)[0] > 0


def test_own_memory(tmp_path: Path) -> None:
    data_directory().mkdir()

    def read(content: bytes) -> None:
        (data_directory() / "last_bundle.json").write_bytes(content)
        (data_directory() / "verified_files.json").write_bytes(content)
        last_bundle()
        VerifiedFiles().save()

    document = {"bundle": "/tmp/x", "version": 2, "files": {"/tmp/x": [1, 2, 3, 4, 5, "a"], "/y": [1]}}
    assert survives(document, read, 10) == (TRIES, 0)
