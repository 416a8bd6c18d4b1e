"""The background search: only one at a time, however many pages start it at once."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from models import SAM
from persam_dreambooth.photos.manifest import read_manifest
from persam_dreambooth.preprocessing import SegmentationJob
from persam_dreambooth.review.album import Album
from persam_dreambooth.review.api import Api
from persam_dreambooth.review.clicks import Clicker
from persam_dreambooth.review.workspace import Workspace
from persam_dreambooth.segmentation import PerSAM
from tests.review.albums import draw_photos

NAMES = ("a.png", "b.png", "c.png")
PAGES = 4


class JobFactory:
    """Makes jobs, waiting for other callers: all pages meet here unless a lock keeps them apart."""

    def __init__(self):
        self.jobs, self._others = [], threading.Barrier(PAGES)

    def __call__(self, album, references):
        self.jobs.append(album)
        with suppress(threading.BrokenBarrierError):  # no other caller came
            self._others.wait(0.5)
        return SegmentationJob(album.images, references, album.output, str(SAM), device="cpu", batch_size=1)


@pytest.fixture
def drawn_album(tmp_path):
    """Opened photos, one of which is a reference."""
    masks = draw_photos(tmp_path / "photos", NAMES)
    workspace = Workspace(tmp_path / "photos")
    album = Album(workspace.images, workspace.output_of("."))
    photo = album.photo("a.png")
    album.edits.correct(photo, masks["a.png"], album.state("a.png").version, {"source": "reference"})
    return workspace


def api_of(workspace, job):
    return Api(workspace, Clicker(lambda: PerSAM.from_pretrained(str(SAM), device="cpu")), job)


@pytest.mark.parametrize("known", [True, False], ids=["a known album", "an album that nobody has asked for yet"])
def test_simultaneous_searches_run_only_once(known, drawn_album, tmp_path):
    meeting = JobFactory()
    api = api_of(drawn_album, meeting)
    if known:
        api.overview({"album": "."})
    together = threading.Barrier(PAGES)

    def press(_):
        together.wait()
        return api.search({"album": "."})

    with ThreadPoolExecutor(PAGES) as pages:
        answers = list(pages.map(press, range(PAGES)))
    assert sorted(list(answer) for answer in answers) == [["error"]] * (PAGES - 1) + [["running"]]
    assert all("already running" in answer["error"] for answer in answers if "error" in answer)
    assert len(meeting.jobs) == 1
    while (now := api.overview({"album": "."}))["running"]:
        time.sleep(0.05)
    assert now["search_error"] is None
    entries = read_manifest(tmp_path / "photos" / "segmented" / "manifest.jsonl")
    assert [(entry.photo, entry.source) for entry in entries] == [
        ("../a.png", "reference"),
        ("../b.png", "persam"),
        ("../c.png", "persam"),
    ]
