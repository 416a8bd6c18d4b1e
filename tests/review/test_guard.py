"""The page is protected against other sites, guessed passwords, endless bodies and malformed requests."""

import http.client
import http.server
import json
import logging
import threading

import pytest

from persam_dreambooth.review.clicks import POINTS, STROKES
from persam_dreambooth.review.guard import FREE, LARGEST_BODY, LONGEST_WAIT, RESPONSE_HEADERS, Passwords
from tests.review.albums import contents, draw_photos, write_found
from tests.review.test_server import PASSWORD, basic, get

SERVER = "/gradio_api/component_server"


@pytest.fixture
def photos(tmp_path):
    """One photo with a mask."""
    masks = draw_photos(tmp_path / "photos", ["a.png"])
    write_found(tmp_path / "photos", tmp_path / "photos" / "segmented", masks, {})
    return tmp_path / "photos"


def component(address):
    """Return the component number of the masks' tab, from Gradio's page."""
    config = json.loads(get(address, "/config")[1])
    return next(part["id"] for part in config["components"] if part["props"].get("elem_id") == "masks")


def post(address, name, data, number=None, **headers):
    """Send a request to the API as the page would; return the server's answer."""
    body = {"session_hash": "x", "component_id": component(address) if number is None else number}
    given = {"Content_Type": "application/json", **headers}
    return get(address, SERVER, "POST", json.dumps(body | {"fn_name": name, "data": data}), **given)


