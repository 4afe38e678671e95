"""How long steps take, told of batches with known rows and times."""

from types import SimpleNamespace

import pytest

pytest.importorskip("sglang")

from sglang.srt.model_executor.forward_batch_info import ForwardMode

from mars_sglang.engine.step_meter import LEAST_TOKENS, NEWEST_WEIGHT, StepMeter


class Turn:
    """A request that loaded so many tokens from the host tier, and says so in every step of its prefill."""

    def __init__(self, loaded: int = 0):
        self.loaded = loaded

    def materialized_host_hit_len(self) -> int:
        return self.loaded


def took(meter, times, seconds, mode, *reqs, extend=1000, unfinished=None):
    meter.began()
    times.append(times[-1] + seconds)
    batch = SimpleNamespace(
        forward_mode=mode,
        reqs=reqs,
        extend_lens=[extend] * len(reqs),
        prefix_lens=[0] * len(reqs),
        chunked_req=unfinished,
    )
    meter.ended(batch)


@pytest.fixture
def times():
    return [0.0]


@pytest.fixture
def meter(times):
    return StepMeter(lambda: times[-1])


def test_a_decode_step_is_the_mean_of_the_latest(meter, times):
    assert meter.decode_s == 0.0
    took(meter, times, 0.02, ForwardMode.DECODE, Turn())
    assert meter.decode_s == pytest.approx(0.02)
    took(meter, times, 0.04, ForwardMode.DECODE, Turn())
    assert meter.decode_s == pytest.approx(0.02 + NEWEST_WEIGHT * 0.02) and meter.price.steps == 0


def test_prefills_teach_the_price_but_for_small_ones(meter, times):
    took(meter, times, 0.2, ForwardMode.EXTEND, Turn(), extend=LEAST_TOKENS - 1)
    assert meter.price.steps == 0
    took(meter, times, 0.2, ForwardMode.EXTEND, Turn())
    assert meter.price.steps == 1 and meter.price.seconds(1000) == pytest.approx(0.2)


def test_what_a_turn_loads_is_in_the_first_step_of_its_prefill(meter, times):
    took(meter, times, 0.2, ForwardMode.EXTEND, Turn())
    price, turn = meter.price, Turn(loaded=5000)
    took(meter, times, 0.2 + 0.5, ForwardMode.EXTEND, turn, unfinished=turn)
    assert meter.load_token_s == pytest.approx(0.5 / 5000) and meter.price == price
    # Its next chunk loads nothing, and is a prefill like any other.
    took(meter, times, 0.2, ForwardMode.EXTEND, turn)
    assert meter.load_token_s == pytest.approx(0.5 / 5000) and meter.price.steps == 2
