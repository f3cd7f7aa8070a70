"""The zoo by name."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import onnx

from lsc_graph.errors import UsageError
from lsc_graph.results import Form

from .alif import alif
from .card import Card, Exhibit
from .checks import checked_options, pick
from .feed_forward import feed_forward, residual_mlp
from .gru import gru
from .linear import linear_orthogonal_rnn, pascal_rnn
from .lru import lru
from .lstm import bidirectional_lstm, lstm
from .rnn import rnn
from .selective_ssm import selective_ssm
from .slstm import slstm

PRODUCER = "lsc-graph zoo"


@dataclass(frozen=True)
class _Entry:
    """A builder and the options that the name fixes."""

    builder: Callable[..., Exhibit]
    fixed: Mapping[str, object] = field(default_factory=dict)


_ANY_LENGTH = {"num_steps": 1}
_ENTRIES: dict[str, _Entry] = {
    "pascal_rnn": _Entry(pascal_rnn),
    "linear_orthogonal_rnn": _Entry(linear_orthogonal_rnn),
    "tanh_rnn": _Entry(rnn, {"activation": "Tanh"}),
    "relu_rnn": _Entry(rnn, {"activation": "Relu"}),
    "lstm": _Entry(lstm),
    "bidirectional_lstm": _Entry(bidirectional_lstm),
    "gru": _Entry(gru, {"form": Form.FUSED_OP, **_ANY_LENGTH}),
    "streaming_gru": _Entry(gru, {"form": Form.STREAMING, **_ANY_LENGTH}),
    "scan_gru": _Entry(gru, {"form": Form.SCAN, **_ANY_LENGTH}),
    "loop_gru": _Entry(gru, {"form": Form.LOOP, **_ANY_LENGTH}),
    "unrolled_gru": _Entry(gru, {"form": Form.UNROLLED}),
    "lru": _Entry(lru),
    "selective_ssm": _Entry(selective_ssm),
    "slstm": _Entry(slstm),
    "alif": _Entry(alif, {"spike": "threshold", "sharpness": 0.0}),
    "alif_smooth": _Entry(alif, {"spike": "sigmoid"}),
    "feed_forward_sin": _Entry(feed_forward, {"activation": "Sin"}),
    "feed_forward_relu": _Entry(feed_forward, {"activation": "Relu"}),
    "feed_forward_cos": _Entry(feed_forward, {"activation": "Cos"}),
    "feed_forward_linear": _Entry(feed_forward, {"activation": "Linear"}),
    "residual_mlp": _Entry(residual_mlp),
}


def names() -> tuple[str, ...]:
    """The names of all models."""
    return tuple(_ENTRIES)


def build(name: str, seed: int = 0, **options: object) -> onnx.ModelProto:
    """A reference model: the same bytes for the same arguments.

    Args:
        name: one of `names()`.
        seed: of its weights; goes into the file's metadata with the options.
        options: keyword arguments of the model's builder.

    Raises:
        UsageError: there is no such model or option, or the option's value does not fit.
    """
    exhibit, used = _exhibit(name, seed, options)
    model = exhibit.model
    model.graph.name, model.producer_name, model.doc_string = name, PRODUCER, exhibit.card.summary
    shown = {option: value for option, value in used.items() if option not in _ENTRIES[name].fixed}
    properties = {"name": name, "seed": str(seed), "options": json.dumps(shown, sort_keys=True)}
    onnx.helper.set_model_props(model, properties)
    return model


def card(name: str, seed: int = 0, **options: object) -> Card:
    """The exact facts of the model that `build` makes from the same arguments, with the same errors."""
    return replace(_exhibit(name, seed, options)[0].card, name=name)


def options_of(name: str) -> dict[str, object]:
    """The options that a model takes, with their defaults."""
    entry = _ENTRIES[pick(name, _ENTRIES, "model in the zoo")]
    every = checked_options(entry.builder, entry.fixed, {})
    return {option: value for option, value in every.items() if option not in entry.fixed}


def _exhibit(name: str, seed: int, options: Mapping[str, object]) -> tuple[Exhibit, dict[str, object]]:
    entry = _ENTRIES[pick(name, _ENTRIES, "model in the zoo")]
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise UsageError("A seed is a whole number, at least 0", got=repr(seed))
    used = checked_options(entry.builder, entry.fixed, options)
    return entry.builder(seed, **used), used
