"""The grid of local Jacobians has the edges of the cell graph, whichever way time runs."""

from __future__ import annotations

import numpy as np
import pytest
from delayed_models import DELAYED, FORMS, D, T, asked, backwards

from lsc_graph.audit_model import audit


def test_delays_have_no_edges_in_time_and_growth_is_the_same_backwards() -> None:
    x = np.random.default_rng(1).standard_normal((1, T, 1, D)).astype(np.float32)
    make, options = DELAYED["a window of 2"][0], {"num_samples": 1, **asked("Scan")}
    forward = audit(FORMS["Scan"](make()), data={"x": x}, **options)
    backward = audit(backwards(FORMS["Scan"](make())), data={"x": x[:, ::-1].copy()}, **options)
    assert forward.growth.measured_log10 == pytest.approx(backward.growth.measured_log10, abs=0.05)
