"""The page in a real browser: from a folder of photos to approved masks, corrections, reloads, odd names.

    PERSAM_SCREENSHOTS=docs/pictures python -m pytest tests/review/test_page.py

also writes the pictures of `docs/review.md`.
"""

import json
import os
import shutil
import threading
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from accelerate import PartialState
from PIL import Image

from albums import albums, save_album
from models import DINO
from persam_dreambooth.photos import files
from persam_dreambooth.photos.manifest import newest_entries
from persam_dreambooth.preprocessing.mask_store import MaskStore
from persam_dreambooth.preprocessing.mask_writer import MaskWriter
from recipes import Recipe
from tests.review.albums import beside_a_look_alike, contents, draw_photos, middle, write_found
from tests.scene import iou
from tests.training.small import configure, photos_of
from world import draw

HOSTILE = (
    "<img src=x onerror=alert(1)>.png",
    "\"quoted\" 'twice'.png",
    "50% of #3 & more?.png",
    "Hündchen 狗 🐕.png",
    "two  blanks.png",
    "${1+1} {{value}}.png",
    "javascript:alert(2).png",
    "plain.png",
)
EMPTY = "nobody here.png"


@pytest.fixture(scope="module")
def dogs(tmp_path_factory):
    """Draw photos of one dog under hostile names; return them with their true masks by name."""
    folder = tmp_path_factory.mktemp("dogs")
    photos, masks = save_album(albums(1, photos=len(HOSTILE))[0], folder)
    for number, name in enumerate(HOSTILE):
        (photos / f"{number:02}.png").rename(photos / name)
        (masks / f"{number:02}.png").rename(masks / name)
    return photos, {name: files.read_mask(masks / name) for name in HOSTILE}


@pytest.fixture
def workspace(dogs, tmp_path):
    """A folder with two folders of photos; the second also has a photo without the dog."""
    shutil.copytree(dogs[0], tmp_path / "albums" / "my dog & co")
    nobody = draw(Recipe(albums(1)[0].scene, (), seed=1), 128).image
    files.write_picture(nobody, tmp_path / "albums" / "my dog & co" / EMPTY)
    draw_photos(tmp_path / "albums" / "another", ["one.jpg"])
    return tmp_path / "albums"


def shoot(tab, name):
    """Save a screenshot for the docs, if requested."""
    folder = os.environ.get("PERSAM_SCREENSHOTS")
    if folder:
        tab.wait_for_timeout(400)
        picture = Image.open(BytesIO(tab.screenshot())).convert("RGB").resize((1120, 720), Image.Resampling.LANCZOS)
        files.write_picture(picture, Path(folder) / f"{name}.png")


def names(tab):
    return [item.get_attribute("data-name") for item in tab.query_selector_all("[data-id=list] li")]


def wait_for_message(tab, words):
    """Wait until the page's message contains these words; return the message."""
    tab.wait_for_function("words => document.querySelector('[data-id=said]').textContent.includes(words)", arg=words)
    return tab.inner_text("[data-id=said]")


def choose(tab, name):
    tab.locator("[data-id=list] li").filter(has=tab.get_by_text(name, exact=True)).click()
    tab.wait_for_function("name => document.querySelector('[data-id=name]').textContent === name", arg=name)


def on_screen(tab, point, size):
    """Return the screen position (x, y) of a pixel's centre in a photo of `size` (width, height)."""
    box = tab.locator("[data-id=canvas]").bounding_box()
    return tuple(
        box[origin] + box[edge] * (place + 0.5) / whole
        for origin, edge, place, whole in zip(("x", "y"), ("width", "height"), point, size, strict=True)
    )


def drag(tab, points, size=(128, 128)):
    """Press at the first point, move over the others, release; a single point is a click."""
    places = [on_screen(tab, point, size) for point in points]
    tab.mouse.move(*places[0])
    tab.mouse.down()
    for place in places[1:]:
        tab.mouse.move(*place, steps=4)
    tab.mouse.up()


