"""Annotations in pickles and object arrays: plain values are read, code is not run, damage is named."""

import os
import pickle

import numpy as np
import pytest

from persam_dreambooth.errors import UserError
from persam_dreambooth.evaluation.segmentation.annotations import read_annotations, read_object_array


class Marking:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_code_in_object_array_is_not_run(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.array([{1: Marking(str(tmp_path / "ran"))}] * 3, dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="more than annotations"):
        read_object_array(path)
    assert not (tmp_path / "ran").exists()
    np.save(path, np.zeros(3))
    with pytest.raises(UserError, match="array of float64"):
        read_object_array(path)


class Program:
    def __reduce__(self):
        return os.system, ("touch pickled-program-ran",)


def test_code_in_pickle_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "lvis_val.pkl"
    path.write_bytes(pickle.dumps({1: Program()}))
    with pytest.raises(UserError, match="more than annotations"):
        read_annotations(path)
    assert not (tmp_path / "pickled-program-ran").exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_annotations_of_every_pickle_protocol_are_read(tmp_path, protocol):
    path, mask = tmp_path / "a.pkl", np.eye(5, dtype=np.uint8)
    stored = {1: {"counts": b"\x01\xff", "array": mask, "number": np.int64(3), "box": [1.5, 2]}}
    path.write_bytes(pickle.dumps(stored, protocol=protocol))
    read = read_annotations(path)[1]
    np.testing.assert_array_equal(read["array"], mask)
    assert (read["counts"], read["number"], read["box"]) == (b"\x01\xff", 3, [1.5, 2])


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps([1, 2])], ids=["empty", "text", "list"])
def test_invalid_annotation_file_is_refused(tmp_path, content):
    path = tmp_path / "a.pkl"
    path.write_bytes(content)
    with pytest.raises(UserError, match="download it again"):
        read_annotations(path)
