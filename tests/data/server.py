"""A small HTTP server in a thread, with the habits and faults that downloads meet."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Site:
    """Behaviour of the server, which may be changed at any time.

    Attributes:
        files: contents by path, such as ``"/a.zip"``.
        ranges: serve parts of files.
        length: send Content-Length.
        cuts: break each of the next connections after so many bytes of the body, one entry each.
        deaf: answer a range with the whole file, and call it a part.
        requests: the Range header of each request, None for none.
        answers: the status of each.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.ranges = True
        self.length = True
        self.cuts: list[int] = []
        self.deaf = False
        self.requests: list[str | None] = []
        self.answers: list[int] = []
        self.url = ""


@contextmanager
def serving() -> Iterator[Site]:
    """Serve a `Site` until the block ends; its `url` is the server's."""
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            site.requests.append(wanted)
            body = site.files.get(self.path)
            if body is None:
                self.send_error(404)
                return
            start = 0
            if wanted is not None and site.ranges:
                start = 0 if site.deaf else int(wanted.removeprefix("bytes=").removesuffix("-"))
                if start >= len(body):
                    self.send_error(416)
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            else:
                self.send_response(200)
            if site.length:
                self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            rest = body[start:]
            self.wfile.write(rest[: site.cuts.pop(0)] if site.cuts else rest)

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            site.answers.append(int(code))

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
