"""Devices by name, and single precision that is whole."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from lsc_graph.errors import UsageError
from lsc_graph.to_torch.device import device_of


def test_the_default_is_cuda_where_torch_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for is_there, expected in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda is_there=is_there: is_there)
        assert device_of("auto") == expected
        assert device_of("cpu") == "cpu"


def test_devices_that_are_not_there_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="torch sees no CUDA device"):
        device_of("cuda")
    with pytest.raises(UsageError, match="There is no such device"):
        device_of("tpu")


SETTINGS = {
    "nothing": "pass",
    "older names": "torch.set_float32_matmul_precision('high')",
    "cuDNN's older name": "torch.backends.cudnn.allow_tf32 = False",
    "newer names": "torch.backends.fp32_precision = 'tf32'",
    "both": "torch.backends.cudnn.conv.fp32_precision = 'ieee'",
    "a newer name for products": "torch.backends.cuda.matmul.fp32_precision = 'tf32'",
}
SCRIPT = """
import json
import multiprocessing
import sys
import torch
from lsc_graph.to_torch.device import whole_single_precision

def state():
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    found = [switch.fp32_precision == "tf32" for switch in (cudnn.conv, cudnn.rnn, matmul)]
    for read in (lambda: cudnn.allow_tf32, torch.get_float32_matmul_precision):
        try:
            found.append(read())
        except RuntimeError:
            found.append("not to be read")
    return found

def look(setting):
    exec(setting)
    before = state()
    is_default = torch.backends.fp32_precision == "none" and "not to be read" not in before
    for _ in range(2):
        try:
            with whole_single_precision():
                within = state()
                assert within[:3] == [False] * 3, within
                assert not is_default or "not to be read" not in within, within
                raise KeyError
        except KeyError:
            pass
        assert state() == before, (state(), before)

context, codes = multiprocessing.get_context("fork"), {}
for name, setting in json.loads(sys.argv[1]).items():
    process = context.Process(target=look, args=(setting,), name=name)
    process.start()
    process.join()
    codes[name] = process.exitcode
print(json.dumps(codes))
"""


def test_tf32_is_off_within_and_everything_as_before_afterwards() -> None:
    """In a process for each setting: torch's switches are global."""
    command = [sys.executable, "-c", SCRIPT, json.dumps(SETTINGS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert json.loads(done.stdout) == dict.fromkeys(SETTINGS, 0), done.stderr[-1500:]
