"""What a model notes in its metadata of what was done to its weights."""

from __future__ import annotations

PROVENANCE = "lsc_graph.pretrain"
"""They were moved by pre-training: constants that an exporter computed from them may not fit any more."""

UNROUNDED = "lsc_graph.unrounded"
"""They stand for integers: each tensor was rounded by itself, those that were computed from others, too."""

STANDS_FOR = "lsc_graph.stands_for"
"""Noted on a Constant of floats: the integers of the file that these stand for, by the tensor's name."""
