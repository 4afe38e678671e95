"""Asked for means working: a SGLang that does not fit is refused, with what to do."""

import subprocess
import sys

import pytest

from mars_sglang.engine import doctor, install, seams
from mars_sglang.engine.seams import Seam


def test_the_installed_sglang_has_every_seam():
    assert seams.problems() == []


def test_an_untested_release_is_named_with_what_to_install(monkeypatch):
    monkeypatch.setattr(seams, "TESTED_SGLANG", ("0.4.0",))
    problem = seams.check_version()
    assert "expected SGLang 0.4.0, found 0.5.23" in problem and "install sglang==0.4.0" in problem


@pytest.mark.parametrize(
    ("seam", "message"),
    [
        (Seam("sglang.srt.managers.nowhere.Thing", (), "test"), "nowhere"),
        (Seam("sglang.srt.managers.scheduler.Scheduler.gone", (), "test"), "AttributeError"),
        (Seam("sglang.srt.managers.scheduler.Scheduler.get_init_info", ("extra",), "test"), "to take extra"),
    ],
)
def test_a_missing_class_method_or_parameter_is_named(seam, message):
    assert message in seams.check_seam(seam)


def test_every_mismatch_is_reported_at_once(monkeypatch):
    monkeypatch.setattr(seams, "SEAMS", (Seam("sglang.a.b", (), "one"), Seam("sglang.c.d", (), "two")))
    with pytest.raises(seams.SeamError, match=r"(?s)sglang\.a\.b.*sglang\.c\.d.*mars-sglang doctor"):
        seams.require()


def test_a_hook_that_does_not_land_is_an_error(monkeypatch):
    monkeypatch.setattr(install.HookRegistry, "apply_hooks", lambda: None)
    with pytest.raises(seams.SeamError, match=r"_version did not land.*SGLANG_PLUGINS=mars_sglang"):
        install._replace("mars_sglang.engine.doctor._version", doctor.main)
    install.HookRegistry._hooks.pop("mars_sglang.engine.doctor._version")


def test_doctor_says_so_and_its_exit_status_does_too(capsys, monkeypatch):
    assert doctor.main([]) == 0
    assert "everything is there" in capsys.readouterr().out
    monkeypatch.setattr(seams, "TESTED_SGLANG", ("0.4.0",))
    assert doctor.main([]) == 1
    assert "BAD  release of SGLang" in capsys.readouterr().out


@pytest.mark.parametrize(("variable", "value"), [("SGLANG_PLUGINS", "other"), ("SGLANG_PLATFORM", "their_card")])
def test_doctor_finds_what_keeps_sglang_from_loading_the_plugin(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    assert variable in doctor.check_entry_point()


LOADED = """
import sys
sys.argv = ["launch_server"] + {argv!r}
from sglang.srt.plugins import load_plugins
from sglang.srt.plugins.hook_registry import HookRegistry
load_plugins()
ours = [t for t, hooks in HookRegistry._hooks.items() for h in hooks if "mars_sglang" in h[1].__module__]
print("HOOKS", sorted(ours))
print("ENGINE", any(name.startswith("mars_sglang.engine") for name in sys.modules))
"""


def loaded(*argv: str) -> dict[str, str]:
    run = subprocess.run(
        [sys.executable, "-c", LOADED.format(argv=list(argv))], capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return dict(line.split(" ", 1) for line in run.stdout.splitlines() if line.startswith(("HOOKS", "ENGINE")))


def test_off_means_off_no_hook_and_no_import():
    assert loaded("--schedule-policy", "lpm") == {"HOOKS": "[]", "ENGINE": "False"}


def test_a_flag_hooks_the_argument_parser():
    assert "add_cli_args" in loaded("--scheduler-policy", "mars")["HOOKS"]


def test_a_configuration_left_in_the_environment_wakes_nothing(monkeypatch):
    monkeypatch.setenv("MARS_SGLANG_CONFIG", '{"turn_policy":"mars","admission":"mars"}')
    assert loaded() == {"HOOKS": "[]", "ENGINE": "False"}
