"""Gaps are counted and lead to a question; floods are cut off; the dead are noticed."""

from mars_sglang.control import sources as sources_module
from mars_sglang.control.sources import ANSWER_S, ASK_TIMES, BURST, RATE, SILENT_S, Sources

SERVER = "server:h:1:a"


def told(sources: Sources, source: str, seq: int, now_s: float) -> None:
    assert sources.accept(source, seq, now_s)
    sources.told(source, part=0, done=True)


def test_a_gap_is_counted_and_its_source_asked_once_a_second_until_it_told_its_state():
    sources = Sources()
    for seq in (1, 2, 5):
        sources.accept(SERVER, seq, 0.0)
    assert (sources.gaps, sources.lost) == (1, 2)
    assert [sources.tick(now_s)[0] for now_s in (0.0, 0.5, 1.0)] == [(SERVER,), (), (SERVER,)]
    told(sources, SERVER, 6, 1.2)
    assert sources.tick(9.0)[0] == ()


def test_a_source_that_does_not_listen_is_not_asked_for_ever():
    sources = Sources()
    sources.accept(SERVER, 7, 0.0)
    asked = [sources.tick(float(second))[0] for second in range(20)]
    assert sum(map(len, asked)) == ASK_TIMES


def test_a_state_told_with_a_part_lost_is_asked_for_again():
    sources = Sources()
    sources.accept(SERVER, 1, 0.0)
    sources.told(SERVER, part=0, done=False)
    sources.accept(SERVER, 3, 0.0)
    sources.told(SERVER, part=2, done=True)
    assert sources.tick(0.5)[0] == (SERVER,)


def test_a_flood_is_cut_to_its_rate_and_others_are_not():
    sources = Sources()
    taken = sum(sources.accept("sidecar:h:2:a", seq, 0.0) for seq in range(1, 50_001))
    assert taken == BURST
    assert sources.flooded == 50_000 - BURST
    assert sources.accept(SERVER, 1, 0.0)
    taken = sum(sources.accept("sidecar:h:2:a", seq, 1.0) for seq in range(50_001, 70_001))
    assert taken == RATE
    assert sources.tick(1.0)[0] == ("sidecar:h:2:a",)


def test_a_flood_of_new_names_is_cut_off_and_never_grows_the_table():
    sources = Sources()
    taken = sum(sources.accept(f"tool:h:{i}:a", 1, 0.0) for i in range(5_000))
    assert taken == sources_module.NEW_BURST
    assert len(sources) == sources_module.MAX_SOURCES


def test_a_killed_process_is_gone_soon_after_the_one_in_its_place_came():
    sources = Sources()
    told(sources, SERVER, 1, 0.0)
    told(sources, "engine:h:2:a", 1, 0.0)
    told(sources, "server:h:3:b", 1, 10.0)
    asked, gone = sources.tick(10.1)
    assert (asked, gone) == ((SERVER,), ())
    assert sources.tick(10.1 + ANSWER_S) == ((), (SERVER,))
    assert len(sources) == 2


def test_a_living_process_beside_a_new_one_of_its_role_answers_and_stays():
    sources = Sources()
    told(sources, SERVER, 1, 0.0)
    told(sources, "server:h:3:b", 1, 10.0)
    sources.tick(10.1)
    told(sources, SERVER, 2, 10.2)
    assert sources.tick(10.2 + ANSWER_S) == ((), ())


def test_silence_is_asked_about_and_then_believed_only_of_who_listens():
    sources = Sources()
    told(sources, SERVER, 1, 0.0)
    sources.accept("tool:h:9:a", 1, 0.0)
    late_s = SILENT_S + 0.1
    assert sources.tick(late_s) == ((SERVER,), ())
    assert sources.tick(late_s + ANSWER_S + 0.1) == ((), (SERVER,))
    assert len(sources) == 1


def test_a_stopped_source_is_forgotten():
    sources = Sources()
    told(sources, SERVER, 1, 0.0)
    sources.stopped(SERVER)
    assert len(sources) == 0
