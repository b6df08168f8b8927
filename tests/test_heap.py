"""Tests of the memory that a process keeps."""

import os
import platform
import subprocess
import sys

import pytest

import cnnlab
from cnnlab.course import heap, session


# Prints the page faults of twenty blocks of 40 MB, each freed before the next one is requested.
FAULTS = """
import resource
from cnnlab.course.heap import keep_freed_memory
print(keep_freed_memory())
size = 40_000_000
b"x" * size
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    b"x" * size
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
VARIABLES = ("CNNLAB_MALLOC", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")


def faults(**environment):
    clean = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    command = [sys.executable, "-c", FAULTS]
    lines = subprocess.check_output(command, env=clean | environment, text=True).split()
    return lines[0] == "True", int(lines[1])


@needs_glibc
def test_freed_memory_is_used_again_without_asking_the_kernel():
    done, kept = faults()
    switched_off, given_back = faults(CNNLAB_MALLOC="0")
    assert done
    assert not switched_off
    assert given_back > 20 * 18  # a large page of 2 MB is one fault
    assert kept < given_back / 10


def test_a_users_own_settings_of_the_allocator_win(monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    assert not heap.keep_freed_memory()


def test_setup_keeps_freed_memory(monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(session, "keep_freed_memory", lambda: calls.append(1))
    cnnlab.setup()
    assert calls == [1]