def box_of(mask):
    rows, columns = np.nonzero(mask)
    return [(columns.min(), rows.min()), (columns.max(), rows.max())]


def mask_of(output, name):
    return files.read_mask(output / "masks" / f"{Path(name).stem}.png")


def lines(output):
    return {Path(entry.photo).name: entry for entry in newest_entries(output / "manifest.jsonl")}


@pytest.fixture
def slow_search(monkeypatch):
    """Slow down the search like a large SAM, so that a page sees its masks one by one."""
    add = MaskWriter.add

    def slowly(self, photo, found):
        time.sleep(0.4)
        add(self, photo, found)

    monkeypatch.setattr(MaskWriter, "add", slowly)


def test_from_photos_to_approved_masks(workspace, dogs, serve, open_tab, slow_search):
    true, output = dogs[1], workspace / "my dog & co" / "segmented"
    tab = open_tab(serve("--images", workspace))
    assert names(tab) == ["one.jpg"]  # the first folder
    tab.select_option("[data-id=album]", "my dog & co")
    tab.wait_for_function(
        "count => document.querySelectorAll('[data-id=list] li').length === count", arg=len(HOSTILE) + 1
    )
    assert names(tab) == sorted([*HOSTILE, EMPTY])
    assert not output.exists()

    first = HOSTILE[0]
    choose(tab, first)
    wait_for_message(tab, "No mask yet")
    shoot(tab, "review-start")
    drag(tab, [middle(true[first])])
    wait_for_message(tab, "found and saved")
    assert iou(mask_of(output, first), true[first]) > 0.8
    assert lines(output)[first].source == "reference"

    tab.evaluate("""() => {
        window.counts = new Set();
        new MutationObserver(() => window.counts.add(document.querySelector('[data-id=count]').textContent)).observe(
            document.querySelector('[data-id=count]'), {childList: true, characterData: true, subtree: true});
    }""")
    tab.click("[data-id=search]")
    wait_for_message(tab, "All photos searched")
    assert len(tab.evaluate("[...window.counts]")) > 1, "the masks did not appear one after the other"
    found = lines(output)
    assert all(iou(mask_of(output, name), true[name]) > 0.6 for name in HOSTILE)
    by_worst = sorted(set(found) - {first}, key=lambda name: (found[name].probability, found[name].score))
    assert names(tab) == by_worst and by_worst[0] == EMPTY
    assert tab.inner_text("[data-id=status]") == found[EMPTY].presence == "not found"
    assert f"score {min(found[by_worst[0]].score, 1):.2f}" in tab.inner_text("[data-id=list] li >> nth=0")
    assert f"presence {found[by_worst[0]].probability:.0%}".replace("%", " %") in tab.inner_text("[data-id=list]")
    assert tab.inner_text("[data-id=name]") == by_worst[0]
    shoot(tab, "review-found")

    for key, name in zip("xaa", by_worst, strict=False):
        tab.wait_for_function("name => document.querySelector('[data-id=name]').textContent === name", arg=name)
        tab.keyboard.press(key)
        wait_for_other_photo(tab, name)
    reviews = {name: entry.review for name, entry in lines(output).items()}
    reviewed = {EMPTY: "excluded"} | dict.fromkeys([first, *by_worst[1:3]], "approved")
    assert reviews == dict.fromkeys(found) | reviewed
    assert trained_on(output.parent) == sorted(HOSTILE)

    tab.reload()
    tab.wait_for_selector("[data-id=list] li")
    tab.wait_for_function("name => document.querySelector('[data-id=name]').textContent === name", arg=by_worst[3])
    assert names(tab) == by_worst[3:]
    tab.click("[data-filter=excluded]")
    assert EMPTY in names(tab)

    before = {name: (output / "masks" / f"{Path(name).stem}.png").read_bytes() for name in HOSTILE}
    tab.keyboard.press("r")
    wait_for_message(tab, "a reference now")
    tab.click("[data-id=search]")
    wait_for_message(tab, "All photos searched")
    sources = {name: entry.source for name, entry in lines(output).items()}
    assert [name for name in sources if sources[name] == "reference"] == sorted([first, by_worst[3]])
    kept = [first, *by_worst[1:4]]
    assert all((output / "masks" / f"{Path(name).stem}.png").read_bytes() == before[name] for name in kept)
    assert all(lines(output)[name].review == verdict for name, verdict in reviewed.items())
    assert {path.name for path in output.iterdir()} == {
        ".manifest.lock",
        "contact_sheet.png",
        "manifest.jsonl",
        "masks",
        "overlays",
        "segmentation.json",
        "subject.safetensors",
    }  # only the fields of `segment`


