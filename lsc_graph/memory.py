"""Out of memory, in whatever library that happens: one error that says so, and what takes less."""

from __future__ import annotations

import mmap
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lsc_graph.errors import LscGraphError, OutOfMemoryError

_PACKAGE = Path(__file__).parent
# What torch on CPUs and GPUs, its libraries, ONNX Runtime and C++ say; MemoryErrors need no words.
_WORDS = re.compile(
    r"can't allocate memory|cannot allocate memory|not enough memory|out of memory|failed to allocate memory"
    r"|bad_alloc|bad allocation|ALLOC_FAILED",
    re.IGNORECASE,
)
_AMOUNT = re.compile(r"(?:to allocate|buffer of size) (\d+(?:\.\d+)?) ?(bytes|[KMGTPE]i?B)?", re.IGNORECASE)
_GPU = re.compile(r"\b(CUDA|CUBLAS|CUDNN|CUSOLVER|HIP|GPU)", re.IGNORECASE)
# What has to be left for an error of Python itself not to be one of memory.
_LEFT = 2**26
_LESS = "fewer --steps, a smaller batch or shorter sequences (--input-shape), or an export of smaller width"


def out_of_memory(error: BaseException) -> OutOfMemoryError | None:
    """An error, or what it was raised from, as one of memory that does not suffice; None if it is another."""
    if isinstance(error, OutOfMemoryError):
        return error
    first: BaseException | None = error
    while first is not None and not _is_of_memory(first):
        first = first.__cause__
    if first is None:
        return None
    text = " ".join(str(first).split())
    is_on_gpu = bool(_GPU.search(text))
    return OutOfMemoryError(
        "The GPU's memory does not suffice" if is_on_gpu else "The memory does not suffice",
        where=_place(first),
        got=_amount(text) or f"{type(first).__name__}: {text[:200]}".rstrip(": "),
        do=f"--device cpu, or {_LESS}" if is_on_gpu else _LESS,
    )


@contextmanager
def memory_errors_named() -> Iterator[None]:
    """Errors of memory that does not suffice are raised as such."""
    try:
        yield
    except Exception as error:
        found = out_of_memory(error)
        if found is None or found is error:
            raise
        _let_go(error)
        raise found from error


def _let_go(error: BaseException) -> None:
    """Forget what the functions held that an error went through: to say so takes memory, too."""
    first: BaseException | None = error
    while first is not None:
        traceback.clear_frames(first.__traceback__)
        first = first.__cause__ or first.__context__


def _is_of_memory(error: BaseException) -> bool:
    if isinstance(error, LscGraphError):
        return False
    if isinstance(error, SystemError):
        return not _is_left()
    return isinstance(error, MemoryError) or bool(_WORDS.search(str(error)))


def _is_left() -> bool:
    """Whether there is memory: without any, Python may say that a call failed, and not of what."""
    try:
        mmap.mmap(-1, _LEFT).close()
    except (OSError, MemoryError):
        return False
    return True


def _place(error: BaseException) -> str | None:
    """The innermost function of the package that an error went through."""
    frames = [(Path(frame.filename), frame.name) for frame in traceback.extract_tb(error.__traceback__)]
    own = [(path, name) for path, name in frames if path.is_relative_to(_PACKAGE)]
    return f"{own[-1][0].relative_to(_PACKAGE.parent)}, {own[-1][1]}" if own else None


def _amount(text: str) -> str | None:
    """How much was asked for at once, if a message tells it."""
    found = _AMOUNT.search(text)
    if found is None:
        return None
    number, unit = found.groups()
    if unit is None or unit.lower() == "bytes":
        size = float(number)
        return (
            f"{size / 2**30:,.2f} GiB asked for at once"
            if size >= 2**30
            else f"{size / 2**20:,.2f} MiB asked for at once"
        )
    return f"{number} {unit} asked for at once"
