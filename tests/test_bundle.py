"""A bundle is checked wholly before anything of it is used."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import onnx
import pytest

from valley2_edge import bundle as bundle_module
from valley2_edge.bundle import open_bundle, read_manifest
from valley2_edge.bundle_files import MANIFEST_NAME
from valley2_edge.config import ModelConfig
from valley2_edge.errors import BundleError
from valley2_edge.user_data import DATA_DIRECTORY_VARIABLE

FILES = {
    # The protobuf of a graph that says who made it, and nothing else.
    "vision/siglip.onnx": b"\x12\x06siglip",
    "vision/projector.onnx": b"\x12\x09projector",
    "vision/eagle.onnx": b"\x12\x05eagle",
    "decoder/decoder.safetensors": b"decoder weights",
    "decoder/embeddings.safetensors": b"embeddings",
    "tokenizer/tokenizer.json": b"{}",
}
DAMAGED_EAGLE = b"\x12\x05eaqle"


def vision(name: str) -> dict[str, Any]:
    return {"precision": "fp32", "files": [f"vision/{name}.onnx"], "relative_error": 1e-6}


def write_manifest(directory: Path, **changes: Any) -> None:
    content: dict[str, Any] = {
        "format": "valley2-bundle",
        "format_version": 1,
        "architecture": ModelConfig().model_dump(mode="json"),
        "siglip": vision("siglip"),
        "projector": vision("projector"),
        "eagle": vision("eagle"),
        "decoder": {
            "precision": "int4",
            "lm_head_precision": "int8",
            "group_size": 128,
            "symmetric": True,
            "method": "rtn",
            "files": ["decoder/decoder.safetensors", "decoder/embeddings.safetensors"],
        },
        "files": {
            name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in FILES.items()
        },
        "source": {"checkpoint": "x", "revision": None, "tool_version": "0.1.0", "created": "2026-01-01T00:00:00Z"},
    }
    content.update(changes)
    (directory / MANIFEST_NAME).write_text(json.dumps(content))


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(DATA_DIRECTORY_VARIABLE, str(tmp_path / "data"))
    bundle = tmp_path / "bundle"
    for name, data in FILES.items():
        (bundle / name).parent.mkdir(parents=True, exist_ok=True)
        (bundle / name).write_bytes(data)
    write_manifest(bundle)
    return bundle


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were hashed, in order."""
    names: list[str] = []
    real = bundle_module.hash_file

    def spy(path: Path, error: Any, progress: Any = None) -> Any:
        names.append(path.name)
        return real(path, error, progress)

    monkeypatch.setattr(bundle_module, "hash_file", spy)
    return names


def with_file(name: str) -> dict[str, Any]:
    files = {known: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for known, data in FILES.items()}
    return {**files, name: {"size": 1, "sha256": "0" * 64}}


def test_good_bundle_opens(directory: Path) -> None:
    bundle = open_bundle(directory)
    assert bundle.directory == directory
    assert bundle.manifest.decoder.precision == "int4"
    assert bundle.size == sum(len(data) for data in FILES.values())
    assert bundle.path("vision/siglip.onnx").read_bytes() == FILES["vision/siglip.onnx"]


def test_unlisted_name_has_no_path(directory: Path) -> None:
    (directory / "other").write_text("not listed")
    with pytest.raises(BundleError, match="no file other"):
        open_bundle(directory).path("other")


def test_second_opening_hashes_nothing(directory: Path, hashed: list[str]) -> None:
    open_bundle(directory)
    assert len(hashed) == len(FILES)
    open_bundle(directory)
    assert len(hashed) == len(FILES)


def test_full_check_hashes_always(directory: Path, hashed: list[str]) -> None:
    open_bundle(directory, check="full")
    open_bundle(directory, check="full")
    assert len(hashed) == 2 * len(FILES)


def test_sizes_hashes_nothing_but_misses_no_file(directory: Path, hashed: list[str]) -> None:
    open_bundle(directory, check="sizes")
    assert hashed == []
    (directory / "vision/siglip.onnx").unlink()
    with pytest.raises(BundleError, match="missing"):
        open_bundle(directory, check="sizes")


