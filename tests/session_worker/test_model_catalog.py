"""What a model's name stands for, which one is taken unnamed, and when to ask again."""

import pytest

from paddock.session_worker.errors import NeedsCredentials, UnknownModel
from paddock.session_worker.model import (
    LONGEST_RETRY_AFTER_MS,
    MAX_ATTEMPTS,
    RETRYABLE,
    ModelFailed,
    Named,
    retry_delay_ms,
)
from paddock.session_worker.models import catalog
from paddock.session_worker.models.catalog import Entry, NoModel, default_model, merge, resolve
from paddock.session_worker.models.opening import named, open_model
from paddock.store.errors import Bug

# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "provider", "model", "base_url"),
    [
        ("sonnet", "anthropic", "claude-sonnet-5-5", "https://api.anthropic.com"),
        ("claude-sonnet-5-5", "anthropic", "claude-sonnet-5-5", "https://api.anthropic.com"),
        ("claude-not-yet-made", "anthropic", "claude-not-yet-made", "https://api.anthropic.com"),
        ("anthropic:claude-x", "anthropic", "claude-x", "https://api.anthropic.com"),
        ("anthropic/claude-x", "anthropic", "claude-x", "https://api.anthropic.com"),
        ("openai:gpt-4o", "openai", "gpt-4o", "https://api.openai.com/v1"),
        ("openrouter:openai/o3", "openrouter", "openai/o3", "https://openrouter.ai/api/v1"),
        ("openai:qwen:7b@http://127.0.0.1:1/v1", "openai-chat", "qwen:7b", "http://127.0.0.1:1/v1"),
        ("openai-responses:m@https://h/v1", "openai-responses", "m", "https://h/v1"),
        ("anthropic:m@https://h", "anthropic", "m", "https://h"),
    ],
)
def test_v6_a_model_is_found_by_alias_own_name_or_provider_and_name(
    name: str, provider: str, model: str, base_url: str
) -> None:
    place = resolve(name, {})
    assert (place.provider.name, place.model, place.base_url) == (provider, model, base_url)
    assert resolve(place.name, {}) == place


def test_who_is_asked_is_told_without_asking() -> None:
    assert named("sonnet", {}) == Named("anthropic", "claude-sonnet-5-5", 1_000_000)
    assert named("openai:m@http://127.0.0.1:1/v1", {}) == Named("openai-chat", "m")
    assert named("script:/a/b.json", {}) == Named("script", "/a/b.json")
    assert named("nobody:x", {}) == Named(model="nobody:x")
    assert named(None, {}) == Named()


@pytest.mark.parametrize("name", ["Claude Sonnet 5.5", "nobody:x", "anthropic:", "", "llama", ":x"])
def test_v6_what_is_no_name_is_refused_with_all_that_is_possible(name: str) -> None:
    with pytest.raises(UnknownModel, match="is unknown; use script:FILE, PROVIDER:MODEL") as hit:
        open_model(name, {})
    assert "\n" not in hit.value.message
    assert "anthropic" in hit.value.message


@pytest.mark.parametrize(
    "other",
    [
        Entry("openai", "x", ("sonnet",)),
        Entry("openai", "x", ("claude-sonnet-5-5",)),
        Entry("openai", "x", display_name="Claude Sonnet 5.5"),
    ],
)
def test_v6_two_models_of_one_alias_or_display_name_are_refused(other: Entry) -> None:
    with pytest.raises(Bug, match="stands for two models"):
        merge(catalog.MODELS, [other])


def test_v6_catalogs_merge_and_the_later_entry_of_a_model_counts() -> None:
    later = Entry("anthropic", "claude-sonnet-5-5", ("best",), "Claude Sonnet 5.5")
    merged = merge(catalog.MODELS, [later, Entry("openai", "new", ("newest",))])
    assert len(merged) == len(catalog.MODELS) + 1
    assert resolve("best", {}, merged).model == "claude-sonnet-5-5"
    with pytest.raises(UnknownModel):
        resolve("sonnet", {}, merged)


def test_a_server_of_ones_own_can_be_named_by_the_environment() -> None:
    environment = {"OPENAI_BASE_URL": "http://127.0.0.1:1234/v1"}
    place = resolve("openai:local", environment)
    assert (place.provider.name, place.base_url) == ("openai-chat", "http://127.0.0.1:1234/v1")
    assert place.is_local
    assert catalog.key_of(place, environment) == catalog.KEYLESS


