"""``mars-sglang doctor``: would ``--scheduler-policy mars`` work here? Without starting a server."""

import argparse
import importlib.metadata
import os
import platform
from collections.abc import Sequence

from mars_sglang import __version__
from mars_sglang.emulation import PLATFORM_NAME

PLUGIN_GROUP = "sglang.srt.plugins"
PLUGIN_NAME = "mars_sglang"


def main(argv: Sequence[str]) -> int:
    """0 when everything is there, 1 otherwise."""
    argparse.ArgumentParser(
        prog="mars-sglang doctor", description="Check that the installed SGLang has all that MARS needs."
    ).parse_args(argv)
    from mars_sglang.engine import seams

    print(f"mars-sglang {__version__}, Python {platform.python_version()}, SGLang {_version('sglang')}")
    checks = [("release of SGLang", seams.check_version()), ("plugin entry point", check_entry_point())]
    checks += [(seam.target.removeprefix("sglang.srt."), seams.check_seam(seam)) for seam in seams.SEAMS]
    for name, problem in checks:
        print(f"  {'ok ' if problem is None else 'BAD'}  {name}" + (f"\n       {problem}" if problem else ""))
    bad = sum(problem is not None for _, problem in checks)
    print("everything is there" if not bad else f"{bad} of {len(checks)} checks failed")
    return 1 if bad else 0


def check_entry_point() -> str | None:
    """A sentence on why SGLang would not load the plugin; None if it would."""
    names = [point.name for point in importlib.metadata.entry_points(group=PLUGIN_GROUP)]
    if PLUGIN_NAME not in names:
        return (
            f"expected an entry point {PLUGIN_NAME!r} in group {PLUGIN_GROUP!r}, found {names or 'none'}; "
            "install the package (pip install mars-sglang), a source tree on the path is not enough"
        )
    wanted = os.environ.get("SGLANG_PLUGINS", "")
    if wanted and PLUGIN_NAME not in [name.strip() for name in wanted.split(",")]:
        return f"SGLANG_PLUGINS={wanted!r} keeps SGLang from loading {PLUGIN_NAME}; add it to the list"
    chosen = os.environ.get("SGLANG_PLATFORM", "")
    if chosen and chosen != PLATFORM_NAME:
        return (
            f"SGLANG_PLATFORM={chosen!r} makes SGLang skip the plugins of every package that offers another "
            "platform, and this one offers an emulated one; unset SGLANG_PLATFORM if your platform is found without it"
        )
    return None


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
