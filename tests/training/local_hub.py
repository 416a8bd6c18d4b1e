"""A local Hugging Face hub: the few API responses that an upload needs, over real HTTP."""

import base64
import json
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


@dataclass
class LocalHub:
    """Records what was uploaded.

    Attributes:
        files: path in the repository -> content.
        tokens: the tokens sent with the requests.
        refuses: answer commits with 403.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    refuses: bool = False

    def answer(self, path, body):
        """Return status and JSON for a POST request."""
        if path == "/api/repos/create":
            return 200, {"url": f"{self.url}/me/{json.loads(body)['name']}"}
        if path == "/api/validate-yaml":
            return 200, {"warnings": [], "errors": []}
        if path == "/api/models/me/dog/preupload/main":
            files = [file["path"] for file in json.loads(body)["files"]]
            return 200, {"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in files]}
        if path == "/api/models/me/dog/commit/main" and not self.refuses:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return 200, {"commitUrl": f"{self.url}/me/dog/commit/0", "commitOid": "0"}
        return 403, {"error": "no"}


@contextmanager
def local_hub():
    """Serve a local hub while the block runs."""
    hub = LocalHub()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)) or self.chunks()
            hub.tokens.add(self.headers.get("Authorization"))
            status, response = hub.answer(self.path.partition("?")[0], body)
            content = json.dumps(response).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def chunks(self):
            """Read a chunked body, as commits send."""
            body = b""
            while self.headers.get("Transfer-Encoding") == "chunked":
                size = int(self.rfile.readline(), 16)
                body += self.rfile.read(size)
                self.rfile.readline()
                if size == 0:
                    break
            return body

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
