import pytest

from mars_sglang.core.cost_model import CostModel, ProfileError
from mars_sglang.emulation.profiles import list_profiles, load_profile


@pytest.mark.parametrize("name", list_profiles())
def test_every_profile_loads_under_its_name_and_holds_a_useful_pool(name):
    profile = load_profile(name)
    cost = CostModel(profile)
    assert profile.name == name
    assert 100_000 < cost.kv_capacity_tokens < 2_000_000
    # One token for one short request: tens of tokens a second at least, under a thousand.
    assert 0.001 < cost.decode_step_s(1, 1000) < 0.05
    # The table of request slots stays modest on the host.
    assert profile.max_running_requests * profile.model.context_tokens * 4 < 400e6


def test_recompute_on_h200_costs_about_what_the_policy_study_assumed():
    cost = CostModel(load_profile("h200-qwen3-coder-30b"))
    assert cost.prefill_s(8192) / 8192 == pytest.approx(33e-6, rel=0.25)


def test_model_shapes_agree_with_their_cards():
    mixture = load_profile("h200-qwen3-coder-30b").model
    assert mixture.kv_bytes_per_token == 98304
    active = mixture.always_read_params + mixture.embedding_params
    active += mixture.experts_per_token * mixture.one_expert_params
    assert mixture.active_params == pytest.approx(active, rel=0.01)
    assert load_profile("l40s-llama-3.1-8b").model.kv_bytes_per_token == 131072


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ProfileError, match=r"'h300' is unknown; accepted: .*h200-qwen3-coder-30b.*toml"):
        load_profile("h300")


def test_only_toml_files_are_read(tmp_path):
    (tmp_path / "p").write_text("")
    with pytest.raises(ProfileError, match="is unknown"):
        load_profile(str(tmp_path / "p"))


def test_file_of_ones_own_is_taken_and_its_errors_name_it(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("name = 'mine'\n")
    with pytest.raises(ProfileError, match=r"mine\.toml: Profile\.model is None; accepted: a table"):
        load_profile(str(path))
    path.write_text("name = ")
    with pytest.raises(ProfileError, match=r"mine\.toml: "):
        load_profile(str(path))