@pytest.fixture
def paused_search(monkeypatch):
    """Block the search at its second photo until `go_on` is set; `waits` is set once it blocks."""
    add, waits, go_on, found = MaskWriter.add, threading.Event(), threading.Event(), []

    def held_up(self, photo, answer):
        found.append(photo)
        if len(found) == 2:
            waits.set()
            assert go_on.wait(20)
        add(self, photo, answer)

    monkeypatch.setattr(MaskWriter, "add", held_up)
    return waits, go_on


def test_stopped_search_keeps_its_masks_and_can_be_resumed(workspace, dogs, serve, open_tab, paused_search):
    output = workspace / "my dog & co" / "segmented"
    first, (waits, go_on) = "plain.png", paused_search
    write_found(output.parent, output, {first: dogs[1][first]}, {})
    address = serve("--images", workspace / "my dog & co")
    tab = open_tab(address)
    assert tab.is_hidden("[data-id=stop]")
    tab.wait_for_function("name => document.querySelector('[data-id=name]').textContent === name", arg=first)
    tab.keyboard.press("r")
    wait_for_message(tab, "a reference now")
    tab.click("[data-id=search]")
    assert waits.wait(20)
    tab.wait_for_function("document.querySelector('[data-id=searching]').textContent === 'finding: 7 left'")
    another = open_tab(address)
    another.click("[data-id=stop]")
    for each in (tab, another):
        each.wait_for_function("document.querySelector('[data-id=searching]').textContent.startsWith('stopping')")
        assert each.is_disabled("[data-id=stop]") and each.is_disabled("[data-id=search]")
    go_on.set()
    assert (
        wait_for_message(tab, "Stopped") == "Stopped with 6 left to search; “Find in all photos” continues with them."
    )
    assert tab.is_hidden("[data-id=stop]") and tab.inner_text("[data-id=searching]") == ""
    masks = {path: path.stat().st_mtime_ns for path in (output / "masks").iterdir()}
    assert {path.stem for path in masks} == {Path(name).stem for name in lines(output)} and len(masks) == 3
    assert (output / "contact_sheet.png").exists()

    tab.click("[data-id=search]")
    wait_for_message(tab, "All photos searched")
    assert set(lines(output)) == {*HOSTILE, EMPTY}
    assert {path: path.stat().st_mtime_ns for path in masks} == masks  # none of them was found a second time


def trained_on(photos):
    """Return the names of the photos that training uses."""
    PartialState()  # needed by Accelerate's logger
    flags = {"data": {"instance_data_dir": str(photos)}, "mask": {"instance_mask_dir": str(photos / "segmented")}}
    return [instance.photo.name for instance in photos_of(configure("model", **flags), [(64, 64)])[0]]


def wait_for_other_photo(tab, name):
    """Wait until another photo is shown."""
    tab.wait_for_function("name => document.querySelector('[data-id=name]').textContent !== name", arg=name)


