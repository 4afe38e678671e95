"""Half a minute of the soak, twice. The hour is run by hand: ``python -m eval.soak --minutes 60``."""

import json

import pytest

pytest.importorskip("sglang")

from eval import soak

pytestmark = pytest.mark.server


@pytest.mark.parametrize("more", ["", "--mars-admission off --page-size 16"], ids=["all-on", "no-gate-pages-of-16"])
def test_every_page_is_accounted_for_after_overload_and_faults(more, tmp_path, capsys, monkeypatch):
    # What the program sets in its environment goes with the test.
    for name in (*soak.CHECKERS, soak.SPEED_ENV):
        monkeypatch.setenv(name, "")
    status = soak.main(["--minutes", "0.5", "--out", str(tmp_path), f"--server-args={more}"])
    told = capsys.readouterr()
    assert status == 0, told.out + told.err
    report = json.loads((tmp_path / "soak.json").read_text())
    assert report["problems"] == report["unexpected"] == []
    # It was a soak: turns were answered, some were hung up on, and there was too little memory for them.
    assert report["turns"] > 50 and report["faults"]["hang_up"] > 0
    assert report["engine"]["contexts_reclaimed"] > 0
