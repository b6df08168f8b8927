"""A server that cuts, lies, stalls and leads astray: what it gives is whole and verified, or not there."""

import hashlib
import socket
import threading
import time
import urllib.request
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.error import URLError

import pytest

from cnnlab.data import download as fetch
from cnnlab.errors import DownloadError


CONTENT = bytes(range(256)) * 400
MD5 = hashlib.md5(CONTENT).hexdigest()


@contextmanager
def serving(files, behave=None):
    """A server with some files; `behave(request, content)` may do something else, and then returns True."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        asked = []  # noqa: RUF012 - one class a server

        def handle_error(self, *_):
            pass  # the client may leave early

    class Request(BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.asked.append((self.path, self.headers.get("Range")))
            content = files.get(self.path)
            if behave is not None and behave(self, content):
                return
            if content is None:
                self.send_error(404)
                return
            self.give(200, content)

        def give(self, status, content, length=None, **headers):
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
def impatient(monkeypatch):
    monkeypatch.setattr(fetch, "TIMEOUT", 1.0)  # of a machine that may be busy
    monkeypatch.delenv("CNNLAB_MIRROR", raising=False)


def bring(server, folder, md5=MD5):
    return fetch.fetch(server.url + "data.bin", md5, folder)


def first_times(n, then):
    """Behave badly the first n times."""
    left = [n]

    def behave(request, content):
        left[0] -= 1
        return left[0] >= 0 and then(request, content)

    return behave


def cut(request, content):
    request.give(200, content[:5000], length=len(content))
    return True


def stall(request, content):
    request.give(200, content[:5000], length=len(content))
    time.sleep(1.5)
    return True


def lie(request, content):
    request.give(200, b"x" * len(content))
    return True


def fail(request, content):
    request.send_error(503)
    return True


def hang_up(request, content):
    request.connection.shutdown(socket.SHUT_RDWR)
    return True


FAULTS = [cut, stall, lie, fail, hang_up]


def test_a_file_is_brought_once(tmp_path):
    with serving({"/data.bin": CONTENT}) as server:
        for _ in range(2):
            assert bring(server, tmp_path / "new").read_bytes() == CONTENT
    assert server.asked == [("/data.bin", None)]
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["data.bin"]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
def test_a_fault_that_passes_is_waited_out(fault, tmp_path):
    with serving({"/data.bin": CONTENT}, first_times(2, fault)) as server:
        assert bring(server, tmp_path).read_bytes() == CONTENT
    assert len(server.asked) == 3


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
def test_a_fault_that_stays_is_an_error_that_leaves_nothing(fault, tmp_path):
    with serving({"/data.bin": CONTENT}, first_times(99, fault)) as server:
        with pytest.raises(DownloadError, match=r"data\.bin: \S"):
            bring(server, tmp_path)
        assert not list(tmp_path.iterdir())
        assert len(server.asked) == fetch.ATTEMPTS
    with serving({"/data.bin": CONTENT}) as server:
        assert bring(server, tmp_path).read_bytes() == CONTENT


def test_a_page_in_place_of_a_file_is_not_the_file(tmp_path):
    page = b"<html>log in first</html>"
    for files, told, times in (({"/data.bin": page}, "digest differs", 4), ({}, "404", 1)):
        with serving(files) as server:
            with pytest.raises(DownloadError, match=told):
                bring(server, tmp_path)
            assert len(server.asked) == times
    assert not list(tmp_path.iterdir())


def test_what_was_cut_goes_on_where_it_was(tmp_path):
    def in_pieces(request, content):
        start = int((request.headers.get("Range") or "bytes=0-")[6:-1])
        status = 206 if start else 200
        said = f"bytes {start}-{len(content) - 1}/{len(content)}"
        request.give(
            status, content[start : start + 40_000], len(content) - start, Content_Range=said
        )
        return True

    with serving({"/data.bin": CONTENT}, in_pieces) as server:
        assert bring(server, tmp_path).read_bytes() == CONTENT
    assert [asked for _, asked in server.asked] == [None, "bytes=40000-", "bytes=80000-"]


def test_a_server_that_goes_on_at_the_wrong_place_is_found_out(tmp_path):
    def elsewhere(request, content):
        if request.headers.get("Range"):
            request.give(206, content[:100], Content_Range=f"bytes 0-99/{len(content)}")
        else:
            cut(request, content)
        return True

    with (
        serving({"/data.bin": CONTENT}, elsewhere) as server,
        pytest.raises(DownloadError, match=r"digest differs|stopped after"),
    ):
        bring(server, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_file_without_end_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "SIZE_LIMIT", 50_000)
    with (
        serving({"/data.bin": CONTENT}) as server,
        pytest.raises(DownloadError, match="more than 50,000 bytes"),
    ):
        bring(server, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_on_disk_is_brought_anew(tmp_path):
    (tmp_path / "data.bin").write_bytes(CONTENT[:-1])
    with serving({"/data.bin": CONTENT}) as server:
        assert bring(server, tmp_path).read_bytes() == CONTENT


def test_a_mirror_is_asked_first_and_verified(tmp_path, monkeypatch):
    with serving({"/data.bin": CONTENT}) as official:
        with serving({"/copy/data.bin": CONTENT}) as mirror:
            monkeypatch.setenv("CNNLAB_MIRROR", mirror.url + "copy/")
            assert bring(official, tmp_path / "a").read_bytes() == CONTENT
            assert (mirror.asked, official.asked) == ([("/copy/data.bin", None)], [])
        with serving({"/data.bin": b"something else"}) as liar:
            monkeypatch.setenv("CNNLAB_MIRROR", liar.url)
            assert bring(official, tmp_path / "b").read_bytes() == CONTENT
        monkeypatch.setenv("CNNLAB_MIRROR", liar.url)  # which is gone by now
        assert bring(official, tmp_path / "c").read_bytes() == CONTENT


def test_where_https_fails_nobody_is_asked_without_it(tmp_path):
    with serving({"/data.bin": CONTENT}) as server:
        secure = server.url.replace("http:", "https:")
        with pytest.raises(DownloadError, match=r"SSL|ssl|TLS"):
            fetch.fetch(secure + "data.bin", MD5, tmp_path)
    assert server.asked == []


def test_a_redirection_is_followed_but_never_out_of_https(tmp_path):
    def lead(request, content):
        if request.path == "/data.bin":
            request.give(302, b"", Location="/moved.bin")
            return True
        return False

    with serving({"/moved.bin": CONTENT}, lead) as server:
        assert bring(server, tmp_path).read_bytes() == CONTENT
    secure = urllib.request.Request("https://host.invalid/data.bin")
    follow = fetch._NoDowngrade().redirect_request
    assert follow(secure, None, 302, "", {}, "https://other.invalid/x").full_url.startswith("https")
    with pytest.raises(URLError, match="from https to http"):
        follow(secure, None, 302, "", {}, "http://host.invalid/data.bin")
    assert any(isinstance(h, fetch._NoDowngrade) for h in fetch._opener.handlers)


def test_without_a_network_the_error_comes_at_once(tmp_path, no_network):
    with pytest.raises(DownloadError, match="without a network"):
        fetch.fetch("https://host.invalid/data.bin", MD5, tmp_path)
    assert no_network == ["host.invalid"]