@pytest.mark.parametrize(
    "address",
    ["http://", "httpfoo", "http://[::1/v1", "http://h:99999/v1", "http://h:abc/v1", "http://a b"],
)
def test_an_address_that_can_be_none_is_refused_before_it_is_asked(address: str) -> None:
    with pytest.raises(UnknownModel, match="is no address; write http://HOST"):
        resolve(f"openai:local@{address}", {})
    with pytest.raises(UnknownModel, match=r"OPENAI_BASE_URL in the environment: .* is no address"):
        resolve("openai:local", {"OPENAI_BASE_URL": address})


# --- keys -----------------------------------------------------------------------------------------


def test_x_a_model_without_its_key_names_the_variable() -> None:
    with pytest.raises(NeedsCredentials, match="set ANTHROPIC_API_KEY in the environment"):
        open_model("sonnet", {"OPENAI_API_KEY": "k"})


@pytest.mark.parametrize("key", ["secret\r", "se cret", "secr\N{LATIN SMALL LETTER E WITH ACUTE}t"])
def test_a_key_that_no_request_can_carry_is_told_without_it(key: str) -> None:
    """It was sent for a minute, and each time said to be a connection error."""
    with pytest.raises(NeedsCredentials, match="the value of ANTHROPIC_API_KEY can be no") as hit:
        open_model("sonnet", {"ANTHROPIC_API_KEY": key})
    with pytest.raises(NeedsCredentials, match="the value of ANTHROPIC_API_KEY can be no"):
        default_model({"ANTHROPIC_API_KEY": key})
    assert "cr" not in hit.value.message


def test_x2_the_one_provider_whose_key_is_there_is_taken() -> None:
    assert default_model({"ANTHROPIC_API_KEY": "k"}) == "anthropic:claude-sonnet-5-5"
    assert resolve(default_model({"OPENAI_API_KEY": "k"}), {}).provider.name == "openai"


def test_x2_without_a_key_the_variables_are_named() -> None:
    with pytest.raises(NoModel, match=r"set ANTHROPIC_API_KEY, OPENAI_API_KEY, GEMINI_API_KEY"):
        default_model({"ANTHROPIC_API_KEY": ""})


def test_x2_with_several_keys_the_models_to_choose_from_are_named() -> None:
    with pytest.raises(NoModel, match=r"name one of anthropic:claude-sonnet-5-5, openai:gpt-"):
        default_model({"ANTHROPIC_API_KEY": "k", "OPENAI_API_KEY": "k"})


# --- asking again ---------------------------------------------------------------------------------


def test_v1_only_what_may_pass_by_itself_is_asked_again() -> None:
    passing = ("rate_limited", "overloaded", "server", "connection", "timeout", "stream_cut")
    assert sorted(RETRYABLE) == sorted(passing)
    assert retry_delay_ms(ModelFailed("server", "…"), 1, 0) == 1000
    for kind in ("auth", "invalid_request", "context_overflow", "quota", "script_exhausted"):
        assert retry_delay_ms(ModelFailed(kind, "…"), 1, 0) is None


def test_v1_the_delay_doubles_up_to_a_minute_and_jitter_halves_it_at_most() -> None:
    failed = ModelFailed("overloaded", "…")
    delays = [retry_delay_ms(failed, attempt, 0) for attempt in range(1, MAX_ATTEMPTS)]
    assert delays == [1000, 2000, 4000, 8000, 16000]
    for attempt in range(1, MAX_ATTEMPTS):
        whole, least = retry_delay_ms(failed, attempt, 0), retry_delay_ms(failed, attempt, 0.999)
        assert whole is not None
        assert least is not None
        assert whole / 2 < least < whole
    assert retry_delay_ms(failed, MAX_ATTEMPTS, 0) is None


def test_v1_retry_after_is_never_undercut_and_not_waited_for_without_end() -> None:
    failed = ModelFailed("rate_limited", "…", retry_after_ms=7000)
    assert retry_delay_ms(failed, 1, 0) == 7000
    assert retry_delay_ms(failed, 1, 0.5) == 7500
    far = ModelFailed("rate_limited", "…", retry_after_ms=LONGEST_RETRY_AFTER_MS + 1)
    assert retry_delay_ms(far, 1, 0) is None
