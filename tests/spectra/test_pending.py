"""What is still on the device is the same estimate once it is read, alone or with others."""

from __future__ import annotations

import torch
from fake_device import FakeDevice, Held

from lsc_graph.spectra.estimate import Estimate, Method
from lsc_graph.spectra.pending import Pending, together


def pending(numbers: torch.Tensor) -> Pending:
    def read(host: torch.Tensor) -> Estimate:
        return Estimate.of(Method.POWERS, host[:, 0], host[:, 1], tolerance=0.1)

    return Pending(numbers, read)


def test_several_are_read_by_one_wait() -> None:
    first, other = torch.rand(3, 2).double(), torch.rand(3, 2).double()
    factors = torch.tensor([1.0, 2.0, 4.0])
    with FakeDevice() as device:
        here = pending(Held(first)).scaled(Held(factors)), pending(Held(other))
        assert device.waits.total() == 0
        found = together(*here)
    assert device.waits.total() == 1
    torch.testing.assert_close(found[0].values, first[:, 0] * factors)
    torch.testing.assert_close(found[0].errors, first[:, 1])
    torch.testing.assert_close(found[1].values, other[:, 0])


def test_one_alone_is_read_by_one_wait() -> None:
    with FakeDevice() as device:
        found = pending(Held(torch.tensor([[0.5, 0.0]]).double())).estimate()
    assert found.values.tolist() == [0.5]
    assert device.waits.total() == 1
