"""Every backend conformance case of the onnx package, run through lsc-graph's own import path.

A case is loaded, normalised, turned into torch and compared with the outputs that it ships. It agrees, or it
is refused with an error that says what is not supported. Wrong or crashed cases are bugs.

Cases of an operator set older than 7 are read after onnx's own conversion. What torch has no counterpart of
is refused at first, then tried with ONNX Runtime for that part, as `lsc-graph audit` does: such cases are
counted apart, for they compare ONNX Runtime with the outputs that onnx ships.

Run as `python benchmarks/conformance.py [--vjp] [PATTERN]`; writes benchmarks/results/conformance.json.
"""

from __future__ import annotations

import argparse
import json
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import conformance_vjp
import numpy as np
import onnx
import torch
from onnx.backend.test.loader import load_model_tests

from lsc_graph.canonical.newer_opset import in_runnable_opset
from lsc_graph.canonical.normalize import normalize, upgrade_opset
from lsc_graph.canonical.precision import in_single_precision, is_half
from lsc_graph.errors import AnalysisError, ConversionError, LscGraphError
from lsc_graph.model_file.load import load
from lsc_graph.recurrence.fused_ops import lower_fused_ops
from lsc_graph.running.reference import Reference
from lsc_graph.to_torch.segment import BlackBoxUse, Parameters, Segment

RESULTS = Path(__file__).parent / "results" / "conformance.json"
KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")
AGREES, REFUSED, WRONG = "agrees", "refused", "wrong"
MIN_OPSET, CONVERTED_OPSET = 7, 13
HALF_TOLERANCE = {"rtol": 1e-2, "atol": 1e-2}

Array = np.ndarray[Any, np.dtype[Any]]
Feed = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A model with inputs and the outputs that they must give, by name."""

    name: str
    kind: str
    proto: onnx.ModelProto
    data: tuple[tuple[Feed, Feed], ...]
    rtol: float
    atol: float
    is_other_opset: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a case.

    `fixed` are the inputs that had to be constants; `is_black_box` says that ONNX Runtime ran a part of it.
    """

    name: str
    kind: str
    status: str
    reason: str = ""
    is_named: bool = True
    fixed: tuple[str, ...] = ()
    is_other_opset: bool = False
    is_black_box: bool = False


def cases(pattern: str = "") -> Iterator[Case]:
    """All conformance cases whose name matches."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        found = [(kind, case) for kind in KINDS for case in load_model_tests(kind=kind)]
    for kind, case in found:
        if re.search(pattern, case.name):
            yield _read(kind, case)


def _read(kind: str, case: Any) -> Case:
    if case.model is None:
        folder = Path(case.model_dir)
        proto = onnx.load(folder / "model.onnx")
        pairs = [_data_set(proto, path) for path in sorted(folder.glob("test_data_set_*"))]
    else:
        proto, pairs = case.model, [tuple(map(_arrays, pair)) for pair in case.data_sets]
    graph = proto.graph
    stored = {tensor.name for tensor in graph.initializer}
    inputs = [value.name for value in graph.input]
    if any(len(given) < len(inputs) for given, _ in pairs):
        inputs = [name for name in inputs if name not in stored]
    outputs = [value.name for value in graph.output]
    data = tuple((dict(zip(inputs, x, strict=False)), dict(zip(outputs, y, strict=False))) for x, y in pairs)
    readable = _in_a_readable_opset(proto)
    return Case(case.name, kind, readable, data, case.rtol, case.atol, readable is not proto)


def _arrays(values: Sequence[Any]) -> list[Any]:
    """Types that numpy lacks come as TensorProto."""
    is_proto = (isinstance(value, onnx.TensorProto) for value in values)
    return [
        onnx.numpy_helper.to_array(v) if is_one else v for v, is_one in zip(values, is_proto, strict=True)
    ]


def _in_a_readable_opset(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model after onnx's own conversion if its operator set is too old; else as it is."""
    version = next((entry.version for entry in proto.opset_import if not entry.domain), 0)
    if version >= MIN_OPSET or not version:
        return proto
    try:
        converted = onnx.version_converter.convert_version(proto, CONVERTED_OPSET)
        onnx.checker.check_model(converted, full_check=True)
    except Exception:  # the converter and the checker raise unrelated types; the case stays as it is
        return proto
    return converted


def _data_set(proto: onnx.ModelProto, folder: Path) -> tuple[list[Any], list[Any]]:
    return (
        [_value(folder / f"input_{i}.pb", value.type) for i, value in enumerate(proto.graph.input)
         if (folder / f"input_{i}.pb").exists()],
        [_value(folder / f"output_{i}.pb", value.type) for i, value in enumerate(proto.graph.output)],
    )  # fmt: skip


def _value(path: Path, kind: onnx.TypeProto) -> Any:
    content = path.read_bytes()
    if kind.HasField("sequence_type"):
        return onnx.numpy_helper.to_list(onnx.SequenceProto.FromString(content))
    if kind.HasField("optional_type"):
        return onnx.numpy_helper.to_optional(onnx.OptionalProto.FromString(content))
    return onnx.numpy_helper.to_array(onnx.TensorProto.FromString(content))


