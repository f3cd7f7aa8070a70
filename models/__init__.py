"""Reference networks of the paper and of the five recurrent forms, each with a card of exact facts."""

from .card import Card, Topology
from .linear import pascal_gradient
from .registry import build, card, names, options_of
from .write import write_zoo

__all__ = ["Card", "Topology", "build", "card", "names", "options_of", "pascal_gradient", "write_zoo"]
