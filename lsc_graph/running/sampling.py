"""The samples of an audit: given data, or synthetic values that fit what each input is for."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lsc_graph.errors import UsageError
from lsc_graph.running.inputs import Domain, InputPlan, OpenInput, synthetic
from lsc_graph.running.reference import Array


@dataclass(frozen=True)
class Sample:
    """One run of the model: inputs by name (time first if it is streamed), and first values of states."""

    inputs: dict[str, Array]
    initial: dict[str, Array]

    @property
    def digest(self) -> str:
        """Equal for samples of which a run would be the same."""
        found = hashlib.sha256()
        for name, value in sorted((self.inputs | self.initial).items()):
            found.update(
                f"{name} {value.dtype} {value.shape}".encode() + np.ascontiguousarray(value).tobytes()
            )
        return found.hexdigest()

    def is_like(self, other: Sample) -> bool:
        """Whether a run of the other one would be the same."""
        return self.digest == other.digest


def read_data(source: Mapping[str, Array] | str | os.PathLike[str]) -> dict[str, Array]:
    """Arrays by input name, from a mapping or an .npz file.

    Raises:
        UsageError: the file is not a readable .npz.
    """
    if isinstance(source, Mapping):
        return {name: np.asarray(value) for name, value in source.items()}
    try:
        with np.load(source, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, AttributeError) as error:
        raise UsageError(
            "--data is not a readable .npz file",
            where=str(source),
            got=str(error),
            expected="numpy.savez(FILE, INPUT_NAME=array, ...)",
        ) from error


def shape_from_data(value: OpenInput, array: Array) -> tuple[int, ...]:
    """The input's shape that given data implies: its trailing dimensions.

    Raises:
        UsageError: too few or too many dimensions.
    """
    extra = array.ndim - len(value.dims)
    if extra not in (0, 1, 2):
        raise UsageError(
            "--data has an array of the wrong rank",
            where=value.name,
            got=f"shape {array.shape}",
            expected=f"{len(value.dims)} dimensions, and before them samples and, if streamed, time",
        )
    return tuple(int(dim) for dim in array.shape[extra:])


def make_samples(
    plan: InputPlan,
    *,
    data: Mapping[str, Array],
    fixed: Mapping[str, Array],
    domains: Mapping[str, Domain],
    carried: Sequence[str],
    num_steps: int | None,
    num_samples: int,
    seed: int,
    first: int = 0,
) -> tuple[Sample, ...]:
    """The samples of an audit.

    Args:
        plan: shapes and constants.
        data: given arrays by input name.
        fixed: values given on the command line, filling the whole input.
        domains: what each input may hold.
        carried: names of the inputs that hold states; zero at first, unless data gives them.
        num_steps: length in time of a streamed model, None for others.
        num_samples: how many samples.
        seed: of the synthetic values.
        first: number of the first sample; each has its own random values, whatever is drawn with it.
    """
    samples = []
    for index in range(first, first + num_samples):
        generator = np.random.default_rng((seed, index))
        inputs, initial = {}, {}
        for value in plan.inputs:
            if value.name in plan.constants:
                continue
            shape = plan.shapes[value.name]
            if value.name in carried:
                initial[value.name] = _initial(value, shape, data.get(value.name), index)
                continue
            length = () if num_steps is None else (num_steps,)
            if value.name in data:
                inputs[value.name] = _given(
                    value, shape, length, data[value.name], index, first + num_samples
                )
            elif value.name in fixed:
                inputs[value.name] = np.broadcast_to(fixed[value.name], length + shape).astype(value.dtype)
            else:
                inputs[value.name] = synthetic(domains[value.name], length + shape, value.dtype, generator)
        samples.append(Sample(inputs, initial))
    return tuple(samples)


def num_given(plan: InputPlan, data: Mapping[str, Array], *, is_streaming: bool) -> int | None:
    """How many samples given data has; None if there is no limit."""
    ranks = {value.name: len(plan.shapes[value.name]) + is_streaming for value in plan.inputs}
    counts = [len(array) for name, array in data.items() if array.ndim == ranks.get(name, -1) + 1]
    return min(counts, default=None)


def _initial(value: OpenInput, shape: tuple[int, ...], given: Array | None, index: int) -> Array:
    if given is None:
        return np.zeros(shape, dtype=value.dtype)
    array = given if given.ndim == len(shape) else given[index % len(given)]
    return array.astype(value.dtype)


def _given(
    value: OpenInput,
    shape: tuple[int, ...],
    length: tuple[int, ...],
    array: Array,
    index: int,
    num_samples: int,
) -> Array:
    """One sample of given data: [samples,] [time,] shape."""
    rank = len(length) + len(shape)
    if array.ndim == rank + 1:
        if len(array) < num_samples:
            raise UsageError(
                "--data has fewer samples than --samples",
                where=value.name,
                got=f"{len(array)} samples",
                expected=f"at least {num_samples}",
                do=f"give --samples {len(array)}",
            )
        array = array[index]
    elif array.ndim == len(shape) and length:
        array = np.broadcast_to(array, length + shape)
    if length and array.shape[1:] == shape and len(array) < length[0]:
        raise UsageError(
            "--data has fewer steps than the analysis takes",
            where=value.name,
            got=f"{len(array)} of shape {shape}",
            expected=f"at least {length[0]}, as one run of the model is one step that carries its states on",
            do=f"give --steps {len(array)}; or --state none, if one run takes a whole sequence",
        )
    if array.shape != length + shape and not (length and array.shape[1:] == shape):
        raise UsageError(
            "--data has an array of the wrong shape",
            where=value.name,
            got=str(array.shape),
            expected=str(length + shape),
        )
    return (array[: length[0]] if length else array).astype(value.dtype)
