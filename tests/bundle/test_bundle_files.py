"""Which files a bundle's components may name, and files that change or are no files."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import onnx
import pytest
from plain_bundle import FILES, vision, write_manifest

from valley2_edge.bundle import open_bundle
from valley2_edge.bundle_files import MANIFEST_NAME
from valley2_edge.config import ModelConfig
from valley2_edge.errors import BundleError


@pytest.mark.parametrize("missing", ["decoder/decoder.safetensors", "decoder/embeddings.safetensors"])
def test_decoder_that_names_not_its_files_is_refused(directory: Path, missing: str) -> None:
    decoder = json.loads((directory / MANIFEST_NAME).read_text())["decoder"]
    write_manifest(directory, decoder={**decoder, "files": [name for name in decoder["files"] if name != missing]})
    with pytest.raises(BundleError, match=f"decoder.files lacks {missing}"):
        open_bundle(directory)


def test_manifest_without_any_decoder_file_is_refused(directory: Path) -> None:
    content = json.loads((directory / MANIFEST_NAME).read_text())
    files = {name: entry for name, entry in content["files"].items() if not name.startswith("decoder/")}
    write_manifest(directory, decoder={**content["decoder"], "files": []}, files=files)
    for check in ("sizes", "quick", "full"):
        with pytest.raises(BundleError, match=r"decoder\.files lacks decoder/decoder\.safetensors"):
            open_bundle(directory, check=check)


TOWER, GRAPH, WEIGHTS = "vision/siglip.safetensors", "vision/siglip.onnx", "vision/siglip.onnx.data"


@pytest.mark.parametrize(
    "files",
    [[], ["decoder/decoder.safetensors"], [TOWER, "x"], ["vision/eagle.safetensors"], [GRAPH], [GRAPH, WEIGHTS]],
)
def test_vision_component_has_its_own_tower_and_no_other_file(directory: Path, files: list[str]) -> None:
    write_manifest(directory, siglip={**vision("siglip"), "files": files})
    with pytest.raises(BundleError, match=r"siglip\.files must be vision/siglip\.safetensors alone"):
        open_bundle(directory)


@pytest.mark.parametrize(
    "files", [[], [GRAPH], [WEIGHTS, GRAPH], [TOWER], [GRAPH, WEIGHTS, TOWER], ["vision/eagle.onnx", WEIGHTS]]
)
def test_graph_of_a_vision_component_has_its_own_weights(directory: Path, files: list[str]) -> None:
    write_manifest(directory, graphs={"siglip": files})
    with pytest.raises(BundleError, match=r"graphs\.siglip must be vision/siglip\.onnx and vision/siglip\.onnx\.data"):
        open_bundle(directory)


@pytest.mark.parametrize("name", ["decoder", "", "../siglip", "a\x1b"])
def test_graph_of_what_is_no_vision_component_is_refused(directory: Path, name: str) -> None:
    write_manifest(directory, graphs={name: [GRAPH, WEIGHTS]})
    with pytest.raises(BundleError, match="which is no vision component of the bundle"):
        open_bundle(directory)


def test_bundle_without_eagle_has_no_graph_of_it(directory: Path) -> None:
    architecture = {**ModelConfig().model_dump(mode="json"), "eagle": None}
    graphs = {"eagle": ["vision/eagle.onnx", "vision/eagle.onnx.data"]}
    write_manifest(directory, architecture=architecture, eagle=None, graphs=graphs)
    with pytest.raises(BundleError, match="graphs names 'eagle', which is no vision component of the bundle"):
        open_bundle(directory)


def test_bundle_may_have_no_graphs(directory: Path) -> None:
    for graphs in (None, {}):
        write_manifest(directory, graphs=graphs)
        assert not open_bundle(directory).manifest.graphs


def test_onnx_decoder_has_all_its_graphs(directory: Path) -> None:
    decoder = json.loads((directory / MANIFEST_NAME).read_text())["decoder"]
    write_manifest(directory, decoder={**decoder, "engine": "onnx"})
    with pytest.raises(BundleError, match=r"decoder\.files lacks decoder/embeddings\.onnx"):
        open_bundle(directory)


def replace_file(directory: Path, name: str, content: bytes) -> dict[str, Any]:
    """Writes another file and gives its entry in "files"."""
    (directory / name).write_bytes(content)
    files = json.loads((directory / MANIFEST_NAME).read_text())["files"]
    return {**files, name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}}


def graph_with_weights_in(location: str) -> bytes:
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[2], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    graph = onnx.helper.make_graph([], "g", [], [], initializer=[tensor])
    content: bytes = onnx.helper.make_model(graph).SerializeToString()
    return content


@pytest.mark.parametrize("location", ["other.data", "../secret", "/etc/hostname", "eagle.onnx.data", "", "a\x1b"])
def test_weights_of_a_graph_must_be_listed(directory: Path, location: str) -> None:
    (directory / "vision/other.data").write_bytes(b"unlisted")
    content = graph_with_weights_in(location)
    write_manifest(directory, files=replace_file(directory, "vision/siglip.onnx", content))
    with pytest.raises(BundleError, match=r"vision/siglip\.onnx (has weights in|is not acceptable: )"):
        open_bundle(directory)


def test_listed_weights_of_a_graph_are_let_through(directory: Path) -> None:
    files = replace_file(directory, "vision/siglip.onnx", graph_with_weights_in("siglip.onnx.data"))
    write_manifest(directory, files=files)
    assert open_bundle(directory).size


@pytest.mark.parametrize("name", ["vision/more.onnx", "decoder/a/b", "tokenizer/vocab.json", "selftest/x"])
def test_unlisted_file_among_the_components_is_named_by_a_full_check(directory: Path, name: str) -> None:
    (directory / name).parent.mkdir(parents=True, exist_ok=True)
    (directory / name).write_text("x")
    open_bundle(directory)
    with pytest.raises(BundleError, match=f"does not list '{name}'"):
        open_bundle(directory, check="full")


def test_notes_beside_the_components_and_what_file_managers_leave_are_no_matter(directory: Path) -> None:
    (directory / "NOTES.txt").write_text("mine")
    (directory / "vision/.DS_Store").write_text("Finder's")
    listed = open_bundle(directory, check="full").manifest.files
    assert not {"NOTES.txt", "vision/.DS_Store"} & set(listed)


def test_file_that_is_swapped_after_the_check_is_not_read(directory: Path) -> None:
    bundle = open_bundle(directory)
    (directory / "other").write_bytes(b"[]")
    (directory / "other").replace(directory / "tokenizer/tokenizer.json")
    with pytest.raises(BundleError, match=r"tokenizer\.json has changed since the bundle was checked"):
        bundle.read("tokenizer/tokenizer.json", 100)


def test_file_that_is_swapped_while_a_library_opens_it_is_noticed(directory: Path) -> None:
    bundle = open_bundle(directory)
    name = "vision/siglip.safetensors"
    (directory / "other").write_bytes(FILES[name])
    with pytest.raises(BundleError, match=r"siglip\.safetensors has changed"), bundle.unchanged(name):
        (directory / "other").replace(directory / name)


def test_file_that_is_swapped_while_it_is_hashed_is_another_file(directory: Path) -> None:
    """The stamp is that of the file that was hashed, not of what has its name afterwards."""
    name = "decoder/decoder.safetensors"

    def swap(done: int, total: int) -> None:
        if not (directory / "swapped").exists():
            (directory / "swapped").touch()
            (directory / "other").write_bytes(FILES[name])
            (directory / "other").replace(directory / name)

    try:
        bundle = open_bundle(directory, progress=swap)
    except BundleError:
        return
    assert bundle.read(name, 100) == FILES[name]


def test_device_and_pipe_in_place_of_a_manifest_are_refused(directory: Path) -> None:
    (directory / MANIFEST_NAME).unlink()
    (directory / MANIFEST_NAME).symlink_to("/dev/zero")
    with pytest.raises(BundleError, match=r"valley2\.json is a device, not a file"):
        open_bundle(directory)
    (directory / MANIFEST_NAME).unlink()
    os.mkfifo(directory / MANIFEST_NAME)
    with pytest.raises(BundleError, match=r"valley2\.json is a pipe, not a file"):
        open_bundle(directory)


def test_pipe_in_place_of_a_file_is_refused(directory: Path) -> None:
    (directory / "vision/siglip.safetensors").unlink()
    os.mkfifo(directory / "vision/siglip.safetensors")
    with pytest.raises(BundleError, match=r"siglip\.safetensors is a pipe, not a file"):
        open_bundle(directory)


def test_key_that_stands_twice_is_refused(directory: Path) -> None:
    text = (directory / MANIFEST_NAME).read_text()
    (directory / MANIFEST_NAME).write_text(text.replace('"size": ', '"size": 1, "size": ', 1))
    with pytest.raises(BundleError, match="the key 'size' stands twice"):
        open_bundle(directory)


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("siglip", "num_attention_heads", 0),
        ("siglip", "patch_size", 0),
        ("decoder", "num_hidden_layers", 10**9),
        ("decoder", "max_position_embeddings", -5),
        ("decoder", "rms_norm_eps", 0),
        ("picture", "canvases", [[384, 384]] * 1025),
        ("picture", "canvases", [[384, 385]]),
        ("projector", "tokens_per_side", 9),
    ],
)
def test_architecture_out_of_bounds_is_refused(directory: Path, part: str, key: str, value: object) -> None:
    architecture = ModelConfig().model_dump(mode="json")
    architecture[part][key] = value
    write_manifest(directory, architecture=architecture)
    with pytest.raises(BundleError, match=r"valley2\.json: architecture") as caught:
        open_bundle(directory)
    assert "\n" not in str(caught.value)


def test_stop_token_outside_of_the_vocabulary_is_refused(directory: Path) -> None:
    write_manifest(directory, architecture={**ModelConfig().model_dump(mode="json"), "stop_tokens": [151679]})
    with pytest.raises(BundleError, match="eos_token_id 151679 is outside of vocab_size"):
        open_bundle(directory)