def test_every_response_forbids_frames_and_other_sites(photos, serve):
    address = serve("--images", photos)
    answers = [get(address, path) for path in ("/", "/config", "/theme.css", "/picture/images/a.png", "/nothing")]
    answers += [get(address, "/", Host="evil.example"), get(address, "/", Origin="http://evil.example")]
    answers += [get(address, SERVER, "POST", "no json", Content_Type="application/json"), get(address, SERVER, "PUT")]
    answers += [post(address, "overview", {"album": "."}), get(address, "/gradio_api/upload", "POST", "x")]
    locked = serve("--images", photos, "--password", PASSWORD)
    answers += [get(locked, "/"), get(locked, "/", Authorization=basic("wrong"))]
    assert {status for status, *_ in answers} >= {200, 400, 401, 403, 404, 405}
    for status, _, headers in answers:
        assert status != 500
        for name, value in RESPONSE_HEADERS.items():
            assert headers.get(name.lower()) == value, (status, name)


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_cross_site_requests_are_refused(site, photos, serve):
    address = serve("--images", photos)
    link = {"Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
    before = contents(photos)
    number = component(address)
    for extra in ({}, link):
        assert post(address, "search", {"album": "."}, number, Sec_Fetch_Site=site, **extra)[0] == 403
        assert get(address, "/picture/images/a.png", Sec_Fetch_Site=site, **extra)[0] == 403
    assert get(address, "/", Sec_Fetch_Site=site, Sec_Fetch_Mode="navigate", Sec_Fetch_Dest="iframe")[0] == 403
    assert get(address, "/", Sec_Fetch_Site=site, **link)[0] == 200
    assert get(address, "/picture/images/a.png", Sec_Fetch_Site="same-origin")[0] == 200
    assert contents(photos) == before


def test_browser_refuses_to_frame_the_page(photos, serve, browser):
    address = serve("--images", photos)

    class Foreign(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            pictures = f'<img src="{address}picture/images/a.png">'
            self.wfile.write(f'<iframe src="{address}" width=900 height=700></iframe>{pictures}'.encode())

        def log_message(self, *words):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Foreign)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    tab = browser.new_page()
    try:
        for host in ("localhost", "127.0.0.1"):  # another site, and the same host on another port
            tab.goto(f"http://{host}:{server.server_address[1]}/", wait_until="networkidle")
            assert tab.frames[1].query_selector("[data-id=exclude]") is None
            assert "not for this site" in tab.frames[1].content() or "chrome-error" in tab.frames[1].url
            assert tab.evaluate("document.querySelector('img').naturalWidth") == 0
    finally:
        tab.close()
        server.shutdown()
        server.server_close()


def test_wrong_passwords_cause_growing_waits_and_are_logged(caplog):
    now = [0.0]
    passwords = Passwords(PASSWORD, lambda: now[0])
    waits = []
    with caplog.at_level(logging.WARNING):
        for _ in range(FREE + 8):
            status, wait = passwords.check("10.0.0.1", basic("wrong"))
            assert status == 401
            waits.append(wait)
            if wait:
                assert passwords.check("10.0.0.1", basic(PASSWORD))[0] == 429  # does not reveal that it is correct
                now[0] += wait
    assert waits == [0.0] * FREE + [2.0, 4.0, 8.0, 16.0, 32.0] + [LONGEST_WAIT] * 3
    assert len(caplog.messages) == len(waits) and "wrong password from 10.0.0.1" in caplog.messages[0]
    assert PASSWORD not in caplog.text
    assert passwords.check("10.0.0.2", basic(PASSWORD)) == (None, 0.0)
    assert passwords.check("10.0.0.1", "") == (401, 0.0)  # the browser has not asked for the password yet
    assert passwords.check("10.0.0.1", basic(PASSWORD)) == (None, 0.0)
    assert passwords.check("10.0.0.1", basic("wrong")) == (401, 0.0)  # the count is reset


def test_guesses_over_http_are_slowed_down(photos, serve):
    address = serve("--images", photos, "--password", PASSWORD)
    answers = [get(address, "/", Authorization=basic(f"guess {number}")) for number in range(FREE + 20)]
    assert [status for status, *_ in answers] == [401] * (FREE + 1) + [429] * 19
    assert answers[-1][2]["retry-after"] in ("1", "2", "3") and len(answers[-1][1].splitlines()) == 1


def large(address, path, chunked):
    """Send a body of 64 MiB, as far as the server accepts it; return status and response."""
    connection = http.client.HTTPConnection(address.split("/")[2], timeout=20)
    connection.putrequest("POST", path)
    is_upload = path.endswith("upload")
    connection.putheader("Content-Type", "multipart/form-data; boundary=x" if is_upload else "application/json")
    connection.putheader(*(("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(64 << 20))))
    connection.endheaders()
    start = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n' if is_upload else b'"'
    try:
        for piece in (start, *(b"x" * (1 << 20),) * 63):
            connection.send(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
    except OSError:
        pass
    answer = connection.getresponse()
    return answer.status, answer.read()


@pytest.mark.parametrize("path", [SERVER, "/gradio_api/upload", "/gradio_api/queue/join", "/gradio_api/run/predict"])
@pytest.mark.parametrize("chunked", [False, True])
def test_endless_body_is_refused_while_it_arrives(chunked, path, photos, serve):
    address = serve("--images", photos)
    try:
        status, body = large(address, path, chunked)
    except OSError:  # uvicorn closes the connection after it has answered, even while we are sending
        status, body = 413, str(LARGEST_BODY).encode()
    assert status in (413, 404) and (status == 404 or str(LARGEST_BODY).encode() in body)
    assert get(address, "/config")[0] == 200


HUGE = 10**400
ODD = [
    None,
    [],
    {},
    [["a.png"]],
    1,
    HUGE,
    -1,
    1.5,
    True,
    "",
    "\0",
    "a\0.png",
    "\ud800.png",
    "../a.png",
    "x" * 5000,
    "/",
]


def test_malformed_requests_are_answered_in_one_line(photos, serve):
    address = serve("--images", photos)
    number, before = component(address), contents(photos / "segmented")
    seen = json.loads(post(address, "look", {"album": ".", "photo": "a.png"}, number)[1])["photo"]["version"]
    good = {"album": ".", "photo": "a.png", "seen": seen}
    stroke = {"kind": "brush", "points": [[1, 1]], "radius": 2, "label": 1}
    questions = [
        (name, value) for name in ("overview", "look", "draw", "judge", "refer", "undo", "training") for value in ODD
    ]
    for key in good:
        questions += [(name, good | {key: odd}) for odd in ODD[:-1] for name in ("draw", "judge", "undo")]
    for key in stroke:
        odd = [
            value
            for value in ODD
            if not (key == "label" and value in (1, True)) and not (key == "radius" and value in (1, 1.5, True))
        ]
        questions += [("draw", good | {"strokes": [stroke | {key: value}]}) for value in odd]
    questions += [("draw", good | {"strokes": value}) for value in (*ODD, [stroke] * (STROKES + 1))]
    questions += [("draw", good | {"strokes": [stroke | {"points": [[1, 1]] * (POINTS + 1)}]})]
    questions += [
        ("draw", good | {"strokes": [stroke | {"points": [[value, 1]]}]}) for value in (HUGE, float("nan"), "x", [])
    ]
    for key in ("resolution", "cell", "seed", "mask_downsample", "mask_dilation", "nonsense"):
        questions += [("training", good | {"view": {key: value}}) for value in ODD if not isinstance(value, int)]
        questions += [("training", good | {"view": {key: HUGE}})]
    questions += [("judge", good | {"verdict": value}) for value in ODD[1:]]
    for name, question in questions:
        status, body, _ = post(address, name, question, number)
        words = body.decode()
        assert status < 500 and "Traceback" not in words, (name, question, status, words)
        assert len(words.splitlines()) == 1
        if status == 200:
            answer = json.loads(words)
            assert "error" in answer or name in ("overview", "look", "training"), (name, question, answer)
            assert len(str(answer.get("error")).splitlines()) == 1
    assert contents(photos / "segmented") == before


def test_requests_unexpected_by_gradio_get_client_errors(photos, serve):
    address = serve("--images", photos)
    good = {"session_hash": "x", "component_id": component(address), "fn_name": "look", "data": {}}
    for key in good:
        bodies = [good | {key: value} for value in ODD] + [{name: good[name] for name in good if name != key}]
        for body in map(json.dumps, bodies):
            status, words, _ = get(address, SERVER, "POST", body, Content_Type="application/json")
            assert status < 500 and len(words.splitlines()) == 1, (body[:200], status, words[:200])
    for body in ("", "[" * 100_000, "null", "\ud800".encode("utf-8", "surrogatepass"), b"\xff\xfe", '{"data": 1e999}'):
        for path in (SERVER, "/gradio_api/queue/join", "/gradio_api/run/predict"):
            status, words, _ = get(address, path, "POST", body, Content_Type="application/json")
            assert 400 <= status < 500 and b"Traceback" not in words, (path, body[:20], status, words[:200])