def test_flipped_byte_is_found_after_a_good_opening(directory: Path) -> None:
    open_bundle(directory)
    file = directory / "decoder/decoder.safetensors"
    data = bytearray(file.read_bytes())
    data[3] ^= 1
    file.write_bytes(data)
    with pytest.raises(BundleError, match=r"decoder\.safetensors is damaged"):
        open_bundle(directory)


def test_flipped_byte_with_the_old_time_is_found(directory: Path) -> None:
    open_bundle(directory)
    file = directory / "vision/eagle.onnx"
    before = file.stat()
    file.write_bytes(DAMAGED_EAGLE)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(BundleError, match=r"eagle\.onnx is damaged"):
        open_bundle(directory)


def test_damaged_file_is_not_remembered_as_good(directory: Path) -> None:
    (directory / "vision/eagle.onnx").write_bytes(DAMAGED_EAGLE)
    for _ in range(2):
        with pytest.raises(BundleError, match="damaged"):
            open_bundle(directory)


def test_what_was_checked_before_a_damaged_file_stays_remembered(directory: Path, hashed: list[str]) -> None:
    (directory / "tokenizer/tokenizer.json").write_bytes(b"[]")
    with pytest.raises(BundleError, match="damaged"):
        open_bundle(directory)
    with pytest.raises(BundleError, match="damaged"):
        open_bundle(directory)
    assert hashed.count("siglip.onnx") == 1
    assert hashed.count("tokenizer.json") == 2


def test_progress_ends_at_the_total(directory: Path) -> None:
    calls: list[tuple[int, int]] = []
    open_bundle(directory, progress=lambda done, total: calls.append((done, total)))
    total = sum(len(data) for data in FILES.values())
    assert calls[-1] == (total, total)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


@pytest.mark.parametrize("missing", sorted(FILES))
def test_missing_file_is_named(directory: Path, missing: str) -> None:
    (directory / missing).unlink()
    with pytest.raises(BundleError, match=f"{missing} is missing"):
        open_bundle(directory)


def test_wrong_size_is_named(directory: Path) -> None:
    (directory / "vision/siglip.onnx").write_bytes(b"short")
    with pytest.raises(BundleError, match=r"siglip\.onnx has 5 bytes instead of 8"):
        open_bundle(directory)


def test_directory_in_place_of_a_file(directory: Path) -> None:
    (directory / "vision/siglip.onnx").unlink()
    (directory / "vision/siglip.onnx").mkdir()
    with pytest.raises(BundleError, match="is a directory, not a file"):
        open_bundle(directory)


@pytest.mark.parametrize(
    "name",
    [
        "../outside",
        "/etc/hostname",
        "vision/../../x",
        "",
        "C:/x",
        "vision\\x",
        "a\0b",
        ".",
        "vision//x",
        "./x",
        "x/",
        "a\x1b[2Jb",
        "x" * 1000,
    ],
)
def test_path_outside_the_bundle_is_refused(directory: Path, name: str) -> None:
    write_manifest(directory, files=with_file(name))
    with pytest.raises(BundleError, match="is not a path inside the bundle"):
        open_bundle(directory)


