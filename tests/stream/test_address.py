"""Which addresses are taken, and which folders are safe to meet in."""

import os
import tempfile

import pytest
import zmq

from mars_sglang.stream.address import Address, AddressError
from mars_sglang.stream.publisher import Publisher
from mars_sglang.stream.subscriber import Subscriber


def test_an_ipc_address_names_three_sockets_in_its_folder():
    address = Address.parse("ipc:///run/me/")
    assert (address.events, address.stream, address.snapshot) == (
        "ipc:///run/me/events.sock",
        "ipc:///run/me/stream.sock",
        "ipc:///run/me/snapshot.sock",
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "host.example", "[::1]"])
def test_a_tcp_address_names_three_ports_in_a_row(host):
    address = Address.parse(f"tcp://{host}:21000")
    assert (address.events, address.stream, address.snapshot) == tuple(f"tcp://{host}:{21000 + i}" for i in range(3))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/run/me",
        "ipc://run/me",
        "ipc://",
        "ipc://@abstract",
        "inproc://x",
        "udp://host:21000",
        "tcp://host",
        "tcp://:21000",
        "tcp://a/b:21000",
        "tcp://host:0",
        "tcp://host:65534",
        "tcp://::1:21000",
    ],
)
def test_another_address_is_refused_with_what_is_accepted(text):
    with pytest.raises(AddressError, match="accepted are"):
        Address.parse(text)


def test_a_folder_too_long_for_a_socket_is_refused_with_the_limit():
    assert Address.parse("ipc:///" + "a" * 92).folder
    with pytest.raises(AddressError, match="at most 107 bytes"):
        Address.parse("ipc:///" + "a" * 93)


def test_the_default_is_a_folder_of_this_user(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert Address.default().folder == f"{tmp_path}/mars-sglang/default"
    assert Address.default("other").folder == f"{tmp_path}/mars-sglang/other"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert Address.default().folder == f"{tempfile.gettempdir()}/mars-sglang-{os.getuid()}/default"


@pytest.mark.parametrize("name", ["", "..", "a/b", "a" * 65])
def test_a_default_name_that_leads_elsewhere_is_refused(name):
    with pytest.raises(AddressError, match="stream name"):
        Address.default(name)


def test_a_missing_folder_is_made_for_its_owner_alone(tmp_path):
    Address.parse(f"ipc://{tmp_path}/a/b").prepare(None)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("a", "a/b")] == [0o700, 0o700]


@pytest.mark.parametrize("mode", [0o755, 0o710, 0o701, 0o770])
@pytest.mark.parametrize("end", [Subscriber, lambda address: Publisher(address, "server")])
def test_a_folder_that_others_may_enter_is_refused_by_everyone(tmp_path, mode, end):
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(mode)
    with pytest.raises(AddressError, match=r"others may enter .*chmod 700"):
        end(f"ipc://{tmp_path}/open")


def test_a_folder_of_somebody_else_is_refused(tmp_path, monkeypatch):
    (tmp_path / "theirs").mkdir(mode=0o700)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(AddressError, match="belongs to uid"):
        Address.parse(f"ipc://{tmp_path}/theirs").prepare(None)


def test_a_folder_that_others_may_replace_is_refused(tmp_path):
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o777)
    (tmp_path / "shared" / "mine").mkdir(mode=0o700)
    with pytest.raises(AddressError, match="others may replace"):
        Address.parse(f"ipc://{tmp_path}/shared/mine").prepare(None)


def test_a_file_or_a_link_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for name in ("file", "link"):
        with pytest.raises(AddressError, match="not a folder"):
            Address.parse(f"ipc://{tmp_path}/{name}").prepare(None)


def test_tcp_without_keys_is_refused_and_says_how_to_make_them():
    for end in (Subscriber, lambda address: Publisher(address, "server")):
        with pytest.raises(AddressError, match=r"mars-sglang keys FOLDER.*ipc"):
            end("tcp://127.0.0.1:21000")
    socket = zmq.Context.instance().socket(zmq.PULL)
    with pytest.raises(AddressError, match="CURVE keys"):
        Address.parse("tcp://127.0.0.1:21000").bind(socket, "tcp://127.0.0.1:21000", None)
    socket.close(0)
