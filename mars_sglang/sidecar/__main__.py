"""``python -m mars_sglang.sidecar``: see ``docs/sidecar.md``."""

import argparse
import logging
import os
import re
import signal
import sys
from collections.abc import Sequence

from mars_sglang import clock, parent
from mars_sglang.sidecar import cgroup, kernel
from mars_sglang.sidecar.calls import Calls
from mars_sglang.sidecar.listener import Listener, ToolsAddressTaken
from mars_sglang.sidecar.load import LoadReader
from mars_sglang.sidecar.service import Sidecar
from mars_sglang.stream.address import SERVER_NAME, Address, AddressError
from mars_sglang.stream.events import Heartbeat
from mars_sglang.stream.keys import Keys, KeysError
from mars_sglang.stream.publisher import Publisher, host_name
from mars_sglang.stream.subscriber import Subscriber
from mars_sglang.tools.description import API_KEY_ENV
from mars_sglang.tools.process import where

logger = logging.getLogger("mars_sglang.sidecar")

WRONG_ARGUMENTS, TAKEN = 2, 3
MIN_INTERVAL_MS, MAX_INTERVAL_MS = 10, 10_000
_NAME = r"[A-Za-z0-9._-]{1,64}"


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0 after SIGTERM, SIGINT or the parent's end, 2 for what cannot be done as asked, 3 if taken."""
    options = _parse(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr)
    stopped: list[bool] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.append(True))
    parent_gone = parent.watch(options.parent_pid)
    try:
        sidecar = _build(options)
        sidecar.listen()
    except ToolsAddressTaken as error:
        if options.listen is not None:
            logger.error("%s; it is left alone", error)
            return TAKEN
        # Two servers on one host have a sidecar each; tools report to the first.
        logger.warning("%s; this one reports the load of the host only, until that one ends", error)
    except (AddressError, KeysError, cgroup.CgroupError, OSError) as error:
        logger.error("%s", error)
        return WRONG_ARGUMENTS
    try:
        sidecar.run(lambda: bool(stopped) or parent_gone())
    finally:
        sidecar.close()
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m mars_sglang.sidecar", description="Reports the load of a host of tools, and its tool calls."
    )
    parser.add_argument(
        "--control", metavar="ADDRESS", help="of the control process (default: that of a server on port 30000)"
    )
    parser.add_argument("--keys", metavar="FOLDER", help="CURVE keys, for a control process over TCP")
    parser.add_argument(
        "--listen",
        metavar="ADDRESS",
        help="where tools report: ipc:///FOLDER or tcp://HOST:PORT (default: a folder of this user)",
    )
    parser.add_argument("--listen-keys", metavar="FOLDER", help="CURVE keys, to listen over TCP (default: --keys)")
    parser.add_argument("--interval-ms", type=_interval_ms, default=100, help="between two reports (default: 100)")
    parser.add_argument("--name", type=_name, default=None, help="of this executor (default: the host's name)")
    parser.add_argument("--slots", type=_slots, help="tool calls that may run at a time, where there is such a bound")
    parser.add_argument("--cgroup", metavar="PATH", help="of the tools (default: its own, where it has a limit)")
    parser.add_argument("--cores", type=_cores, help="cores of the tools, such as 0-3,8 (default: all it may use)")
    parser.add_argument("--parent-pid", metavar="PID", type=int, help="end when this process has ended")
    return parser.parse_args(argv)


def _build(options: argparse.Namespace) -> Sidecar:
    name = options.name or host_name()
    loads = LoadReader(cgroup.find(options.cgroup), options.cores)
    keys = Keys.load(options.keys) if options.keys else None
    listen_keys = Keys.load(options.listen_keys) if options.listen_keys else keys
    tools = Address.parse(options.listen) if options.listen else Address.default()
    control = Address.parse(options.control) if options.control else Address.default(SERVER_NAME)
    key = os.environ.get(API_KEY_ENV)
    return Sidecar(
        name,
        loads,
        Publisher(control, "sidecar", keys=keys),
        Subscriber(control, (Heartbeat,), keys=keys),
        lambda: Listener(tools, listen_keys),
        interval_s=options.interval_ms / 1000,
        slots=options.slots,
        authorization=f"Bearer {key}" if key else None,
        calls=Calls(name, where=where(), speed=clock.speed()),
    )


def _interval_ms(text: str) -> int:
    value = kernel.number(text)
    if value is None or not MIN_INTERVAL_MS <= value <= MAX_INTERVAL_MS:
        raise argparse.ArgumentTypeError(f"{text!r}; accepted: {MIN_INTERVAL_MS} to {MAX_INTERVAL_MS} milliseconds")
    return value


def _slots(text: str) -> int:
    value = kernel.number(text)
    if value is None or value < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; accepted: a whole number from 1")
    return value


def _cores(text: str) -> frozenset[int]:
    try:
        return kernel.core_list(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _name(text: str) -> str:
    if not re.fullmatch(_NAME, text):
        raise argparse.ArgumentTypeError(f"{text!r}; accepted: 1 to 64 letters, digits, '.', '-' and '_'")
    return text


if __name__ == "__main__":
    sys.exit(main())