def test_link_out_of_the_bundle_is_refused(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(FILES["vision/siglip.onnx"])
    (directory / "vision/siglip.onnx").unlink()
    (directory / "vision/siglip.onnx").symlink_to(tmp_path / "outside")
    with pytest.raises(BundleError, match="leads out of the bundle"):
        open_bundle(directory)


def test_linked_directory_out_of_the_bundle_is_refused(directory: Path, tmp_path: Path) -> None:
    (directory / "vision").rename(tmp_path / "vision")
    (directory / "vision").symlink_to(tmp_path / "vision")
    with pytest.raises(BundleError, match="leads out of the bundle"):
        open_bundle(directory)


def test_bundle_behind_a_link_opens(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(directory)
    assert open_bundle(tmp_path / "link").directory == directory


def test_future_version_is_refused_before_its_fields_are_read(directory: Path) -> None:
    (directory / MANIFEST_NAME).write_text('{"format": "valley2-bundle", "format_version": 2, "new": 1}')
    with pytest.raises(BundleError, match=r"format version 2, this release .* reads up to 1; install a newer"):
        open_bundle(directory)


@pytest.mark.parametrize("version", [0, -1, "1", 1.0, None, True])
def test_version_that_is_no_version(directory: Path, version: Any) -> None:
    write_manifest(directory, format_version=version)
    with pytest.raises(BundleError, match="positive whole number"):
        open_bundle(directory)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "not readable JSON"),
        (b"\xff", "not UTF-8"),
        (b"[" * 100_000, "not readable JSON"),
        (b"[1]", "no JSON object"),
        (b'{"format": "other"}', '"format" is not "valley2-bundle"'),
    ],
)
def test_manifest_that_is_none(directory: Path, content: bytes, sentence: str) -> None:
    (directory / MANIFEST_NAME).write_bytes(content)
    with pytest.raises(BundleError, match=sentence):
        open_bundle(directory)


def test_unknown_field_is_named(directory: Path) -> None:
    write_manifest(directory, surprise=1)
    with pytest.raises(BundleError, match="surprise: Extra inputs are not permitted"):
        read_manifest(directory)


def test_missing_field_is_named(directory: Path) -> None:
    write_manifest(directory, decoder={"precision": "int4"})
    with pytest.raises(BundleError, match=r"decoder\.lm_head_precision: Field required"):
        read_manifest(directory)


def test_used_file_must_be_listed(directory: Path) -> None:
    write_manifest(directory, siglip={**vision("siglip"), "files": ["vision/siglip.onnx", "vision/siglip.onnx.data"]})
    with pytest.raises(BundleError, match=r"vision/siglip\.onnx\.data is used but not listed"):
        open_bundle(directory)


def test_eagle_component_and_architecture_must_agree(directory: Path) -> None:
    write_manifest(directory, eagle=None)
    with pytest.raises(BundleError, match="Eagle component and the architecture disagree"):
        open_bundle(directory)


def test_directory_without_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"is not a bundle: it has no valley2\.json"):
        open_bundle(tmp_path)


def test_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not a directory"):
        open_bundle(tmp_path / "nothing")


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


@pytest.mark.parametrize(
    "files", [[], ["decoder/decoder.safetensors"], ["vision/siglip.onnx", "x"], ["vision/eagle.onnx"]]
)
def test_vision_component_has_its_own_files(directory: Path, files: list[str]) -> None:
    write_manifest(directory, siglip={**vision("siglip"), "files": files})
    with pytest.raises(BundleError, match=r"siglip\.files must be vision/siglip\.safetensors, or"):
        open_bundle(directory)


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


@pytest.mark.parametrize("location", ["siglip.onnx.data", "../secret", "/etc/hostname", "eagle.onnx.data", "", "a\x1b"])
def test_weights_of_a_graph_must_be_listed(directory: Path, location: str) -> None:
    (directory / "vision/siglip.onnx.data").write_bytes(b"unlisted")
    content = graph_with_weights_in(location)
    write_manifest(directory, files=replace_file(directory, "vision/siglip.onnx", content))
    with pytest.raises(BundleError, match=r"vision/siglip\.onnx (has weights in|is not acceptable: )"):
        open_bundle(directory)


def test_listed_weights_of_a_graph_are_let_through(directory: Path) -> None:
    write_manifest(directory, files=replace_file(directory, "vision/siglip.onnx.data", b"weights"))
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
    name = "vision/siglip.onnx"
    (directory / "other").write_bytes(FILES[name])
    with pytest.raises(BundleError, match=r"siglip\.onnx has changed"), bundle.unchanged(name):
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
    (directory / "vision/siglip.onnx").unlink()
    os.mkfifo(directory / "vision/siglip.onnx")
    with pytest.raises(BundleError, match=r"siglip\.onnx is a pipe, not a file"):
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
