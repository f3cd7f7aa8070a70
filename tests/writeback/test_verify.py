"""What verification of a written file notices, and that a killed writer leaves the old file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper
from writeback_models import external_model, small_model

from lsc_graph.errors import VerificationError
from lsc_graph.model_file.provenance import PROVENANCE
from lsc_graph.writeback.verify import verify_file
from lsc_graph.writeback.weights import with_provenance, with_values, written

NEW = np.array([0.25, -1.5])


def altered(proto: ModelProto, change: Callable[[ModelProto], object]) -> ModelProto:
    after = with_values(proto, {("w",): NEW})
    with_provenance(after, {"seed": 1})
    change(after)
    return after


def no_change(proto: ModelProto) -> None:
    pass


def other_weight(proto: ModelProto) -> None:
    proto.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.ones(2, np.float32), "v"))


def wrong_value(proto: ModelProto) -> None:
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones(2, np.float32), "w"))


def other_metadata(proto: ModelProto) -> None:
    proto.metadata_props.add(key="another", value="entry")


def renamed_node(proto: ModelProto) -> None:
    proto.graph.node[0].name = "renamed"


def other_shape(proto: ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "open"


def check(proto: ModelProto, change: Callable[[ModelProto], object], folder: Path) -> None:
    path = folder / "written.onnx"
    path.write_bytes(altered(proto, change).SerializeToString())
    verify_file(path, proto, {("w",): NEW}, PROVENANCE)


def test_new_values_and_their_provenance_are_what_may_differ(tmp_path: Path) -> None:
    check(small_model(), no_change, tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (other_weight, r"graph\.initializer\[1\]"),
        (wrong_value, "does not hold its new values"),
        (other_metadata, r"metadata_props\[\]"),
        (renamed_node, r"graph\.node\[0\]\.name"),
        (other_shape, r"graph\.input\[0\]"),
    ],
)
def test_anything_else_is_noticed(tmp_path: Path, change: Callable[[ModelProto], object], words: str) -> None:
    with pytest.raises(VerificationError, match=words):
        check(small_model(), change, tmp_path)


def test_other_bytes_in_a_data_file_are_noticed(tmp_path: Path) -> None:
    source = external_model(tmp_path / "one")
    (tmp_path / "other").mkdir()
    target = tmp_path / "other" / "out.onnx"
    new = np.arange(16, dtype=np.float32).reshape(4, 4)
    with written(source, target, {("a",): new}, {}) as temporary:
        (data,) = (path for path in target.parent.iterdir() if path.suffix == ".data")
        verify_file(temporary, source, {("a",): new}, PROVENANCE)
        whole = data.read_bytes()
        end = len(whole) - 4
        data.write_bytes(whole[:end] + np.float32(7).tobytes())
        with pytest.raises(VerificationError, match="More has changed"):
            verify_file(temporary, source, {("a",): new}, PROVENANCE)
        data.write_bytes(whole)


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from lsc_graph.writeback.weights import written
source, target, name, shape = sys.argv[1:5]
values = {(name,): np.full(eval(shape), 0.5, np.float32)}
with written(Path(source), Path(target), values, {}, is_in_place_allowed=True):
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("is_external", [False, True])
def test_a_writer_that_is_killed_leaves_every_old_file_whole(
    tmp_path: Path, in_place: bool, is_external: bool
) -> None:
    if is_external:
        source, name, shape = external_model(tmp_path / "one"), "a", "(4, 4)"
    else:
        (tmp_path / "one").mkdir()
        source, name, shape = tmp_path / "one" / "model.onnx", "w", "2"
        onnx.save(small_model(), source)
    target = source if in_place else source.parent / "out.onnx"
    target.write_bytes(source.read_bytes())
    before = {path: path.read_bytes() for path in source.parent.iterdir()}
    command = [sys.executable, "-c", KILLED, str(source), str(target), name, shape]
    done = subprocess.run(command, check=False, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.returncode == -signal.SIGKILL
    assert all(path.read_bytes() == data for path, data in before.items())
    assert len(list(source.parent.iterdir())) > len(before)
    onnx.checker.check_model(target)