@pytest.mark.parametrize("tool", ["box", "brush"])
def test_box_or_brush_stroke_can_also_mark_subject(tool, workspace, dogs, serve, open_tab):
    true, output = dogs[1]["plain.png"], workspace / "my dog & co" / "segmented"
    tab = open_tab(serve("--images", workspace / "my dog & co"))
    choose(tab, "plain.png")
    wait_for_message(tab, "No mask yet")
    tab.click(f"[data-tool={tool}]")
    x, y = middle(true)
    drag(tab, box_of(true) if tool == "box" else [(x, y), (x + 8, y)])
    wait_for_message(tab, "saved")
    assert iou(mask_of(output, "plain.png"), true) > 0.8
    assert lines(output)["plain.png"].source == "reference"


@pytest.fixture
def found(dogs, tmp_path):
    """The dogs with their true masks, except for one that lacks a half and has an extra patch."""
    folder = Path(shutil.copytree(dogs[0], tmp_path / "photos"))
    masks = dict(dogs[1])
    spoilt = masks["plain.png"].copy()
    spoilt[:, 70:] = False
    spoilt[2:14, 2:14] = True
    write_found(folder, folder / "segmented", masks | {"plain.png": spoilt}, {"plain.png": 0.1})
    return folder


def test_corrections_are_saved_immediately_and_undone_byte_for_byte(found, dogs, serve, open_tab):
    true, output = dogs[1]["plain.png"], found / "segmented"
    states = [contents(output)]
    tab = open_tab(serve("--images", found))
    assert names(tab)[0] == "plain.png"
    tab.wait_for_function("document.querySelector('[data-id=latent]').src.startsWith('data:image/png')")

    def keep(words):
        wait_for_message(tab, words)
        states.append(contents(output))
        assert states[-1] != states[-2]

    missing = true & ~mask_of(output, "plain.png")
    drag(tab, [middle(missing)])
    keep("found and saved")
    assert iou(mask_of(output, "plain.png"), true) > iou(true & ~missing, true) + 0.1
    tab.click("[data-tool=remove]")
    drag(tab, [(8, 8)])
    keep("plain.png: found and saved")
    assert not mask_of(output, "plain.png")[8, 8]
    tab.keyboard.press("u")
    wait_for_message(tab, "undone")
    tab.click("[data-tool=add]")
    tab.keyboard.down("Shift")
    drag(tab, [(8, 8)])
    tab.keyboard.up("Shift")
    wait_for_message(tab, "found and saved")
    assert contents(output) == states[-1]
    tab.keyboard.press("4")
    wait_for_message(tab, "Paint what")
    drag(tab, [(100, 10), (120, 10)])
    keep("plain.png: saved")
    assert mask_of(output, "plain.png")[10, 100:121].all()
    tab.keyboard.press("5")
    wait_for_message(tab, "Erase what")
    drag(tab, [(110, 4), (110, 16)])
    keep("plain.png: saved")
    assert not mask_of(output, "plain.png")[10, 110] and mask_of(output, "plain.png")[10, 119]
    assert lines(output)["plain.png"].source == "corrected"
    shoot(tab, "review-corrected")
    tab.keyboard.press("r")
    keep("a reference now")
    tab.reload()
    tab.wait_for_selector("[data-id=list] li")
    tab.wait_for_function("document.querySelector('[data-id=status]').textContent === 'reference'")
    for expected in reversed(states[:-1]):
        version = tab.evaluate("document.querySelector('li.on').dataset.version")
        tab.keyboard.press("u")
        tab.wait_for_function("old => document.querySelector('li.on').dataset.version !== old", arg=version)
        wait_for_message(tab, "undone")
        assert contents(output) == expected
    assert tab.is_disabled("[data-id=undo]")


