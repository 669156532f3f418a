"""A manifest for tests of the writer alone: what it describes is no model."""

from __future__ import annotations

from valley2_edge.bundle import DecoderComponent, Manifest, Source, VisionComponent
from valley2_edge.config import ModelConfig
from valley2_edge.export.bundle.writer import BundleWriter


def plain_manifest(writer: BundleWriter, checkpoint: str = "tiny") -> Manifest:
    """Lists the files that the writer has so far."""
    vision = VisionComponent(precision="fp32", files=[], relative_error=0)
    return Manifest(
        architecture=ModelConfig(),
        siglip=vision,
        projector=vision,
        eagle=vision,
        decoder=DecoderComponent(
            precision="fp32", lm_head_precision="fp32", group_size=0, symmetric=True, method="none", files=[]
        ),
        files=writer.files(),
        source=Source(checkpoint=checkpoint, revision=None, tool_version="0", created="now"),
    )
