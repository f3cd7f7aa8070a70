"""Devices by name, and single precision that is whole."""

from __future__ import annotations

import pytest
import torch

from lsc_graph.errors import UsageError
from lsc_graph.to_torch.device import device_of, whole_single_precision


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


def test_tf32_is_off_within_and_as_before_afterwards() -> None:
    convolution = torch.backends.cudnn.conv  # type: ignore[attr-defined]  # torch replaces the module
    before = convolution.fp32_precision

    @whole_single_precision()
    def fails() -> None:
        assert convolution.fp32_precision == "ieee"
        assert torch.backends.cuda.matmul.fp32_precision == "ieee"
        raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        fails()
    assert convolution.fp32_precision == before
