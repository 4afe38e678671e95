"""Keys: made once, read by their owner alone."""

import pytest
import zmq

from mars_sglang.stream.keys import Keys, KeysError, main, make_keys


@pytest.fixture
def socket():
    socket = zmq.Context.instance().socket(zmq.PUSH)
    yield socket
    socket.close(0)


def test_keys_are_made_for_both_sides_and_the_secret_ones_for_their_owner_alone(tmp_path, capsys):
    folder = tmp_path / "keys"
    assert main([str(folder)]) == 0
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes["server.secret"] == modes["client.secret"] == 0o600
    assert set(modes) == {"server.public", "server.secret", "client.public", "client.secret"}
    assert folder.stat().st_mode & 0o777 == 0o700
    said = capsys.readouterr().out
    assert "copy server.public and client.secret" in said
    assert "server.secret never leaves" in said
    assert (folder / "server.secret").read_text().strip() not in said


def test_existing_keys_are_never_overwritten(tmp_path, capsys):
    make_keys(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert main([str(tmp_path)]) == 1
    assert "never overwritten" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_secret_that_others_can_read_is_refused(tmp_path):
    make_keys(tmp_path)
    (tmp_path / "client.secret").chmod(0o640)
    with pytest.raises(KeysError, match=r"others can read .*chmod 600"):
        Keys.load(tmp_path)


def test_a_folder_without_keys_is_refused_and_says_how_to_make_them(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(KeysError, match="mars-sglang keys"):
            Keys.load(folder)


def test_a_file_that_is_no_key_is_named(tmp_path):
    make_keys(tmp_path)
    (tmp_path / "server.public").write_text("short\n")
    with pytest.raises(KeysError, match=r"server\.public is not a CURVE key"):
        Keys.load(tmp_path)


def test_each_side_needs_its_own_files_only(tmp_path, socket):
    make_keys(tmp_path)
    (tmp_path / "server.secret").rename(tmp_path / "kept.elsewhere")
    Keys.load(tmp_path).as_client(socket)
    with pytest.raises(KeysError, match=r"needs server\.secret"):
        Keys.load(tmp_path).as_server(socket)
    (tmp_path / "kept.elsewhere").rename(tmp_path / "server.secret")
    (tmp_path / "client.secret").unlink()
    Keys.load(tmp_path).as_server(socket)
    with pytest.raises(KeysError, match=r"client\.secret"):
        Keys.load(tmp_path).as_client(socket)
