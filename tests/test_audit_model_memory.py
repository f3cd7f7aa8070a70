"""Large diagonal states are audited within a gigabyte."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from lsc_graph.models.lru import lru

# Of this process alone: what resource.getrusage gives counts a parent's memory from before the program began.
AUDIT = """
import json, re, sys
from lsc_graph.audit_model import audit
found = audit(sys.argv[1])
status = open("/proc/self/status").read()
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1])
print(json.dumps([found.layers[0].state_size, found.layers[0].time_radius.mean, peak]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_a_recurrent_unit_of_100_000_complex_units_takes_less_than_a_gigabyte(tmp_path: Path) -> None:
    exhibit = lru(num_layers=1, hidden_size=100_000)
    onnx.save(exhibit.model, tmp_path / "lru.onnx")
    given = [sys.executable, "-c", AUDIT, str(tmp_path / "lru.onnx")]
    run = subprocess.run(given, capture_output=True, text=True, check=True, timeout=600)
    size, radius, peak_kilobytes = json.loads(run.stdout)
    assert size == 200_000
    assert exhibit.card.time_radius is not None
    assert radius == pytest.approx(exhibit.card.time_radius[0], rel=1e-5)
    assert peak_kilobytes * 1024 < 1e9
