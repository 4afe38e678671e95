"""Half a minute of the soak in modes of the engine that differ most. All of them: ``python -m eval.modes``."""

import json

import pytest

pytest.importorskip("sglang")

from eval import modes, soak

pytestmark = pytest.mark.server


@pytest.mark.parametrize("mode", ["everything", "window-short", "linear"])
def test_every_page_is_accounted_for_after_overload_and_faults_in(mode, tmp_path, capsys, monkeypatch):
    # What the program sets in its environment goes with the test.
    for name in (*soak.CHECKERS, soak.SPEED_ENV):
        monkeypatch.setenv(name, "")
    status = modes.run(modes.MODES[mode], tmp_path, minutes=0.5)
    told = capsys.readouterr()
    assert status == 0, told.out + told.err
    report = json.loads((tmp_path / "soak.json").read_text())
    assert report["problems"] == report["unexpected"] == []
    assert report["turns"] > 30 and report["engine"]["contexts_reclaimed"] > 0
