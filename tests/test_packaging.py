"""Packaging: declared imports and pins, and the sizes and contents of sdist and wheel."""

import ast
import re
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from email import message_from_bytes
from pathlib import Path

import pytest
import yaml
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
DISTRIBUTIONS = {"PIL": "pillow", "yaml": "pyyaml"}
"""Distributions whose name differs from the import's."""
OURS = {
    "persam_dreambooth",
    "tests",
    *(path.stem for folder in ("benchmarks", "examples", "experiments") for path in (ROOT / folder).rglob("*.py")),
}
OFFICIAL = {"per_segment_anything", "mobile_sam", "efficient_sam"}
"""The authors' code, which benchmarks/album.py and the recorders of `tests/parity` import from checkouts."""
MAX_SDIST = 5_000_000  # bytes; it had 32 MB when trained weights and recordings were in it


def requirements(*extras: str) -> dict[str, Requirement]:
    """Return the package's requirements with the given extras, by name."""
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in EXTRAS[extra])]
    found = {canonicalize_name(line.name): line for line in map(Requirement, lines)}
    own = found.pop(PROJECT["name"], None)  # an extra that includes other extras
    return found | requirements(*own.extras) if own else found


def imports(folder: Path) -> Iterator[tuple[str, Path, bool]]:
    """Yield each imported top-level package, the file, and whether it is imported at module level."""
    for path in [folder] if folder.is_file() else sorted(folder.rglob("*.py")):
        tree = ast.parse(path.read_text())
        at_once = set(map(id, tree.body))
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            else:
                continue
            yield from ((name.split(".")[0], path, id(node) in at_once) for name in names)


def undeclared(folder: str, declared: dict[str, Requirement], at_once_only: bool = False) -> set[str]:
    known = {*sys.stdlib_module_names, *OURS, *OFFICIAL}
    return {
        f"{path.relative_to(ROOT)} imports {name}"
        for name, path, at_once in imports(ROOT / folder)
        if name not in known and (at_once or not at_once_only)
        if canonicalize_name(DISTRIBUTIONS.get(name, name)) not in declared
    }


def test_every_import_of_package_is_declared():
    extras = set(EXTRAS) - {"dev", "docs"}  # extras for users
    assert undeclared("persam_dreambooth", requirements(*extras)) == set()


def test_only_review_page_needs_extra_at_import():
    missing = undeclared("persam_dreambooth", requirements(), at_once_only=True)
    assert missing
    assert {line for line in missing if not line.startswith("persam_dreambooth/review/")} == set()
    assert undeclared("persam_dreambooth/review", requirements("ui"), at_once_only=True) == set()


@pytest.mark.parametrize("folder", ["tests", "examples", "experiments", "benchmarks", "train_dreambooth_persam.py"])
def test_dev_extra_covers_all_other_imports(folder):
    assert undeclared(folder, requirements("dev")) == set()


def test_every_dependency_is_pinned_at_or_above_its_lower_bound():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    pinned = {canonicalize_name(name): version for name, version in pins.items()}
    for name, requirement in requirements("dev").items():
        assert name in pinned, f"{name} has no version in constraints.txt"
        assert requirement.specifier.contains(pinned[name]), f"{requirement} is not met by {pinned[name]}"


def test_citation_names_this_version():
    version = re.search(r'__version__ = "(.+)"', (ROOT / "persam_dreambooth/__init__.py").read_text())[1]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    return Path(next(SdistBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])))


def test_sdist_is_small_and_complete(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    assert sdist.stat().st_size < MAX_SDIST
    assert not {name for name in names if name.endswith((".safetensors", ".pth", ".npz", ".png"))}
    needed = {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "docs/training.md"}
    assert needed | {"configs/sd15_lora.yaml", "persam_dreambooth/py.typed"} <= names


def test_readme_on_index_has_absolute_links(sdist):
    with tarfile.open(sdist) as archive:
        (name,) = [name for name in archive.getnames() if name.endswith("/PKG-INFO")]
        shown = message_from_bytes(archive.extractfile(name).read()).get_payload()
    links = re.findall(r"(!?)\[[^\]]*\]\(([^)]+)\)", shown)
    paths = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / "README.md").read_text())
    assert paths and len(links) >= len(paths)
    assert all(address.startswith("https://") for _, address in links)
    pictures = [address for bang, address in links if bang]
    assert pictures and all(address.startswith("https://raw.githubusercontent.com/") for address in pictures)
    assert all(any(address.endswith(path) for address in pictures) for path in paths if path.endswith(".png"))


def test_wheel_has_exactly_package(tmp_path):
    wheel = next(WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"]))
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    package = (path for path in (ROOT / "persam_dreambooth").rglob("*") if path.is_file())
    there = {path.relative_to(ROOT).as_posix() for path in package if path.suffix != ".pyc"}
    assert names == there and {"persam_dreambooth/py.typed", "persam_dreambooth/review/static/masks.html"} <= names