class View:
    """lsc-graph's torch view of a model at given inputs; those named in `fixed` become constants."""

    def __init__(
        self,
        proto: onnx.ModelProto,
        feed: Feed,
        fixed: Sequence[str] = (),
        black_box: BlackBoxUse = BlackBoxUse.NEVER,
    ) -> None:
        loaded, self.remarks = in_runnable_opset(load(proto, must_run=False).proto)
        self.is_half = is_half(loaded)
        self.proto = upgrade_opset(in_single_precision(loaded) if self.is_half else loaded)
        self.loaded, self.whole_feed = loaded, feed
        feed = {name: _single(value) if self.is_half else value for name, value in feed.items()}
        constants = {name: np.asarray(feed[name]) for name in fixed}
        tensors = {name: value for name, value in feed.items() if isinstance(value, (np.ndarray, np.generic))}
        shapes = {name: value.shape for name, value in tensors.items() if name not in constants}
        model = normalize(self.proto, shapes, constants)
        lower_fused_ops(model)
        graph = model.graph
        self.feed = {
            str(value.name): _tensor(str(value.name), feed[str(value.name)]) for value in graph.inputs
        }
        self.outputs = [str(value.name) for value in graph.outputs]
        opsets = dict(model.opset_imports)
        self.parameters = Parameters(black_box)
        self.segment = Segment(
            graph, list(self.feed), self.outputs, opsets=opsets, parameters=self.parameters
        )

    def run(self, feed: Mapping[str, torch.Tensor] | None = None) -> dict[str, Any]:
        """Outputs by name."""
        return dict(zip(self.outputs, self.segment(*(feed or self.feed).values()), strict=True))


def _single(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.name in ("float16", "bfloat16"):
        return value.astype(np.float32)
    return value


def _tensor(name: str, value: Any) -> torch.Tensor:
    try:
        return torch.from_numpy(np.array(value))
    except TypeError as error:
        raise ConversionError("An input is no torch tensor", where=name, got=str(error)) from error


def check(case: Case) -> Outcome:
    """Whether a case agrees; what is refused is tried with more of its inputs fixed, then as a black box."""
    refused: list[Outcome] = []
    for use in (BlackBoxUse.NEVER, BlackBoxUse.IF_NEEDED):
        for fixed in _choices(case):
            outcome = check_once(case, fixed, use)
            if outcome.is_black_box and outcome.status == WRONG and not _runtime_agrees(case):
                continue  # ONNX Runtime has it in its own way: no fault of ours, and no agreement
            if outcome.status != REFUSED:
                return replace(outcome, is_other_opset=outcome.is_other_opset or case.is_other_opset)
            refused.append(outcome)
    return replace(refused[0], is_other_opset=case.is_other_opset)


def _runtime_agrees(case: Case) -> bool:
    """Whether ONNX Runtime alone gives the outputs that the case ships."""
    try:
        proto, _ = in_runnable_opset(load(case.proto, must_run=False).proto)
        reference = Reference(proto)
        for feed, expected in case.data:
            found = reference.run(feed)
            for name, value in expected.items():
                if name and _compare(case, torch.from_numpy(np.array(found[name])), value, is_half=False):
                    return False
    except (LscGraphError, TypeError):
        return False
    return True


def _choices(case: Case) -> Iterator[tuple[str, ...]]:
    """Nothing fixed; what decides shapes; all but the first input."""
    yield ()
    feed = case.data[0][0]
    if not all(isinstance(value, (np.ndarray, np.generic)) for value in feed.values()):
        return
    whole = tuple(name for name, value in feed.items() if value.dtype.kind in "iub")
    yield from filter(None, dict.fromkeys((whole, tuple(feed)[1:])))


def check_once(case: Case, fixed: tuple[str, ...], use: BlackBoxUse) -> Outcome:
    """What becomes of a case with these inputs fixed, and ONNX Runtime used as said."""
    name, kind, is_other, is_black_box = case.name, case.kind, False, False
    try:
        for feed, expected in case.data:
            view = View(case.proto, feed, fixed, use)
            is_other, is_black_box = bool(view.remarks), bool(view.parameters.differences.parts)
            with torch.no_grad():
                difference = _difference(case, view, expected)
            if difference:
                return Outcome(name, kind, WRONG, difference, fixed=fixed, is_black_box=is_black_box)
    except LscGraphError as error:
        text = " ".join(str(error).split())
        return Outcome(name, kind, REFUSED, text, _is_named(case, text), fixed)
    except Exception as error:
        return Outcome(name, kind, WRONG, f"crashed: {type(error).__name__}: {error}", fixed=fixed)
    return Outcome(name, kind, AGREES, fixed=fixed, is_other_opset=is_other, is_black_box=is_black_box)


def _is_named(case: Case, text: str) -> bool:
    """Whether a refusal names an operator, an operator set, or an input or output of the case."""
    graph = case.proto.graph
    names = {node.op_type for node in onnx_nodes(case.proto)} | {
        v.name for v in (*graph.input, *graph.output)
    }
    return any(
        re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) for name in names | {"operator set"} if name
    )


