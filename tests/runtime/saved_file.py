"""The header and the arrays of a saved session, to be changed by tests."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


class SavedFile:
    """A saved session in parts that a stranger may change; `write` gives it the checksum of what it then holds."""

    def __init__(self, path: Path) -> None:
        content = path.read_bytes()
        size = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + size])
        self.metadata: dict[str, str] = header.pop("__metadata__")
        self.tensors: dict[str, tuple[str, list[int], bytes]] = {
            name: (entry["dtype"], entry["shape"], content[8 + size :][slice(*entry["data_offsets"])])
            for name, entry in header.items()
        }

    def array(self, name: str, dtype: str) -> npt.NDArray[Any]:
        """A copy of a tensor."""
        return np.frombuffer(self.tensors[name][2], dtype).reshape(self.tensors[name][1]).copy()

    def put(self, name: str, dtype: str, array: npt.NDArray[Any]) -> None:
        """Replaces a tensor, or adds one."""
        self.tensors[name] = (dtype, list(array.shape), array.tobytes())

    def write(self, path: Path) -> None:
        """The file as docs/reuse.md describes it."""
        digest = hashlib.blake2b(digest_size=32)
        for key in sorted(self.metadata.keys() - {"checksum"}):
            digest.update(f"{key}\0{self.metadata[key]}\0".encode())
        header: dict[str, Any] = {}
        data = b""
        for name in sorted(self.tensors):
            dtype, shape, content = self.tensors[name]
            digest.update(f"{name}\0{dtype}\0{','.join(map(str, shape))}\0".encode() + content)
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
            data += content
        text = json.dumps({"__metadata__": self.metadata | {"checksum": digest.hexdigest()}} | header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + data)
