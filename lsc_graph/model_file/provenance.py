"""Where a file notes in its metadata that its weights were moved by pre-training."""

from __future__ import annotations

PROVENANCE = "lsc_graph.pretrain"
