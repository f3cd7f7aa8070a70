"""Streaming exports: a model that is one step, with its states as pairs of graph inputs and outputs.

A pair is an output of the same type and shape as an input that it is computed from. Where recurrent operators
start from the input and end in the output, it is a state. Else its names must say so: one and the same name
(`h`/`h_out`), which is that of a state or speaks of time (`past_0`/`present_0`, `z`/`z_next`). Structure
alone never suffices, for conditional autoencoders, flows and denoisers have it as well: what is not taken is
refused with its readings, and how to declare it.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import networkx as nx
import onnx_ir as ir

from lsc_graph.canonical.shapes import static_shape
from lsc_graph.errors import UsageError
from lsc_graph.recurrence.dataflow import direct_sources
from lsc_graph.results import Refusal

_STATE_WORDS = frozenset(
    [
        "state",
        "states",
        "hidden",
        "h",
        "c",
        "cell",
        "cells",
        "carry",
        "mem",
        "memory",
        "memories",
        "mems",
        "recurrent",
        "cached",
        "hx",
        "hxs",
        "hc",
        "cache",
        "caches",
        "past",
        "present",
        "rnn",
        "lstm",
        "gru",
        "ssm",
        "s",
    ]
)
_DATA_WORDS = frozenset(
    [
        "x",
        "y",
        "input",
        "output",
        "in",
        "out",
        "image",
        "audio",
        "signal",
        "data",
        "sample",
        "noise",
        "mask",
        "logits",
    ]
)
_AFTER = re.compile(r"next|new|updated|present|tplus1|after")
_BEFORE = re.compile(r"past|prev|old|before")
_NEXT = r"(?:n|y|_?next|_?new|_?out(?:put)?|_?o|_?after|_?final|_?updated|_?t1|_?tplus1)"
_PREVIOUS = r"(?:x|_?in(?:put)?|_?prev(?:ious)?|_?old|_?before|_?init(?:ial)?|_?i|_?t0?|_?0)"
_LEADING = re.compile(r"^(?:in(?:put)?|init(?:ial)?|old|out(?:put)?|final|last|updated)[_.](?=.)")

_Pair = tuple[ir.Value, ir.Value]

_BY_HAND = "declared by hand"
_NAMES = "names alone"
UNRELATED = "its names speak of a state, but it is not computed from it"
BESIDE_STATES = "named alike, but not computed from it: a delay, or data of two kinds"
UNDECIDED = "same type and shape, but nothing says that it is a state"
NO_STATE = ("none", "")
"""Declared in place of pairs: the model has no state."""


@dataclass(frozen=True)
class StatePair:
    """One carried value: graph input `before`, graph output `after`, and how it was recognised.

    What only its names speak for, and may be a block of a stack or of an iteration as well, `is_doubtful`.
    """

    before: str
    after: str
    evidence: str
    is_doubtful: bool = False

    @property
    def is_declared(self) -> bool:
        """Whether it was given by hand."""
        return self.evidence == _BY_HAND


def find_state_pairs(
    model: ir.Model,
    declared: Sequence[tuple[str, str]] = (),
    of_operators: Sequence[tuple[str, str]] = (),
) -> tuple[tuple[StatePair, ...], tuple[Refusal, ...]]:
    """The state pairs of a normalised model (static shapes), and the candidates that were refused.

    Args:
        model: normalised model.
        declared: (input, output) pairs given by hand; they are checked, taken, and override the search.
            `NO_STATE` alone says that there are none.
        of_operators: pairs that recurrent operators start from and end in.

    Raises:
        UsageError: a declared pair names no such input or output, or cannot be a state.
    """
    if NO_STATE in declared:
        return (), ()
    given = tuple(_declared_pair(model, before, after) for before, after in declared)
    if given:
        return given, ()
    delayed, unrelated = _named_without_dataflow(model)
    passing, candidates = _split_pass_through([*_candidates(model), *delayed])
    certain = [pair for pair in candidates if (str(pair[0].name), str(pair[1].name)) in of_operators]
    taken = {value for pair in certain for value in pair}
    is_named = any(_named_as_state(str(before.name), str(after.name)) for before, after in candidates)
    delays = _delays(unrelated) if certain or is_named else []
    taken |= {value for pair in delays for value in pair}
    candidates = [pair for pair in candidates if not taken & set(pair)]
    assignment = _assign(candidates)
    taken.update(value for pair in assignment or [] for value in pair)
    passing = [pair for pair in passing if not set(pair) <= taken]
    pairs = [StatePair(str(before.name), str(after.name), "recurrent operators") for before, after in certain]
    is_all = len(certain) + len(assignment or []) + len(delays) == len(model.graph.outputs)
    found = [(pair, _named_pair(*pair, is_all)) for pair in assignment or []]
    pairs += [named for _, named in found if named is not None]
    delays = delays if any(pair.evidence != _NAMES for pair in pairs) else []
    doubt = all(pair.is_doubtful for pair in pairs)
    pairs += [StatePair(str(a.name), str(b.name), "names of a delay", is_doubtful=doubt) for a, b in delays]
    known = {name for pair in pairs for name in (pair.before, pair.after)}
    refusals = [
        _refuse(before, after, "its value passes through unchanged")
        for before, after in passing
        if not {before.name, after.name} & known
    ]
    refusals += [_refuse(*pair, UNRELATED) for pair in unrelated if pair not in delays]
    refusals += [
        _refuse(*pair, UNDECIDED) for pair, named in found if named is None and pair[0].name not in known
    ]
    if assignment is None:
        refusals += [_refuse(*pair, "several inputs fit this output") for pair in candidates]
    if pairs:
        told = {refusal.candidate for refusal in refusals}
        alike = [_refuse(*pair, BESIDE_STATES) for pair in _named_alike(model, known)]
        refusals += [refusal for refusal in alike if refusal.candidate not in told]
    return tuple(pairs), (*refusals, *_growing(model))


def _named_alike(model: ir.Model, taken: Collection[str]) -> Iterator[_Pair]:
    """Pairs that share a name and a type, though neither says that they are a state."""
    for before, after in itertools.product(model.graph.inputs, model.graph.outputs):
        if {before.name, after.name} & {*taken} or not _same_type(before, after):
            continue
        stem = re.sub(r"[^a-z]+", "", _common_stem(str(before.name), str(after.name)) or "")
        if stem and stem not in _DATA_WORDS and before.shape:
            yield before, after


def _delays(unrelated: Sequence[_Pair]) -> list[_Pair]:
    """Named pairs that carry what a step computed without them, such as its input, to the next one.

    Beside other states they are what their names say, if no other name fits.
    """
    uses = Counter(value for pair in unrelated for value in pair)
    return [(before, after) for before, after in unrelated if uses[before] == uses[after] == 1]


def _growing(model: ir.Model) -> Iterator[Refusal]:
    """Inputs that are handed on by name, but longer: caches of attention."""
    inputs = set(model.graph.inputs)
    for after in model.graph.outputs:
        for before in direct_sources(after, inputs):
            if _has_grown(before, after) and _named_as_state(str(before.name), str(after.name)):
                reason = (
                    f"its shape changes from {before.shape} to {after.shape}: a cache that grows is no state"
                )
                yield Refusal(f"{before.name} -> {after.name}", "streaming", reason)


def _has_grown(before: ir.Value, after: ir.Value) -> bool:
    shapes = static_shape(before), static_shape(after)
    if shapes[0] is None or shapes[1] is None or before.dtype != after.dtype:
        return False
    return shapes[0] != shapes[1] and len(shapes[0]) == len(shapes[1]) > 0


def _declared_pair(model: ir.Model, before: str, after: str) -> StatePair:
    inputs = {str(value.name): value for value in model.graph.inputs}
    outputs = {str(value.name): value for value in model.graph.outputs}
    for name, known, what in ((before, inputs, "input"), (after, outputs, "output")):
        if name not in known:
            raise UsageError(
                f"--state names no {what} of the model",
                where=f"{before}:{after}",
                got=name,
                expected="one of " + ", ".join(known),
            )
    source, target = inputs[before], outputs[after]
    if not _same_type(source, target):
        raise UsageError(
            "--state pairs values of different type or shape",
            where=f"{before}:{after}",
            got=f"{source.dtype} {source.shape} and {target.dtype} {target.shape}",
            expected="an output that can be fed back as the input",
        )
    return StatePair(before, after, _BY_HAND)


def _same_type(source: ir.Value, target: ir.Value) -> bool:
    return (
        source.dtype == target.dtype
        and source.shape is not None
        and target.shape is not None
        and source.shape == target.shape
        and all(isinstance(dim, int) for dim in source.shape)
    )


def _candidates(model: ir.Model) -> list[tuple[ir.Value, ir.Value]]:
    inputs = set(model.graph.inputs)
    found = []
    for output in model.graph.outputs:
        reached = direct_sources(output, inputs)
        found += [
            (source, output)
            for source in model.graph.inputs
            if source in reached and len(source.shape or ()) > 0 and _same_type(source, output)
        ]
    return found


def _named_without_dataflow(model: ir.Model) -> tuple[list[_Pair], list[_Pair]]:
    """Pairs by name of which the output is not computed from the input: those in delay lines, and others.

    In a delay line, as of h[t-2] beside h[t-1], it is so by way of other pairs.
    """
    inputs = set(model.graph.inputs)
    sources = {after: direct_sources(after, inputs) for after in model.graph.outputs}
    named = [
        (before, after)
        for before, after in itertools.product(model.graph.inputs, sources)
        if _same_type(before, after) and _named_as_state(str(before.name), str(after.name))
    ]
    feeds: nx.DiGraph[ir.Value] = nx.DiGraph((after, before) for before, after in named)
    feeds.add_edges_from((before, after) for after, found in sources.items() for before in found)
    rest = [pair for pair in named if pair[0] not in sources[pair[1]]]
    delayed = [pair for pair in rest if nx.has_path(feeds, *pair)]
    return delayed, [pair for pair in rest if pair not in delayed]


def _split_pass_through(
    candidates: list[tuple[ir.Value, ir.Value]],
) -> tuple[list[tuple[ir.Value, ir.Value]], list[tuple[ir.Value, ir.Value]]]:
    passing = [pair for pair in candidates if _unwrapped(pair[1]) is pair[0]]
    return passing, [pair for pair in candidates if pair not in passing]


def _unwrapped(value: ir.Value) -> ir.Value:
    producer = value.producer()
    while producer is not None and producer.op_type == "Identity" and producer.inputs[0] is not None:
        value = producer.inputs[0]
        producer = value.producer()
    return value


def _assign(candidates: list[tuple[ir.Value, ir.Value]]) -> list[tuple[ir.Value, ir.Value]] | None:
    """The single consistent assignment of outputs to inputs, by names first; None if there are several."""
    named: list[tuple[ir.Value, ir.Value]] = []
    rest = candidates
    for match in (_common_stem, _shared_words):
        named += [pair for pair in rest if match(str(pair[0].name), str(pair[1].name))]
        taken = {value for pair in named for value in pair}
        if len(taken) != 2 * len(named):
            return None
        rest = [pair for pair in rest if not taken & set(pair)]
    bipartite = nx.Graph((("in", before), ("out", after)) for before, after in rest)
    matching = nx.bipartite.hopcroft_karp_matching(bipartite, [n for n in bipartite if n[0] == "out"])
    chosen = [(before, after) for before, after in rest if matching.get(("in", before)) == ("out", after)]
    return named + chosen if _is_unique(rest, chosen) else None


def _is_unique(
    candidates: list[tuple[ir.Value, ir.Value]], matching: list[tuple[ir.Value, ir.Value]]
) -> bool:
    """A maximum matching is unique iff no alternating cycle or even alternating path exists."""
    arcs: nx.DiGraph[ir.Value] = nx.DiGraph()
    for before, after in candidates:
        forward = (before, after) in matching
        arcs.add_edge(*((before, after) if forward else (after, before)))
    if not nx.is_directed_acyclic_graph(arcs):
        return False
    matched = {value for pair in matching for value in pair}
    return all(value in matched for pair in candidates for value in pair)


def _named_pair(before: ir.Value, after: ir.Value, is_all: bool) -> StatePair | None:
    """A pair that its names speak for; `is_all`: nothing but such pairs comes out of the model."""
    names = str(before.name), str(after.name)
    if _stem_match(*names) is None:
        return None
    of_time = bool(_BEFORE.search(names[0].lower()) or _AFTER.search(names[1].lower()))
    if _named_as_state(*names):
        return StatePair(*names, "structure and names", is_doubtful=is_all and not of_time)
    if of_time and not _named_as_data(before, after):
        return StatePair(*names, _NAMES, is_doubtful=True)
    return None


def _named_as_state(before: str, after: str) -> bool:
    words = set(re.split(r"[^a-z]+", f"{before} {after}".lower()))
    stem = _stem_match(before, after)
    return stem is not None and bool((words | {stem}) & _STATE_WORDS)


def _named_as_data(before: ir.Value, after: ir.Value) -> bool:
    """Whether the names speak of what is processed rather than of what is remembered."""
    words = [set(re.split(r"[^a-z]+", str(value.name).lower())) for value in (before, after)]
    return any(found & _DATA_WORDS for found in words)


def _stem_match(before: str, after: str) -> str | None:
    """What two names have in common: a stem, or all words of one of them."""
    return _common_stem(before, after) or _shared_words(before, after)


def _shared_words(before: str, after: str) -> str | None:
    """The name that is part of the other one, word for word, such as `att_cache` of `r_att_cache`."""
    words = [re.findall(r"[a-z]+|\d+", name.lower()) for name in (before, after)]
    short, long = sorted(words, key=len)
    places = range(len(long) - len(short) + 1)
    is_part = any(long[place : place + len(short)] == short for place in places)
    return "_".join(short) if is_part and set(short) & _STATE_WORDS else None


def _common_stem(before: str, after: str) -> str | None:
    """The common stem of a name and its successor, such as `h` for `h0_in` and `h0_out`; None if none."""
    shared = _stems(before, _PREVIOUS) & _stems(after, _NEXT)
    return max(shared, key=len) if shared else None


def _stems(name: str, affix: str) -> set[str]:
    text = re.sub(r"past_key_values|past|present|previous|prev|next|new(?=_)", "", name.lower()).strip("_./:")
    bare = re.sub(rf"(?<=.){affix}(?=(?:[_.]?\d+)?$)", "", text, count=1)
    stems = {stem.strip("_./:") for stem in (text, bare, _LEADING.sub("", text))}
    return stems - {""} if text else {"past"}


def _refuse(before: ir.Value, after: ir.Value, reason: str) -> Refusal:
    return Refusal(
        candidate=f"{before.name} -> {after.name}",
        finder="streaming",
        reason=f"{reason}; declare it with --state {before.name}:{after.name} if it is one",
    )
