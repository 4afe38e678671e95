"""One process at a time behind an ipc address."""

import errno
import os
import subprocess
import sys

import pytest

from mars_sglang.stream import lock
from mars_sglang.stream.address import Address

HOLDER = """
import sys
from mars_sglang.stream import lock
from mars_sglang.stream.address import Address
held = lock.take(Address.parse(sys.argv[1]), "control")
print("held", flush=True)
input()
"""


@pytest.fixture
def address(tmp_path):
    address = Address.parse(f"ipc://{tmp_path}/s")
    address.prepare(None)
    return address


def test_a_second_one_is_turned_away_until_the_first_lets_go(address):
    held = lock.take(address, "control")
    with pytest.raises(BlockingIOError, match=r"control\.lock"):
        lock.take(address, "control")
    os.close(held)
    os.close(lock.take(address, "control"))


def test_it_goes_with_its_process_and_not_with_its_file(address):
    command = [sys.executable, "-c", HOLDER, address.text]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(BlockingIOError):
            lock.take(address, "control")
        holder.kill()
    assert os.path.exists(f"{address.folder}/control.lock")
    os.close(lock.take(address, "control"))


def test_two_kinds_of_sockets_in_one_folder_do_not_meet(address):
    held = [lock.take(address, name) for name in ("control", "tools")]
    assert None not in held
    for one in held:
        os.close(one)


def test_no_descriptor_is_left_by_one_that_was_turned_away(address):
    held = lock.take(address, "control")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(BlockingIOError):
            lock.take(address, "control")
    assert len(os.listdir("/proc/self/fd")) == before
    os.close(held)


def test_a_folder_that_is_not_there_is_no_other_process(tmp_path):
    with pytest.raises(OSError) as raised:
        lock.take(Address.parse(f"ipc://{tmp_path}/missing"), "control")
    assert raised.value.errno == errno.ENOENT


def test_tcp_needs_none():
    assert lock.take(Address.parse("tcp://127.0.0.1:7000"), "control") is None
