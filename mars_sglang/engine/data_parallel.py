"""What SGLang's data-parallel controller passes on of the schedulers that it started."""

from typing import Any


def tell_of_ranks(original, controller) -> dict[str, Any]:
    """Around ``DataParallelController.get_init_info``, which leaves out what it does not know.

    ``mars`` is that of the first rank, as for a server without a controller, if every rank is ours and of one policy.
    """
    told = [info.get("mars") for info in controller._scheduler_init_infos]
    same = bool(told) and None not in told and len({one["turn_policy"] for one in told}) == 1
    return original(controller) | ({"mars": told[0]} if same else {})
