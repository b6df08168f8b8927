"""Refuse every connection that would leave this machine, and keep a list of what was refused.

The refusal is an `OSError` of the kind that a machine without a network gives, so that what is
tested is what such a machine does. A program that swallows the error is found out through
`refused`, and through the file named by the environment variable CNNLAB_REFUSED, to which every
process adds its lines.
"""

import errno
import ipaddress
import os
import socket
from pathlib import Path
from typing import Any


LOCAL_NAMES = {"", "localhost", "localhost.localdomain", "ip6-localhost", socket.gethostname()}
refused: list[str] = []

_connect, _connect_ex, _sendto = (
    socket.socket.connect,
    socket.socket.connect_ex,
    socket.socket.sendto,
)
_getaddrinfo = socket.getaddrinfo


def install() -> None:
    """Guard the sockets of this process; a second call changes nothing."""
    socket.socket.connect = _checked(_connect)
    socket.socket.connect_ex = _checked(_connect_ex)
    socket.socket.sendto = _checked(_sendto)
    socket.getaddrinfo = _getaddrinfo_local


def _checked(method: Any) -> Any:
    def guarded(self: socket.socket, *args: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            _check(args[-1][0])
        return method(self, *args)

    return guarded


def _getaddrinfo_local(host: Any, *args: Any, **kwargs: Any) -> Any:
    _check(host)
    return _getaddrinfo(host, *args, **kwargs)


def _check(host: Any) -> None:
    name = host.decode() if isinstance(host, bytes) else host or ""
    if name in LOCAL_NAMES:
        return
    try:
        if ipaddress.ip_address(name.partition("%")[0]).is_loopback:
            return
    except ValueError:
        pass  # a name: asking for its address would leave the machine too
    refused.append(name)
    if log := os.environ.get("CNNLAB_REFUSED"):
        with Path(log).open("a", encoding="utf-8") as file:
            file.write(f"{name}\n")
    raise OSError(errno.ENETUNREACH, f"tests run without a network, and this would reach {name}")
