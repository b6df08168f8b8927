"""Downloads from servers that stop early, send other files, stall or redirect."""

import hashlib
import socket
import threading
import time
import urllib.request
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.error import URLError

import pytest

from cnnlab.data import download
from cnnlab.errors import DownloadError


CONTENT = bytes(range(256)) * 400
MD5 = hashlib.md5(CONTENT).hexdigest()


@contextmanager
def serving(files, behave=None):
    """Serve files; `behave(request, content)` may answer differently, and then returns True."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        requests = []  # noqa: RUF012 - each server has a class of its own

        def handle_error(self, *_):
            pass  # the client may disconnect early

    class Request(BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.requests.append((self.path, self.headers.get("Range")))
            content = files.get(self.path)
            if behave is not None and behave(self, content):
                return
            if content is None:
                self.send_error(404)
                return
            self.reply(200, content)

        def reply(self, status, content, length=None, **headers):
            self.send_response(status)
            self.send_header("Content-Length", str(len(content) if length is None else length))
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    with Server(("127.0.0.1", 0), Request) as server:
        server.url = f"http://127.0.0.1:{server.server_port}/"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(autouse=True)
def short_timeout(monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 1.0)  # long enough for a busy machine
    monkeypatch.delenv("CNNLAB_MIRROR", raising=False)


def fetch(server, folder, md5=MD5):
    return download.download_file(server.url + "data.bin", md5, folder)


def first_times(n, misbehave):
    """Behave badly the first n times."""
    left = [n]

    def behave(request, content):
        left[0] -= 1
        return left[0] >= 0 and misbehave(request, content)

    return behave


def cut(request, content):
    request.reply(200, content[:5000], length=len(content))
    return True


def stall(request, content):
    request.reply(200, content[:5000], length=len(content))
    time.sleep(1.5)
    return True


def lie(request, content):
    request.reply(200, b"x" * len(content))
    return True


def fail(request, content):
    request.send_error(503)
    return True


def hang_up(request, content):
    request.connection.shutdown(socket.SHUT_RDWR)
    return True


FAULTS = [cut, stall, lie, fail, hang_up]


def test_a_file_is_downloaded_once(tmp_path):
    with serving({"/data.bin": CONTENT}) as server:
        for _ in range(2):
            assert fetch(server, tmp_path / "new").read_bytes() == CONTENT
    assert server.requests == [("/data.bin", None)]
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["data.bin"]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
def test_a_temporary_fault_is_retried(fault, tmp_path):
    with serving({"/data.bin": CONTENT}, first_times(2, fault)) as server:
        assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert len(server.requests) == 3


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
def test_a_permanent_fault_is_an_error_that_leaves_nothing(fault, tmp_path):
    with serving({"/data.bin": CONTENT}, first_times(99, fault)) as server:
        with pytest.raises(DownloadError, match=r"data\.bin: \S"):
            fetch(server, tmp_path)
        assert not list(tmp_path.iterdir())
        assert len(server.requests) == download.ATTEMPTS
    with serving({"/data.bin": CONTENT}) as server:
        assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_a_web_page_instead_of_the_file_is_an_error(tmp_path):
    page = b"<html>log in first</html>"
    for files, message, n_requests in (({"/data.bin": page}, "digest differs", 4), ({}, "404", 1)):
        with serving(files) as server:
            with pytest.raises(DownloadError, match=message):
                fetch(server, tmp_path)
            assert len(server.requests) == n_requests
    assert not list(tmp_path.iterdir())


def test_an_interrupted_download_resumes_where_it_stopped(tmp_path):
    def in_pieces(request, content):
        start = int((request.headers.get("Range") or "bytes=0-")[6:-1])
        status = 206 if start else 200
        content_range = f"bytes {start}-{len(content) - 1}/{len(content)}"
        request.reply(
            status,
            content[start : start + 40_000],
            len(content) - start,
            Content_Range=content_range,
        )
        return True

    with serving({"/data.bin": CONTENT}, in_pieces) as server:
        assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert [bytes_range for _, bytes_range in server.requests] == [
        None,
        "bytes=40000-",
        "bytes=80000-",
    ]


def test_a_server_that_resumes_at_the_wrong_place_is_noticed(tmp_path):
    def resume_at_zero(request, content):
        if request.headers.get("Range"):
            request.reply(206, content[:100], Content_Range=f"bytes 0-99/{len(content)}")
        else:
            cut(request, content)
        return True

    with (
        serving({"/data.bin": CONTENT}, resume_at_zero) as server,
        pytest.raises(DownloadError, match=r"digest differs|stopped after"),
    ):
        fetch(server, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_too_large_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "SIZE_LIMIT", 50_000)
    with (
        serving({"/data.bin": CONTENT}) as server,
        pytest.raises(DownloadError, match="more than 50,000 bytes"),
    ):
        fetch(server, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_on_disk_is_downloaded_again(tmp_path):
    (tmp_path / "data.bin").write_bytes(CONTENT[:-1])
    with serving({"/data.bin": CONTENT}) as server:
        assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_a_mirror_is_tried_first_and_verified(tmp_path, monkeypatch):
    with serving({"/data.bin": CONTENT}) as official:
        with serving({"/copy/data.bin": CONTENT}) as mirror:
            monkeypatch.setenv("CNNLAB_MIRROR", mirror.url + "copy/")
            assert fetch(official, tmp_path / "a").read_bytes() == CONTENT
            assert (mirror.requests, official.requests) == ([("/copy/data.bin", None)], [])
        with serving({"/data.bin": b"something else"}) as liar:
            monkeypatch.setenv("CNNLAB_MIRROR", liar.url)
            assert fetch(official, tmp_path / "b").read_bytes() == CONTENT
        monkeypatch.setenv("CNNLAB_MIRROR", liar.url)  # which has shut down by now
        assert fetch(official, tmp_path / "c").read_bytes() == CONTENT


def test_a_failing_https_server_is_not_tried_over_http(tmp_path):
    with serving({"/data.bin": CONTENT}) as server:
        secure = server.url.replace("http:", "https:")
        with pytest.raises(DownloadError, match=r"SSL|ssl|TLS"):
            download.download_file(secure + "data.bin", MD5, tmp_path)
    assert server.requests == []


def test_a_redirection_is_followed_but_never_from_https_to_http(tmp_path):
    def redirect(request, content):
        if request.path == "/data.bin":
            request.reply(302, b"", Location="/moved.bin")
            return True
        return False

    with serving({"/moved.bin": CONTENT}, redirect) as server:
        assert fetch(server, tmp_path).read_bytes() == CONTENT
    secure = urllib.request.Request("https://host.invalid/data.bin")
    follow = download._NoDowngrade().redirect_request
    assert follow(secure, None, 302, "", {}, "https://other.invalid/x").full_url.startswith("https")
    with pytest.raises(URLError, match="redirects from https to http:"):
        follow(secure, None, 302, "", {}, "http://host.invalid/data.bin")
    assert any(isinstance(h, download._NoDowngrade) for h in download._opener.handlers)


def test_without_a_network_the_error_comes_at_once(tmp_path, no_network):
    with pytest.raises(DownloadError, match="without a network"):
        download.download_file("https://host.invalid/data.bin", MD5, tmp_path)
    assert no_network == ["host.invalid"]


def test_any_answer_makes_a_server_reachable_and_silence_is_an_error(monkeypatch):
    with serving({}) as server:
        download.check_reachable(server.url)  # the answer to HEAD is the error 501
    monkeypatch.setattr(download, "REACH_TIMEOUT", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(OSError, match="timed out"):
            download.check_reachable(f"http://127.0.0.1:{port}/")


def test_timeouts_apply_to_new_sockets_and_end_with_the_block():
    with download.timeouts(), socket.socket() as inside:
        assert inside.gettimeout() == download.LIBRARY_TIMEOUT
    with socket.socket() as outside:
        assert outside.gettimeout() is None
