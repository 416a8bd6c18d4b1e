"""The folders: tests mirror the package, with a file for each module."""

from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_module_has_a_test_file_at_its_own_place():
    package = ROOT / "persam_dreambooth"
    modules = [path for path in package.rglob("*.py") if not path.stem.startswith("__")]
    expected = [
        ROOT / "tests" / path.parent.relative_to(package) / f"test_{path.stem.strip('_')}.py" for path in modules
    ]
    assert [str(path.relative_to(ROOT)) for path in expected if not path.is_file()] == []
