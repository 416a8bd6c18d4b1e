"""The server over real HTTP: it requires the password and serves only the opened folders."""

import base64
import http.client
import json
import os
import socket
import subprocess
import sys
import time

import pytest

from models import SAM
from persam_dreambooth.cli import main, review
from persam_dreambooth.errors import UserError
from persam_dreambooth.review.workspace import Workspace
from tests.review.albums import contents, draw_photos

PASSWORD = "grün & geheim: 7"


@pytest.fixture
def photos(tmp_path):
    """A folder of photos, with links to secrets beside it."""
    draw_photos(tmp_path / "photos", ["a.png", "b #2.jpg"])
    draw_photos(tmp_path, ["secret.png"])
    (tmp_path / "photos" / "notes.txt").write_text("private")
    (tmp_path / "photos" / "link.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "photos" / "way out").symlink_to(tmp_path)
    return tmp_path / "photos"


def get(address, path, method="GET", body=None, **headers):
    """Request exactly this path, which a browser would normalize; return status, body and headers."""
    connection = http.client.HTTPConnection(address.split("/")[2], timeout=20)
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    return answer.status, answer.read(), dict(answer.getheaders())


def test_only_pictures_of_folder_are_served(photos, serve):
    address = serve("--images", photos)
    status, body, headers = get(address, "/picture/images/a.png")
    assert (status, body[:4], headers["content-type"]) == (200, b"\x89PNG", "image/png")
    assert get(address, "/picture/images/b%20%232.jpg?side=20")[0] == 200
    refused = [
        "images/../secret.png",
        "images/..%2Fsecret.png",
        "images/%2e%2e/secret.png",
        "images//" + str(photos.parent / "secret.png"),
        str(photos.parent / "secret.png"),
        "%2F" + str(photos.parent / "secret.png"),
        "images/link.png",
        "images/way%20out/secret.png",
        "images/notes.txt",
        "images/a.png%00.png",
        "images/",
        "run0/a.png",
        "images/missing.png",
    ]
    for path in refused:
        assert get(address, f"/picture/{path}")[0] == 404, path


def test_gradio_itself_serves_no_file_of_this_machine(photos, serve):
    address = serve("--images", photos)
    for path in (photos / "a.png", photos.parent / "secret.png", "/etc/passwd", photos / "notes.txt"):
        for route in ("gradio_api/file=", "file=", "gradio_api/file/"):
            status, body, _ = get(address, f"/{route}{path}".replace(" ", "%20"))
            assert status >= 400 and b"private" not in body and b"root:" not in body, (route, path)


def test_cross_site_page_can_neither_read_nor_decide(photos, serve):
    address = serve("--images", photos)
    own = address[len("http://") : -1]
    assert get(address, "/", Host="evil.example")[0] == 400
    assert get(address, "/picture/images/a.png", Host=f"evil.example:{own.split(':')[1]}")[0] == 400
    body = json.dumps({"session_hash": "x", "component_id": 1, "fn_name": "judge", "data": {}})
    for origin in ("http://evil.example", "http://127.0.0.1:1", "null"):
        given = {"Origin": origin, "Content_Type": "application/json"}
        assert get(address, "/gradio_api/component_server", "POST", body, **given)[0] == 403
    assert get(address, "/", Host=own, Origin=f"http://{own}")[0] == 200
    assert get(address, "/", Host=own.replace("127.0.0.1", "localhost"))[0] == 200


def test_nothing_is_served_without_password(photos, serve):
    address = serve("--images", photos, "--host", "0.0.0.0", "--password", PASSWORD)
    paths = ["/", "/picture/images/a.png", "/gradio_api/info", "/config", "/theme.css", "/gradio_api/component_server"]
    wrong = [None, "Basic", "Basic ???", "Bearer x", basic("wrong"), basic(PASSWORD[:-1]), basic("")]
    for path in paths:
        for words in wrong:
            status, body, headers = get(address, path, **({"Authorization": words} if words else {}))
            assert status in (401, 429) and PASSWORD.encode() not in body, (path, words)
            assert status == 429 or headers["www-authenticate"].startswith("Basic ")
            assert headers["x-frame-options"] == "DENY"
    time.sleep(max(int(headers.get("retry-after", 0)), 4))
    for path in paths[:2]:
        assert get(address, path, Authorization=basic(PASSWORD))[0] == 200


def basic(password):
    return "Basic " + base64.b64encode(f"anybody:{password}".encode()).decode()


def test_browser_works_with_password(photos, serve, browser):
    address = serve("--images", photos, "--password", PASSWORD)
    context = browser.new_context(http_credentials={"username": "me", "password": PASSWORD})
    tab = context.new_page()
    tab.goto(address)
    tab.wait_for_selector("[data-id=list] li")
    tab.wait_for_function("document.querySelector('[data-id=list] img').naturalWidth > 0")
    context.close()


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ([], "--images is missing"),
        (["--images", "nowhere"], "nowhere is not a folder"),
        (["--images", "empty"], "no photo found"),
        (["--images", "photos", "--output", "photos/a.png"], "is a file"),
        (["--images", "photos", "--output", "."], "was not written by `persam-dreambooth segment` or `import`"),
        (["--images", "photos", "--host", "0.0.0.0"], "set a password"),
        (["--images", "photos", "--host", "no such host", "--password", PASSWORD], "cannot listen"),
        (["--images", "photos", "--port", "70000"], "--port 70000"),
        (["--images", "photos", "--password", "short"], "has 5 characters; choose one of at least 8"),
        (["--images", "photos", "--run", "nowhere"], "nowhere is not a folder"),
        (["--images", "photos", "--prot", "7"], "did you mean --port"),
        (["--images", "photos", "--passwort", PASSWORD], "did you mean --password"),
    ],
)
def test_bad_input_is_one_line(flags, reason, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PERSAM_REVIEW_PASSWORD", raising=False)
    (tmp_path / "empty").mkdir()
    before = contents(tmp_path)
    assert main(["review", *flags]) == 2
    printed = capsys.readouterr()
    assert len(printed.err.splitlines()) == 1 and printed.out == ""
    assert reason in printed.err
    assert PASSWORD not in printed.err
    assert contents(tmp_path) == before


def test_without_extra_message_says_how_to_install_it(photos, monkeypatch, capsys):
    monkeypatch.setattr(review, "find_spec", lambda name: None)
    assert main(["review", "--images", str(photos)]) == 2
    assert capsys.readouterr().err.endswith("install it with `pip install gradio tensorboard`\n")


def test_port_in_use_is_reported(photos, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert main(["review", "--images", str(photos), "--port", port]) == 2
    assert "choose another --host or --port" in capsys.readouterr().err


def test_command_prints_pages_address_and_never_password(photos):
    words = [sys.executable, "-m", "persam_dreambooth.cli", "review", "--images", photos, "--sam", SAM, "--port", "0"]
    words += ["--host", "0.0.0.0"]
    environment = os.environ | {"PERSAM_REVIEW_PASSWORD": PASSWORD, "GRADIO_SHARE": "True"}
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment) as process:
        printed = ""
        while "the page is at http://0.0.0.0:" not in printed:  # libraries may print first
            line = process.stdout.readline().decode()
            assert line, printed
            printed += line
        address = line.split()[4].replace("0.0.0.0", "127.0.0.1")
        for _ in range(100):
            try:
                status = get(address, "/")[0]
                break
            except ConnectionError:
                time.sleep(0.1)
        assert status == 401 and get(address, "/", Authorization=basic(PASSWORD))[0] == 200
        process.terminate()
        printed += process.stdout.read().decode()
    assert PASSWORD not in printed and "gradio.live" not in printed


def test_folders_of_photos_are_found_but_output_folders_are_not(tmp_path):
    draw_photos(tmp_path / "all" / "dog", ["1.png"])
    draw_photos(tmp_path / "all" / "deep" / "cat", ["1.png"])
    draw_photos(tmp_path / "all" / "dog" / "segmented" / "masks", ["1.png"])
    (tmp_path / "all" / "dog" / "segmented" / "segmentation.json").write_text("{}")
    draw_photos(tmp_path / "all" / ".hidden", ["1.png"])
    draw_photos(tmp_path / "all" / "old" / "masks", ["1.png"])
    (tmp_path / "all" / "old" / "segmentation.json").write_text("{}")
    draw_photos(tmp_path / "elsewhere", ["1.png"])
    (tmp_path / "all" / "link").symlink_to(tmp_path / "elsewhere")
    workspace = Workspace(tmp_path / "all")
    assert list(workspace.albums()) == ["deep/cat", "dog"]
    assert workspace.output_of("dog") == tmp_path / "all" / "dog" / "segmented"
    apart = Workspace(tmp_path / "all", tmp_path / "out")
    assert apart.output_of("dog") == tmp_path / "out" / "dog"
    assert apart.address(tmp_path / "out" / "dog" / "masks" / "1.png") == "output/dog/masks/1.png"
    with pytest.raises(UserError, match="no file"):
        workspace.resolve("elsewhere/1.png")
