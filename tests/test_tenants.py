import hashlib

import pytest

from mars_sglang.stream.tenant import scoped
from mars_sglang.tenants import MAX_NAME_CHARACTERS, TENANT_HEADER, TenantsError, load_tenants, tenant_of

BEARER = "Bearer sk-1"
DIGITS = hashlib.sha256(BEARER.encode()).hexdigest()[:12]


def test_a_key_is_a_tenant_by_the_digits_that_scope_its_ids():
    assert tenant_of(BEARER, None) == DIGITS
    assert scoped("job", BEARER) == f"{DIGITS}/job"


def test_beside_a_key_a_header_means_nothing():
    assert tenant_of(BEARER, "team-a") == DIGITS


def test_without_a_key_the_header_names_the_tenant_and_can_name_none_that_has_a_key():
    assert tenant_of(None, "team-a") == tenant_of("", "team-a") == "@team-a"
    assert tenant_of(None, DIGITS) != DIGITS
    assert tenant_of(None, "@" + DIGITS) == "@@" + DIGITS


@pytest.mark.parametrize("header", [None, "", "a\nb", "x" * (MAX_NAME_CHARACTERS + 1)])
def test_without_a_key_and_a_name_it_is_the_tenant_without_either(header):
    assert tenant_of(None, header) == ""


def load(tmp_path, text):
    path = tmp_path / "tenants.toml"
    path.write_text(text)
    return load_tenants(path)


def test_weights_are_those_of_keys_of_header_names_and_of_the_one_without_either(tmp_path):
    text = f"""
        [tenants]
        research = {{ key = "{DIGITS}", weight = 3 }}
        batch = {{ weight = 0.5 }}
        "" = {{ weight = 0.1 }}

        [tenants.support]
        key = "0123456789ab"
    """
    weights = load(tmp_path, text).weights
    assert weights == {DIGITS: 3.0, "@batch": 0.5, "": 0.1, "0123456789ab": 1.0}
    assert weights[tenant_of(BEARER, "batch")] == 3.0
    assert weights[tenant_of(None, "batch")] == 0.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[tenants", "no TOML"),
        ("", "found nothing; accepted: one table, \\[tenants\\]"),
        ("tenants = 3", "accepted: one table"),
        ("[tenants]\n[quotas]\n", "found quotas"),
        ("[tenants]\na = 3", "tenant 'a': 3; accepted: { key ="),
        ("[tenants]\na = { wieght = 3 }", "tenant 'a': unknown field 'wieght'; accepted: key, weight"),
        ("[tenants]\na = { weight = 0 }", "tenant 'a': weight 0; accepted: a number above 0"),
        ("[tenants]\na = { weight = inf }", "weight inf"),
        ("[tenants]\na = { weight = nan }", "weight nan"),
        ("[tenants]\na = { weight = true }", "weight True"),
        ("[tenants]\na = { weight = '3' }", "weight '3'"),
        ("[tenants]\na = { key = '0123456789AB' }", "the first 12 hex digits, in lower case"),
        ("[tenants]\na = { key = 7 }", "the first 12 hex digits"),
        (f"[tenants]\n{'x' * 65} = {{ weight = 3 }}", f"its name is a value of {TENANT_HEADER}"),
        (
            "[tenants]\na = { key = '0123456789ab' }\nb = { key = '0123456789ab' }",
            "tenants 'a' and 'b' have the same key 0123456789ab",
        ),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_with_file_and_field(tmp_path, text, message):
    with pytest.raises(TenantsError, match=message) as caught:
        load(tmp_path, text)
    assert str(caught.value).startswith(str(tmp_path / "tenants.toml"))


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(TenantsError, match=r"none\.toml: cannot be read: No such file"):
        load_tenants(tmp_path / "none.toml")


def test_a_key_in_plain_text_does_not_end_up_in_the_message(tmp_path):
    with pytest.raises(TenantsError) as caught:
        load(tmp_path, "[tenants]\na = { key = 'Bearer sk-secret' }")
    assert "secret" not in str(caught.value)
