"""`valley2-edge verify`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from valley2_edge.cli.verify import variant_architecture
from valley2_edge.errors import InputError
from valley2_edge.export.synthetic.checkpoint import small_config

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def narrowed(tmp_path: Path) -> Path:
    """The reference's outputs with one case, to be changed."""
    directory = shutil.copytree(GOLDEN, tmp_path / "golden")
    for path in (directory / "fwd" / "eagle_ovis").iterdir():
        if path.stem != "tiny30x20":
            path.unlink()
    return directory


def test_self_test_passes_and_shows_a_table(run, int4_bundle: Path) -> None:
    outcome = run("verify", int4_bundle)
    assert outcome.code == 0
    assert "logits" in outcome.stdout
    assert "every file is intact, all 9 rows passed" in outcome.stdout


def test_golden_passes_and_the_variant_comes_from_the_manifest(run, fp32_bundle: Path) -> None:
    outcome = run("verify", fp32_bundle, "--golden", GOLDEN, "--json")
    rows = json.loads(outcome.stdout)
    assert outcome.code == 0
    assert all(row["passed"] for row in rows)
    assert {row["case"] for row in rows} == {"-", "llm_only", "text_only", "tiny30x20"}


def test_name_of_a_variant_chooses_the_policy(run, fp32_bundle: Path) -> None:
    assert run("verify", fp32_bundle, "--golden", GOLDEN, "--variant", "hf_eagle_ovis").code == 0
    outcome = run("verify", fp32_bundle, "--golden", GOLDEN, "--variant", "hf_eagle_ovis", "--policy", "repo")
    assert outcome.code == 1


def test_variant_with_other_picture_settings_uses_them(run, fp32_bundle: Path) -> None:
    outcome = run("verify", fp32_bundle, "--golden", GOLDEN, "--variant", "eagle_ovis_cap")
    assert outcome.code == 0


def test_variant_of_another_model_is_refused(run, fp32_bundle: Path, narrowed: Path) -> None:
    config = narrowed / "ckpt" / "eagle_ovis" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "eagle_vision_tower": None}))
    outcome = run("verify", fp32_bundle, "--golden", narrowed)
    assert outcome.code == 2
    assert "their eagle differs" in outcome.stderr


def test_a_bundle_of_its_own_output_matrix_is_no_other_model_than_one_that_ties_it() -> None:
    bundle = small_config()
    variant = variant_architecture(bundle, small_config(tied=True), "tied")
    assert variant.decoder.tie_word_embeddings
    with pytest.raises(InputError, match="their decoder differs"):
        variant_architecture(bundle, small_config(tied=True, vocab_size=700), "other")


def test_failing_row_exits_1(run, fp32_bundle: Path, narrowed: Path) -> None:
    manifest = json.loads((narrowed / "manifest.json").read_text())
    manifest["cases"]["eagle_ovis"]["tiny30x20"]["prefill_len"] += 1
    (narrowed / "manifest.json").write_text(json.dumps(manifest))
    outcome = run("verify", fp32_bundle, "--golden", narrowed)
    assert outcome.code == 1
    assert "FAIL" in outcome.stdout
    assert "1 of" in outcome.stdout


def test_unknown_variant_lists_the_known_ones(run, fp32_bundle: Path) -> None:
    outcome = run("verify", fp32_bundle, "--golden", GOLDEN, "--variant", "other")
    assert outcome.code == 2
    assert "eagle_ovis, eagle_ovis_cap, hf_eagle_ovis" in outcome.stderr


@pytest.mark.parametrize("words", [["--variant", "eagle_ovis"], ["--policy", "hub"], ["--golden", "nowhere"]])
def test_options_that_make_no_sense(run, fp32_bundle: Path, words: list[str]) -> None:
    assert run("verify", fp32_bundle, *words).code == 2


def test_self_test_notices_other_weights(run, fp32_bundle: Path, tmp_path: Path) -> None:
    """A bundle whose files agree with its manifest, but whose decoder is not the one that was tested."""
    from valley2_edge.bundle import read_manifest, sha256_of_file

    bundle = shutil.copytree(fp32_bundle, tmp_path / "bundle")
    file = bundle / "decoder" / "decoder.safetensors"
    data = bytearray(file.read_bytes())
    data[-40_001::4] = bytes(byte ^ 0x80 for byte in data[-40_001::4])  # signs of fp32 numbers
    file.write_bytes(data)
    manifest = read_manifest(bundle)
    manifest.files["decoder/decoder.safetensors"].sha256 = sha256_of_file(file)
    (bundle / "valley2.json").write_text(manifest.model_dump_json())
    outcome = run("verify", bundle, "--json")
    assert outcome.code == 1
    assert [row["stage"] for row in json.loads(outcome.stdout) if not row["passed"]] == ["logits"]
