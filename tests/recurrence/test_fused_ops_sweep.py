"""Random combinations of everything that ONNX defines for RNN, GRU and LSTM."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from oracles_fused import (
    ACTIVATIONS,
    NUM_ACTIVATIONS,
    OUTPUTS,
    Case,
    lowered,
    op_types,
    random_case,
    run_ort,
    run_torch,
    strip,
)

TOLERANCE = 2e-5
KNOWN = ("Affine", "Elu", "HardSigmoid", "LeakyRelu", "Relu", "ScaledTanh", "Sigmoid", "Softplus", "Softsign",
         "Tanh", "ThresholdedRelu")  # fmt: skip
PARAMETERS = st.floats(0.125, 1.0, width=16)
SMOOTH = {"direction": "reverse", "clip": 0.4}


@st.composite
def cases(draw: st.DrawFn, op_type: str) -> Case:
    direction = draw(st.sampled_from(["forward", "reverse", "bidirectional"]))
    num_activations = NUM_ACTIVATIONS[op_type] * (2 if direction == "bidirectional" else 1)
    steps, batch = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    names = st.lists(st.sampled_from(KNOWN), min_size=num_activations, max_size=num_activations)
    attributes = {
        "activations": draw(st.none() | names),
        "activation_alpha": draw(st.lists(PARAMETERS, max_size=num_activations)) or None,
        "activation_beta": draw(st.lists(PARAMETERS, max_size=num_activations)) or None,
        "clip": draw(st.none() | st.floats(0.25, 2.0, width=16)),
        "layout": draw(st.sampled_from([None, None, None, 1])),
        "linear_before_reset": draw(st.sampled_from([None, 1])) if op_type == "GRU" else None,
        "input_forget": draw(st.sampled_from([None, None, 1])) if op_type == "LSTM" else None,
    }
    optional = ["B", "initial_h", *(["initial_c", "P"] if op_type == "LSTM" else [])]
    wanted = [name if draw(st.booleans()) else "" for name in OUTPUTS[op_type]]
    return random_case(
        op_type,
        draw(st.integers(0, 2**16)),
        direction=direction,
        steps=steps,
        batch=batch,
        size=draw(st.integers(1, 3)),
        hidden=draw(st.integers(1, 3)),
        with_inputs=tuple(name for name in optional if draw(st.booleans())),
        lens=draw(st.none() | st.tuples(*[st.integers(0, steps)] * batch)),
        outputs=tuple(strip(wanted)),
        opset=draw(st.sampled_from([14, 18, 22])),
        **{name: value for name, value in attributes.items() if value is not None},
    )


def assert_all_agree(case: Case) -> None:
    """The original in ONNX Runtime (unless layout is 1), the oracle, and the rewritten model twice."""
    model = case.model()
    feeds = case.feeds(model)
    rewritten, _ = lowered(model, inline=True)
    expected = case.expected()
    results = [run_ort(rewritten, feeds), run_torch(rewritten, feeds)]
    if not case.layout:
        results.append(run_ort(model, feeds))
    for got in results:
        for name, array in expected.items():
            bound = TOLERANCE * max(1.0, float(np.abs(array).max()))
            np.testing.assert_allclose(np.asarray(got[name]), array, rtol=0, atol=bound, err_msg=name)


@pytest.mark.parametrize("op_type", ["RNN", "GRU", "LSTM"])
def test_any_combination_of_options_computes_what_the_original_computes(op_type: str) -> None:
    @settings(
        max_examples=150,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(cases(op_type))
    @example(random_case(op_type, **SMOOTH))
    def check(case: Case) -> None:
        assert_all_agree(case)

    check()


@pytest.mark.parametrize("op_type", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("name", KNOWN)
def test_every_activation_is_the_one_of_onnx_runtime_with_and_without_parameters(
    op_type: str, name: str
) -> None:
    assert name.lower() in ACTIVATIONS
    names = [name] * NUM_ACTIVATIONS[op_type]
    assert_all_agree(random_case(op_type, activations=names, scale=0.4))
    parameters = {"activation_alpha": [0.3, 0.6], "activation_beta": [0.7]}
    assert_all_agree(random_case(op_type, activations=names, scale=0.4, **parameters))


@pytest.mark.parametrize("op_type", ["RNN", "GRU", "LSTM"])
def test_a_sequence_of_one_step_leaves_no_scan_when_inlined(op_type: str) -> None:
    case = random_case(op_type, direction="bidirectional", steps=1)
    assert "Scan" not in op_types(lowered(case.model(), inline=True)[0])
    assert_all_agree(case)
