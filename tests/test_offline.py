import socket
import subprocess
import sys
import urllib.error
import urllib.request

import pytest


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "host.invalid", b"host.invalid"])
def test_a_connection_to_another_machine_is_refused(host, no_network):
    with pytest.raises(OSError, match="without a network"):
        socket.create_connection((host, 80), timeout=2)
    assert no_network == [host if isinstance(host, str) else host.decode()]


@pytest.mark.parametrize("method", ["connect", "connect_ex"])
def test_an_ip_address_is_refused_without_a_name_lookup(method, no_network):
    with socket.socket() as client, pytest.raises(OSError, match=r"192\.0\.2\.1"):
        getattr(client, method)(("192.0.2.1", 80))


def test_a_datagram_to_another_machine_is_refused(no_network):
    with (
        socket.socket(type=socket.SOCK_DGRAM) as client,
        pytest.raises(OSError, match="without a network"),
    ):
        client.sendto(b"x", ("192.0.2.1", 53))


def test_a_download_fails_as_without_a_network(no_network):
    with pytest.raises(urllib.error.URLError, match="without a network"):
        urllib.request.urlopen("https://host.invalid/weights.pth", timeout=2)


def test_loopback_still_works():
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=2).close()
        socket.create_connection(("localhost", server.getsockname()[1]), timeout=2).close()


def test_a_child_process_is_refused_too_and_its_attempt_is_logged(tmp_path, monkeypatch):
    log = tmp_path / "refused"
    monkeypatch.setenv("CNNLAB_REFUSED", str(log))
    code = "import socket; socket.create_connection(('host.invalid', 80))"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "without a network" in result.stderr
    assert log.read_text() == "host.invalid\n"