def onnx_nodes(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Nodes of the main graph, of inner graphs and of functions."""
    pending = [*proto.graph.node, *(node for function in proto.functions for node in function.node)]
    while pending:
        node = pending.pop()
        yield node
        pending += [inner for attribute in node.attribute for inner in attribute.g.node]


def _difference(case: Case, view: View, expected: Feed) -> str:
    ours = view.run()
    if not any(expected):
        return "nothing to compare with"
    for name, value in expected.items():
        if name and (problem := _compare(case, ours[name], value, is_half=view.is_half)):
            return f"{name}: {problem}"
    return ""


def _compare(case: Case, ours: Any, expected: Any, *, is_half: bool) -> str:
    if isinstance(expected, list):
        if not isinstance(ours, (list, tuple)) or len(ours) != len(expected):
            return "not the same sequence"
        pairs = zip(ours, expected, strict=True)
        return next(filter(None, (_compare(case, a, b, is_half=is_half) for a, b in pairs)), "")
    if not isinstance(ours, torch.Tensor):
        return f"a {type(ours).__name__}, not a tensor"
    theirs, mine = _single(np.asarray(expected)) if is_half else np.asarray(expected), ours.numpy()
    if mine.shape != theirs.shape:
        return f"shape {mine.shape}, not {theirs.shape}"
    if mine.dtype != theirs.dtype:
        return f"type {mine.dtype}, not {theirs.dtype}"
    tolerance = (
        HALF_TOLERANCE if is_half else {"rtol": case.rtol, "atol": max(case.atol, _last_place(theirs))}
    )
    try:
        np.testing.assert_allclose(mine, theirs, **tolerance)
    except AssertionError as error:
        return " ".join(str(error).split())[:200]
    return ""


def _last_place(values: Array) -> float:
    """One unit in the last place of the largest element: sums of all elements are not known better."""
    if values.dtype.kind != "f" or not np.isfinite(values).any():
        return 0.0
    return float(np.finfo(values.dtype).eps * np.abs(values[np.isfinite(values)]).max())


def check_vjp(case: Case) -> tuple[str, str]:
    """Whether a case's derivatives agree with finite differences in ONNX Runtime, and why not."""
    for fixed in _choices(case):
        try:
            view = View(case.proto, case.data[0][0], fixed)
            if view.is_half:
                return conformance_vjp.NOT_COMPARED, "half precision"
            reference = Reference(view.loaded)
            return conformance_vjp.check(view.feed, view.run, reference, view.whole_feed)
        except AnalysisError as error:
            return conformance_vjp.NOT_COMPARED, " ".join(str(error).split())
        except LscGraphError:
            continue
        except Exception as error:
            return conformance_vjp.WRONG, f"crashed: {type(error).__name__}: {error}"
    return conformance_vjp.NOT_COMPARED, "refused"


def vjp_summary(found: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    """Counts, and every case whose derivatives are wrong or undecided."""
    kept = (conformance_vjp.WRONG, conformance_vjp.UNDECIDED, conformance_vjp.NOT_FINITE)
    return {
        **Counter(status for status, _ in found.values()),
        "cases": {name: list(outcome) for name, outcome in found.items() if outcome[0] in kept},
    }


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Counts, and every case that does not agree, with the reason."""
    counts = Counter(outcome.status for outcome in outcomes)
    return {
        "num_cases": len(outcomes),
        **{status: counts[status] for status in (AGREES, REFUSED, WRONG)},
        "agrees_with_fixed_inputs": sum(o.status == AGREES and bool(o.fixed) for o in outcomes),
        "agrees_as_black_box": sorted(o.name for o in outcomes if o.status == AGREES and o.is_black_box),
        "in_another_operator_set": sum(o.is_other_opset for o in outcomes),
        "refused_without_a_name": [o.name for o in outcomes if not o.is_named],
        "by_kind": {k: dict(Counter(o.status for o in outcomes if o.kind == k)) for k in KINDS},
        "wrong_cases": {o.name: o.reason for o in outcomes if o.status == WRONG},
        "refused_cases": {o.name: o.reason for o in outcomes if o.status == REFUSED},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pattern", nargs="?", default="")
    parser.add_argument("--vjp", action="store_true")
    options = parser.parse_args()
    chosen = list(cases(options.pattern))
    outcomes = [check(case) for case in chosen]
    result = summary(outcomes)
    for outcome in outcomes:
        if outcome.status == WRONG:
            print(f"WRONG {outcome.name} {outcome.fixed or ''}: {outcome.reason}"[:300])
    print({key: result[key] for key in ("num_cases", AGREES, REFUSED, WRONG)})
    print("of these agree with parts in ONNX Runtime:", len(result["agrees_as_black_box"]))
    if options.vjp:
        agreeing = {o.name for o in outcomes if o.status == AGREES and not o.is_black_box}
        result["vjp"] = vjp_summary({c.name: check_vjp(c) for c in chosen if c.name in agreeing})
        print("vector-Jacobian products:", {k: v for k, v in result["vjp"].items() if k != "cases"})
        for name, (status, reason) in result["vjp"]["cases"].items():
            print(status.upper(), name, reason)
    if not options.pattern:
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
