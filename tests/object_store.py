"""A folder that stands in for an object store: what gs:// paths see of it, and what orbax does.

``epath`` reaches it as an fsspec file system, orbax's writer (tensorstore) over HTTP on this
machine, by those calls of Cloud Storage's JSON interface that it makes. Both see the same files.
"""

import contextlib
import http.server
import json
import os
import pathlib
import threading
import urllib.parse

from etils import epath
from etils.epath import backend as backends
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem


class Buckets(DirFileSystem):
    """Folders as buckets; like gcsfs it takes names with gs:// and gives names without."""

    def _join(self, path):
        if isinstance(path, str):
            path = path.removeprefix("gs://")
        return super()._join(path)


def backend(folder: pathlib.Path):
    """The file system of etils.epath whose gs://bucket/x is folder/bucket/x."""
    file_system = Buckets(str(folder), LocalFileSystem(auto_mkdir=True))

    class Store(backends._FileSystemSpecBackend):
        def fs(self, path):
            return file_system

    return Store()


def stand_in(folder: pathlib.Path) -> None:
    """Lets every gs:// path of this process lie in the folder."""
    type(epath.Path("gs://bucket"))._backend = backend(folder)


@contextlib.contextmanager
def served(folder: pathlib.Path):
    """Serves the same files over HTTP; tensorstore must not have been used before."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ["TENSORSTORE_GCS_HTTP_URL"] = f"http://127.0.0.1:{server.server_port}"
    os.environ["GOOGLE_AUTH_TOKEN_FOR_TESTING"] = "none"
    yield server
    server.shutdown()


def _handler(buckets: pathlib.Path):
    lock = threading.Lock()  # conditions and what they allow are one

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            bucket, name, query = self._asked()
            if name:
                return self._object(bucket / name)
            first, end = (query.get(key, [""])[0] for key in ("startOffset", "endOffset"))
            names = sorted(
                str(path.relative_to(bucket)) for path in bucket.rglob("*") if path.is_file()
            )
            self._json(
                200,
                {
                    "items": [
                        {"name": name, "size": str((bucket / name).stat().st_size)}
                        for name in names
                        if first <= name and (not end or name < end)
                    ]
                },
            )

        def do_POST(self):
            bucket, _, query = self._asked()
            path = bucket / query["name"][0]
            body = self.rfile.read(int(self.headers["content-length"]))
            with lock:
                if not _allowed(path, query):
                    return self._json(412, {})
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(body)
            self._json(200, {"name": query["name"][0], "generation": _generation(path)})

        def do_DELETE(self):
            bucket, name, query = self._asked()
            with lock:
                if not _allowed(bucket / name, query):
                    return self._json(412, {})
                (bucket / name).unlink(missing_ok=True)
            self._json(204, None)

        def _asked(self):
            """Bucket's folder, object's name or "", and the query."""
            url = urllib.parse.urlsplit(self.path)
            bucket, _, name = url.path.partition("/b/")[2].partition("/o")
            return (
                buckets / bucket,
                urllib.parse.unquote(name.removeprefix("/")),
                urllib.parse.parse_qs(url.query),
            )

        def _object(self, path):
            if not path.is_file():
                return self._json(404, {})
            content, status = path.read_bytes(), 200
            wanted = self.headers.get("range", "").removeprefix("bytes=")
            headers = {"x-goog-generation": _generation(path)}
            if wanted:
                first, last = wanted.split("-")
                first, last = (
                    (int(first), int(last or len(content) - 1))
                    if first
                    else (len(content) - int(last), len(content) - 1)
                )
                headers["content-range"] = f"bytes {first}-{last}/{len(content)}"
                content, status = content[first : last + 1], 206
            self._answer(status, content, headers)

        def _json(self, status, content):
            text = b"" if content is None else json.dumps(content).encode()
            self._answer(status, text, {"content-type": "application/json"})

        def _answer(self, status, content, headers):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    return Handler


def _generation(path: pathlib.Path) -> str:
    return str(path.stat().st_mtime_ns) if path.is_file() else "0"


def _allowed(path, query) -> bool:
    """Whether the object is still of the generation that the caller has seen; 0: not there."""
    wanted = query.get("ifGenerationMatch", [None])[0]
    return wanted is None or wanted == _generation(path)