def test_other_masks_are_offered_and_one_click_takes_one(tmp_path, serve, open_tab):
    true, output = beside_a_look_alike(tmp_path)["b.png"], tmp_path / "segmented"
    grid, dino = ("--points_per_side", 8), ("--features", DINO, "--features_size", 64)
    tab = open_tab(serve("--images", tmp_path, *grid, *dino))
    choose(tab, "a.png")
    tab.keyboard.press("r")
    wait_for_message(tab, "a reference now")
    choose(tab, "b.png")
    assert tab.is_hidden("[data-id=others]") and iou(mask_of(output, "b.png"), true) < 0.1
    before = contents(output)
    tab.click("[data-id=offer]")
    wait_for_message(tab, "Click on the mask of the subject")
    offered = tab.query_selector_all("[data-id=others] button")
    likeness = [float(offer.inner_text().removeprefix("similarity ")) for offer in offered]
    assert 1 < len(offered) <= 8 and likeness == sorted(likeness, reverse=True)
    tab.wait_for_function("[...document.querySelectorAll('[data-id=others] img')].every(image => image.naturalWidth)")
    shoot(tab, "review-others")
    assert contents(output) == before
    offered[0].click()
    wait_for_message(tab, "b.png: mask chosen")
    assert iou(mask_of(output, "b.png"), true) > 0.8
    entry = lines(output)["b.png"]
    assert entry.source == "corrected" and {*entry.points[0]} <= {int(128 * (n + 0.5) / 8) for n in range(8)}
    assert offered[0].get_attribute("class") == "on"
    tab.keyboard.press("u")
    wait_for_message(tab, "undone")
    assert contents(output) == before
    tab.keyboard.press("o")
    wait_for_message(tab, "Click on the mask of the subject")
    assert len(tab.query_selector_all("[data-id=others] button")) == len(offered)
    tab.click("[data-filter=all]")
    choose(tab, "a.png")
    assert tab.is_hidden("[data-id=others]")


def test_second_tab_is_warned_and_sees_newer_mask(found, serve, open_tab):
    address = serve("--images", found)
    first, second = open_tab(address), open_tab(address)
    for tab in (first, second):
        tab.wait_for_function("document.querySelector('[data-id=name]').textContent === 'plain.png'")
        tab.keyboard.press("4")
    drag(first, [(100, 30), (110, 30)])
    wait_for_message(first, "saved")
    before = contents(found / "segmented")
    drag(second, [(20, 100), (30, 100)])
    assert "changed in another tab" in wait_for_message(second, "plain.png")
    assert contents(found / "segmented") == before
    versions = [tab.evaluate("document.querySelector('li.on').dataset.version") for tab in (first, second)]
    assert versions[0] == versions[1]
    drag(second, [(20, 100), (30, 100)])
    wait_for_message(second, "plain.png: saved")
    mask = mask_of(found / "segmented", "plain.png")
    assert mask[30, 105] and mask[100, 25]
    newest = second.evaluate("document.querySelector('li.on').dataset.version")
    first.wait_for_function("newest => document.querySelector('canvas').dataset.version === newest", arg=newest)
    drag(first, [(60, 5), (70, 5)])
    # The mask of the other tab arrived by itself and is built on; "saved" was shown before, so check the version.
    first.wait_for_function("old => document.querySelector('li.on').dataset.version !== old", arg=newest)
    mask = mask_of(found / "segmented", "plain.png")
    assert mask[5, 65] and mask[30, 105] and mask[100, 25]


def test_score_above_1_is_shown_as_1_and_stored_unchanged(tmp_path, serve, open_tab):
    sheets = {}
    for score in (1.0, 1.014):
        photos = tmp_path / str(score)
        output, masks = photos / "segmented", draw_photos(photos, ["a.png"])
        write_found(photos, output, masks, {"a.png": score})
        store = MaskStore(output)
        store.begin([photos / "a.png"])
        store.finish([photos / "a.png"])
        sheets[score] = (output / "contact_sheet.png").read_bytes()
        assert lines(output)["a.png"].score == score
    assert sheets[1.0] == sheets[1.014]
    tab = open_tab(serve("--images", photos))
    assert "score 1.00" in tab.inner_text("[data-id=list] li >> nth=0")
    tab.wait_for_function("document.querySelector('[data-id=facts]').textContent.includes('Score1.000')")


