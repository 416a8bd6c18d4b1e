"""The runs' tab: names of runs."""

from types import SimpleNamespace

from persam_dreambooth.review.runs_tab import _names


def test_runs_are_named_by_what_tells_them_apart(tmp_path):
    def names(*folders):
        return _names(SimpleNamespace(runs=tuple(tmp_path / folder for folder in folders)))

    assert names("a/one", "a/two") == ["one", "two"]
    assert names("a/model", "b/model", "c/other") == ["a/model", "b/model", "c/other"]
    assert len(set(names("same", "same"))) == 2
