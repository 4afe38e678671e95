"""What a turn's start says of the context that its program left: figures by hand, and what holds for any."""

from hypothesis import given
from hypothesis import strategies as st

from mars_sglang.engine.resumption import COLD, PARTIAL, WARM, Resumption, resumption


def resumed(left: int, retained: int, found: int, *, prompt: int = 1_200, shared: int = 100, page: int = 1):
    return resumption(
        left_tokens=left,
        retained_tokens=retained,
        shared_tokens=shared,
        prompt_tokens=prompt,
        found_tokens=found,
        page_tokens=page,
    )


def test_a_context_that_is_all_there_is_warm():
    assert resumed(1_000, 1_000, 1_000) == Resumption(WARM, 1_000, 0)


def test_one_that_came_back_from_the_host_tier_is_warm_too():
    assert resumed(1_000, 300, 1_000) == Resumption(WARM, 1_000, 0)


def test_one_that_lost_its_tail_is_partial():
    assert resumed(1_000, 600, 600) == Resumption(PARTIAL, 600, 400)


def test_one_of_which_only_the_shared_prefix_is_there_is_cold():
    assert resumed(1_000, 0, 100) == Resumption(COLD, 100, 900)
    assert resumed(1_000, 0, 0, shared=0) == Resumption(COLD, 0, 1_000)


def test_a_prompt_that_leaves_a_cached_context_continues_what_it_has_in_common_with_it():
    # Compacted after 400 tokens: the other 600 are there, and of no use.
    assert resumed(1_000, 1_000, 400, prompt=500) == Resumption(WARM, 400, 0)


def test_a_prompt_with_nothing_but_the_shared_prefix_in_common_continues_nothing():
    assert resumed(1_000, 1_000, 100) is None
    assert resumed(0, 0, 0, shared=0) is None


def test_a_prompts_last_token_and_its_broken_page_are_always_computed():
    assert resumed(992, 992, 992, prompt=993, page=16) == Resumption(WARM, 992, 0)
    assert resumed(992, 992, 976, prompt=992, page=16) == Resumption(WARM, 976, 0)


pages = st.integers(0, 50)


@given(page=st.sampled_from([1, 16]), left=pages, gone=pages, common=pages, host=pages, more=st.integers(1, 400))
def test_what_is_continued_is_at_most_what_was_left_and_recomputed_only_what_was_evicted(
    page, left, gone, common, host, more
):
    retained = max(0, left - gone)
    # A prompt that has `common` pages of the context, found on the GPU or in the host tier.
    prompt = common * page + more
    found = min(common, left, retained + host) * page
    told = resumed(left * page, retained * page, found, prompt=prompt, shared=0, page=page)
    if told is None:
        assert min(common, left) == 0 or prompt <= page
        return
    assert 0 <= told.reused_tokens == min(found, told.reused_tokens) and told.recomputed_tokens >= 0
    assert told.reused_tokens + told.recomputed_tokens <= min(left * page, prompt - 1)
    assert (told.outcome == WARM) == (told.recomputed_tokens == 0)
    assert (told.outcome == COLD) == (told.reused_tokens == 0)
    if retained == left:
        assert told.outcome == WARM