def test_five_hundred_photos_are_fast(tmp_path, serve, open_tab):
    photos = tmp_path / "photos"
    masks = draw_photos(photos, [f"{number:03}.jpg" for number in range(500)], 24, 32)
    write_found(photos, photos / "segmented", masks, {name: 0.5 + int(name[:3]) / 1000 for name in masks})
    tab = open_tab(serve("--images", photos))
    assert names(tab) == sorted(masks)
    loaded = tab.evaluate(
        "performance.getEntriesByType('resource').filter(entry => entry.name.includes('overlays')).length"
    )
    assert 0 < loaded < 100, "the list loads what nobody sees"
    for number in range(5):
        tab.wait_for_function(
            "name => document.querySelector('[data-id=name]').textContent === name",
            arg=f"{number:03}.jpg",
            timeout=3000,
        )
        tab.keyboard.press("a")
    wait_for_other_photo(tab, "004.jpg")
    assert sum(entry.review == "approved" for entry in lines(photos / "segmented").values()) == 5
    tab.evaluate("document.querySelector('[data-id=list]').lastChild.scrollIntoView()")
    tab.wait_for_function("document.querySelector('[data-id=list]').lastChild.firstChild.naturalWidth > 0")


def test_keys_typed_into_field_are_not_shortcuts(found, serve, open_tab):
    tab = open_tab(serve("--images", found))
    tab.wait_for_function("document.querySelector('[data-id=name]').textContent === 'plain.png'")
    before = contents(found / "segmented")
    tab.focus("[data-id=resolution]")
    tab.keyboard.press("x")
    tab.keyboard.press("Control+a")
    tab.wait_for_timeout(300)
    assert contents(found / "segmented") == before


def test_unsupported_photos_are_named_and_others_can_be_judged(found, serve, open_tab):
    shutil.copy(found / "plain.png", found / os.fsdecode(b"odd \xff.png"))
    (found / "link.png").symlink_to(shutil.copy(found / "plain.png", found.parent / "elsewhere.png"))
    tab = open_tab(serve("--images", found))
    assert names(tab)[0] == "plain.png" and len(names(tab)) == len(HOSTILE)
    assert "2 not shown" in (count := tab.inner_text("[data-id=count]"))
    assert "link.png, odd ?.png" in count
    tab.wait_for_function("document.querySelector('[data-id=name]').textContent === 'plain.png'")
    tab.keyboard.press("a")
    wait_for_other_photo(tab, "plain.png")
    assert lines(found / "segmented")["plain.png"].review == "approved"
    shoot(tab, "odd-names")


def test_search_reads_the_flags_of_the_method(dogs, serve, open_tab, tmp_path):
    shutil.copy(dogs[0] / "plain.png", tmp_path / "plain.png")
    shutil.copy(dogs[0] / "plain.png", tmp_path / "other.png")
    tab = open_tab(serve("--images", tmp_path, "--crop_n_layers", 1, "--features", DINO, "--features_size", 64))
    choose(tab, "plain.png")
    wait_for_message(tab, "No mask yet")
    tab.click("[data-tool=box]")
    drag(tab, box_of(dogs[1]["plain.png"]))
    wait_for_message(tab, "saved")
    tab.click("[data-id=search]")
    wait_for_message(tab, "All photos searched")
    settings = json.loads((tmp_path / "segmented" / "segmentation.json").read_text())
    assert (settings["crop_n_layers"], settings["features"]) == (1, str(DINO))


def test_undecodable_photos_and_failed_searches_are_reported(found, serve, browser):
    (found / "aa broken.jpg").write_bytes(b"no picture")
    tab = browser.new_page()
    tab.goto(serve("--images", found, "--presence", found / "plain.png"))
    tab.wait_for_selector("[data-id=list] li")
    choose(tab, "aa broken.jpg")
    assert "cannot be decoded" in wait_for_message(tab, "aa broken.jpg")
    choose(tab, "plain.png")
    tab.keyboard.press("r")
    wait_for_message(tab, "a reference now")
    tab.click("[data-id=search]")
    assert "not a presence rule" in wait_for_message(tab, "plain.png is")
    tab.close()
