"""Out of memory is one clear error, whichever library says so and wherever it happens."""

from __future__ import annotations

import subprocess
import sys
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from lsc_graph.cli.main import run
from lsc_graph.models import registry

import lsc_graph
from lsc_graph import audit_model, memory
from lsc_graph.errors import ConversionError, OutOfMemoryError, UsageError
from lsc_graph.jacobians import summary
from lsc_graph.memory import memory_errors_named, out_of_memory
from lsc_graph.to_torch.segment import BlackBoxUse

CPU = (
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
    "allocate 8589934592 bytes. Error code 12 (Cannot allocate memory)"
)
CUDA = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.1 GiB"
ORT = "Failed to allocate memory for requested buffer of size 4294967296"


def raised(make: Callable[[], Any]) -> Exception:
    try:
        make()
    except Exception as error:
        return error
    pytest.fail("nothing was raised")


@pytest.mark.parametrize(
    ("error", "amount"),
    [
        (RuntimeError(CPU), "8.00 GiB asked for at once"),
        (torch.OutOfMemoryError(CUDA), "20.00 GiB asked for at once"),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
            "CUBLAS",
        ),
        (RuntimeError(ORT), "4.00 GiB asked for at once"),
        (RuntimeError(ORT.replace("4294967296", "3145728")), "3.00 MiB asked for at once"),
        (RuntimeError("std::bad_alloc"), "bad_alloc"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_what_libraries_say_of_memory_is_understood(error: Exception, amount: str) -> None:
    found = out_of_memory(error)
    assert found is not None
    assert amount in str(found.got)
    is_on_gpu = "CUDA" in str(error)
    assert ("GPU" in found.what) == is_on_gpu
    assert ("--device cpu" in str(found.do)) == is_on_gpu
    assert "--steps" in str(found.do)


def test_allocations_that_really_fail_are_understood() -> None:
    too_large = 2**56
    for make in (lambda: torch.empty(too_large, dtype=torch.uint8), lambda: np.empty(too_large, np.uint8)):
        found = out_of_memory(raised(make))
        assert found is not None
        assert "asked for at once" in str(found.got)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("shapes differ"),
        UsageError("--data is out of memory range"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    ],
)
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    assert out_of_memory(error) is None

    def fail() -> None:
        with memory_errors_named():
            raise error

    assert raised(fail) is error


def test_python_s_own_error_is_one_of_memory_where_none_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    error = SystemError("<function _find_and_load> returned NULL without setting an exception")
    assert out_of_memory(error) is None
    monkeypatch.setattr(memory, "_LEFT", 2**60)
    found = out_of_memory(error)
    assert found is not None
    assert "_find_and_load" in str(found.got)


def test_what_was_held_when_memory_ran_out_is_let_go_before_it_is_said() -> None:
    held = []

    def fail() -> None:
        large = np.zeros(3)
        held.append(weakref.ref(large))
        raise MemoryError

    @memory_errors_named()
    def whole() -> None:
        fail()

    error = raised(whole)
    assert isinstance(error, OutOfMemoryError)
    assert held[0]() is None


def test_what_wraps_such_an_error_is_not_taken_for_another_failure() -> None:
    wrapped = ConversionError("A part of the model has no torch counterpart")
    wrapped.__cause__ = RuntimeError(CPU)
    found = out_of_memory(wrapped)
    assert found is not None
    assert found.what == "The memory does not suffice"


def test_an_audit_says_where_its_memory_ended_and_exits_with_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(registry.build("gru"), tmp_path / "gru.onnx")

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(CPU)

    monkeypatch.setattr(summary, "read", fail)
    assert run(["audit", str(tmp_path / "gru.onnx"), "--samples", "1"]) == 3
    said = capsys.readouterr().err
    assert said.startswith("error: The memory does not suffice: lsc_graph/jacobians/summary.py, ")
    assert "8.00 GiB" in said
    assert "to do:" in said
    assert "unexpected" not in said
    with pytest.raises(OutOfMemoryError):
        lsc_graph.audit(registry.build("gru"), num_samples=1)


def test_what_is_out_of_memory_in_torch_is_not_tried_as_a_black_box(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def fail(prepared: object, view: partial[object], *others: object) -> None:
        tried.append(view.keywords["black_box"])
        raise ConversionError("A part cannot be computed") from RuntimeError(CPU)

    monkeypatch.setattr(audit_model, "_measure", fail)
    with pytest.raises(OutOfMemoryError):
        lsc_graph.audit(registry.build("gru"), num_samples=1)
    assert tried == [BlackBoxUse.IF_NEEDED]


LIMITED = """
import resource, sys
import lsc_graph.audit_model
from lsc_graph.models import registry
from lsc_graph.cli.main import run
import torch, torch._dynamo  # which torch imports at the first derivative
torch.set_num_threads(1)
open(sys.argv[1], "wb").write(registry.build("tanh_rnn", hidden_size=256).SerializeToString())
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, used + 2**26))
sys.exit(run(["audit", sys.argv[1], "--samples", "1", "--steps", "400"]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="address space is read from /proc")
def test_an_audit_within_a_limited_address_space_ends_with_that_error(tmp_path: Path) -> None:
    given = [sys.executable, "-c", LIMITED, str(tmp_path / "rnn.onnx")]
    ended = subprocess.run(given, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 3, ended.stderr
    assert "memory does not suffice" in ended.stderr
    assert "unexpected" not in ended.stderr
