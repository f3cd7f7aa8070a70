"""Where a fit gets its fresh samples from: synthetic ones, or a random choice from given data."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from lsc_graph.errors import UsageError
from lsc_graph.prepare import Prepared, is_streaming
from lsc_graph.running.reference import Array
from lsc_graph.running.sampling import Sample, make_samples


class Points:
    """Samples of a prepared model by seed: the same seed gives the same samples.

    Args:
        prepared: the model.
        data: given arrays by input name; synthetic values for other inputs.

    Raises:
        UsageError: inputs that were given several samples have different numbers of them.
    """

    def __init__(self, prepared: Prepared, data: Mapping[str, Array]) -> None:
        self._prepared, self._data = prepared, dict(data)
        self._num_steps = prepared.cell_graph.num_steps if is_streaming(prepared) else None
        ranks = {v.name: len(prepared.plan.shapes[v.name]) for v in prepared.plan.inputs}
        carried = {carry.before for carry in prepared.findings.carried}
        streamed = set() if self._num_steps is None else set(ranks) - carried
        self._sampled = {
            name: len(array)
            for name, array in self._data.items()
            if array.ndim > ranks[name] + (name in streamed) and name not in prepared.plan.constants
        }
        if len(set(self._sampled.values())) > 1:
            got = ", ".join(f"{name}: {count}" for name, count in self._sampled.items())
            raise UsageError("--data has a different number of samples for each input", got=got)

    def draw(self, seed: int, count: int) -> Sequence[Sample]:
        """`count` samples; a different choice for every seed."""
        prepared, data = self._prepared, dict(self._data)
        if self._sampled:
            available = next(iter(self._sampled.values()))
            generator = np.random.default_rng((seed, 1))
            chosen = generator.permutation(available)[:count]
            if count > available:
                chosen = np.concatenate([chosen, generator.integers(available, size=count - available)])
            data |= {name: data[name][chosen] for name in self._sampled}
        return make_samples(
            prepared.plan,
            data=data,
            fixed=prepared.fixed,
            domains=prepared.domains,
            carried=[carry.before for carry in prepared.findings.carried],
            num_steps=self._num_steps,
            num_samples=count,
            seed=seed,
        )

    def digest(self, seed: int) -> str:
        """SHA-256 of the given data, or of the first synthetic sample where there are none."""
        arrays = self._data
        if not arrays:
            (sample,) = self.draw(seed, 1)
            arrays = sample.inputs | sample.initial
        found = hashlib.sha256()
        for name in sorted(arrays):
            array = np.asarray(arrays[name], order="C")
            found.update(f"{name} {array.dtype} {array.shape}".encode())
            found.update(array.tobytes())
        return found.hexdigest()
