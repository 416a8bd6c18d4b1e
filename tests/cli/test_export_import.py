"""`export` and `import` as commands: output, exit codes, and that training accepts the result."""

import numpy as np
import pytest

from persam_dreambooth.formats import CONVENTIONS
from tests.formats.albums import NAMES, masks_in, write_album


@pytest.fixture
def album(tmp_path):
    write_album(tmp_path / "album")
    return tmp_path / "album"


@pytest.mark.parametrize("trainer", CONVENTIONS)
def test_snippet_is_printed_and_round_trip_is_lossless(trainer, album, tmp_path, command):
    exported, imported = tmp_path / "exported", tmp_path / "imported"
    given = ("--images", album / "photos", "--masks", album / "masks", "--instance_prompt", "a sks dog")
    code, printed, errors = command("export", "--to", trainer, *given, "--output", exported)
    assert (code, errors) == (0, "")
    assert f"{len(NAMES)} photos" in printed and str(exported) in printed
    config = CONVENTIONS[trainer].config
    assert not config or (exported / config).read_text(encoding="utf-8").strip() in printed
    code, printed, errors = command("import", "--from", trainer, "--input", exported, "--output", imported)
    assert (code, errors) == (0, "")
    assert f"{len(NAMES)} photos" in printed
    assert "empty masks" in printed and "Hündin am See" in printed
    expected = masks_in(album / "masks")
    assert all(np.array_equal(mask, expected[stem]) for stem, mask in masks_in(imported / "masks").items())


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["export"], ["--to", *CONVENTIONS]),
        (["export", "--to", "onetrianer"], ["onetrianer", *CONVENTIONS]),
        (["export", "--to", "kohya"], ["--masks"]),
        (["export", "--to", "kohya", "--masks", "m"], ["--output", "--in_place"]),
        (["export", "--to", "kohya", "--masks", "m", "--output", "o", "--in_place"], ["--output", "--in_place"]),
        (["export", "--to", "kohya", "--masks", "m", "--in_place", "--instance_prompt", "p"], ["--instance_prompt"]),
        (["export", "--to", "kohya", "--masks", "absent", "--output", "o"], ["absent"]),
        (["import"], ["--from", *CONVENTIONS]),
        (["import", "--from", "sd-scripts"], ["sd-scripts", *CONVENTIONS]),
        (["import", "--from", "kohya"], ["--input"]),
        (["import", "--from", "kohya", "--input", "i"], ["--output"]),
        (["import", "--from", "kohya", "--input", "absent", "--output", "o"], ["absent"]),
    ],
)
def test_error_is_one_line_and_writes_nothing(argv, expected, tmp_path, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, printed, errors = command(*argv)
    assert (code, printed, len(errors.splitlines())) == (2, "", 1)
    assert all(word in errors for word in expected)
    assert list(tmp_path.iterdir()) == []
