"""``python -m mars_sglang.control``: see ``docs/events.md``."""

import argparse
import gc
import logging
import signal
import sys
from collections.abc import Sequence

from mars_sglang import parent
from mars_sglang.control.admission import AdmissionConsumer
from mars_sglang.control.learned import Learned
from mars_sglang.control.pauses import PauseConsumer
from mars_sglang.control.process import AddressTaken, Control
from mars_sglang.stream.address import SERVER_NAME, Address, AddressError
from mars_sglang.stream.keys import Keys, KeysError
from mars_sglang.stream.recording import RecordingError

logger = logging.getLogger("mars_sglang.control")

#: Collections of the middle generation before a full one.
_RARELY = 100_000

FAILED, WRONG_ARGUMENTS, TAKEN = 1, 2, 3


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0 after SIGTERM, SIGINT or the parent's end, 2 for what cannot be done as asked, 3 if taken."""
    parser = argparse.ArgumentParser(prog="python -m mars_sglang.control", description="Orders the event stream.")
    parser.add_argument("--address", help="ipc:///FOLDER or tcp://HOST:PORT (default: that of a server on port 30000)")
    parser.add_argument("--keys", metavar="FOLDER", help="CURVE keys, for TCP; `mars-sglang keys FOLDER` makes them")
    parser.add_argument("--record", metavar="FILE", help="record every message; what the file holds already is kept")
    parser.add_argument("--predictions", metavar="FILE", help="what is learned of pauses, kept over a restart")
    parser.add_argument("--parent-pid", metavar="PID", type=int, help="end when this process has ended")
    options = parser.parse_args(argv)
    if options.record and options.predictions:
        parser.error("--record needs a start from nothing, or it could not be replayed; leave out --predictions")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr)
    stopped = []
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stopped.append(True))
    parent_gone = parent.watch(options.parent_pid)
    try:
        address = Address.parse(options.address) if options.address else Address.default(SERVER_NAME)
        keys = Keys.load(options.keys) if options.keys else None
        learned = Learned(options.predictions)
        consumer = PauseConsumer(learned.load())
        control = Control(address, keys=keys, record=options.record, consumers=[consumer, AdmissionConsumer()])
    except AddressTaken as error:
        logger.error("%s; it is left alone", error)
        return TAKEN
    except (AddressError, KeysError, RecordingError, OSError) as error:
        logger.error("%s", error)
        return WRONG_ARGUMENTS
    # Tables without cycles: a full collection finds nothing in them, and holds everybody up for 50 to 300 ms.
    gc.freeze()
    gc.set_threshold(*gc.get_threshold()[:2], _RARELY)
    logger.info("serving %s, epoch %d%s", address.text, control.epoch, _recording_to(options.record))
    try:
        control.run(lambda: learned.save_sometimes(consumer.predictor) or bool(stopped) or parent_gone())
    finally:
        control.close()
        learned.save(consumer.predictor)
    logger.info("stopped: %s", ", ".join(f"{name} {value}" for name, value in control.counters().items()))
    return 0


def _recording_to(path: str | None) -> str:
    return f", recording to {path}" if path else ""


if __name__ == "__main__":
    sys.exit(main())
