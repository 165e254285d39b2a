"""The price book: what is in it, how it is found, and what its generator refuses."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from router import prices
from router.cli import load
from router.domain.pricing import charge
from router.domain.usage import Usage
from router.prices import Classes, generate, lookup
from router.prices.curated import CURATED, REVIEWED, Decision
from router.prices.generate import Disagreement, build, write
from router.prices.merge import EMBEDDINGS, Known, Model, merge
from router.prices.read_genai import read_genai
from router.prices.read_litellm import read_litellm

USD = 10**9
VERSIONS = ("1", "2")


def model(i: int = 2, o: int = 10, **more: Any) -> Model:
    classes = {name: more.pop(name) * USD for name in ("cr", "cw", "r", "ai", "ao") if name in more}
    return Model(base={"i": i * USD, "o": o * USD, **classes}, **more)


def known(aliases: dict[str, str] | None = None, **models: Model) -> Known:
    return Known(models=models, aliases=aliases or {})


def agreeing() -> dict[str, Known]:
    return {kind: Known(models={name: model() for name in names if (kind, name) not in REVIEWED}) for kind, names in CURATED.items()}


def test_every_curated_model_agrees_or_was_decided_on() -> None:
    """The top models decide most of the money: no price of theirs rests on one source, or on silence."""
    curated = prices.book().curated
    assert sum(len(models) for models in curated.values()) >= 50
    assert {kind: frozenset(models) for kind, models in curated.items()} == CURATED
    for kind, models in curated.items():
        for name in models:
            entry = lookup(kind, name)
            assert entry is not None
            assert entry.checked == ("reviewed" if (kind, name) in REVIEWED else "agree")
            assert bool(entry.note) == ((kind, name) in REVIEWED)


def test_no_price_in_the_book_is_a_slip() -> None:
    """Nothing is free, nothing is a thousand times too dear, tiers rise, and every price names its source and date."""
    for provider in prices.providers():
        for entry in prices.entries(provider):
            rates = [entry.price.rates, *(tier.rates for tier in entry.price.tiers)]
            starts = [tier.above_input_tokens for tier in entry.price.tiers]
            where = f"{provider}/{entry.model}"
            assert starts == sorted(set(starts)), where
            assert all(0 < rate.input <= 1000 * USD and 0 <= rate.output <= 1000 * USD for rate in rates), where
            assert entry.price.rates.output or entry.capabilities in (None, EMBEDDINGS), where
            assert not entry.price.free, where
            assert entry.price.source, where
            assert dt.date.fromisoformat(entry.price.date), where


def test_a_known_model_is_priced_to_the_nano_usd() -> None:
    """GPT-4o: 2.50 USD in, 1.25 cached, 10 out per million (price list of 2026-11)."""
    entry = lookup("openai", "gpt-4o")
    assert entry is not None
    usage = Usage(input_tokens=1000, cache_read_tokens=400, output_tokens=100, evidence="exact")
    assert charge(entry.price, usage) == 600 * 2500 + 400 * 1250 + 100 * 10_000
    assert (entry.context_tokens, entry.max_output_tokens) == (128_000, 16_384)
    assert entry.capabilities is not None
    assert {"chat", "stream", "tools", "json_schema", "image"} <= entry.capabilities


@pytest.mark.parametrize(
    ("kind", "asked", "found"),
    [
        ("openai", "gpt-5.6", "gpt-5.6-sol"),
        ("openai", "gpt-4o-2024-08-06", "gpt-4o"),
        ("openai", "gpt-4o-2024-05-13", "gpt-4o-2024-05-13"),
        ("openai", "gpt-6-sol-2031-01-01", "gpt-6-sol"),
        ("anthropic", "claude-haiku-5-5-20310101", "claude-haiku-5-5"),
        ("vertex_ai", "claude-opus-5@20310101", "claude-opus-5"),
        ("gemini", "models/gemini-2.5-pro", "gemini-2.5-pro"),
        ("fireworks", "accounts/fireworks/models/kimi-k3", "kimi-k3"),
        ("together_ai", "moonshotai/Kimi-K3", "moonshotai/Kimi-K3"),
        ("litellm/bedrock", "amazon.nova-lite-v1:0", "amazon.nova-lite-v1:0"),
        ("azure", "gpt-6.1-terra", "gpt-6.1-terra"),
    ],
)
def test_a_model_is_found_by_id_alias_snapshot_and_prefix(kind: str, asked: str, found: str) -> None:
    """These are spellings of the same model at the same price."""
    entry = lookup(kind, asked)
    assert entry is not None
    assert entry.model == found


@pytest.mark.parametrize(
    ("kind", "asked"),
    [
        ("openai", "gpt-4"[:-1]),
        ("openai", "gpt-4o-2"),
        ("openai", "gpt-4o-turbo"),
        ("openai", "claude-opus-5"),
        ("anthropic", "gpt-4o"),
        ("openai", ""),
        ("nobody", "gpt-4o"),
        ("", "gpt-4o"),
        ("openai", "gpt-9-2031-01-01"),
    ],
)
def test_a_model_that_is_not_in_the_book_is_not_guessed(kind: str, asked: str) -> None:
    """A near name can be ten times dearer: unknown is unpriced."""
    assert lookup(kind, asked) is None


def test_long_contexts_keep_their_tiers() -> None:
    """A request above the threshold costs double in whole."""
    for kind, name, above in (
        ("openai", "gpt-6-sol", 272_000),
        ("gemini", "gemini-2.5-pro", 200_000),
        ("anthropic", "claude-haiku-5-5", 100_000),
    ):
        entry = lookup(kind, name)
        assert entry is not None
        assert [tier.above_input_tokens for tier in entry.price.tiers] == [above]
        assert entry.price.tiers[0].rates.input > entry.price.rates.input


def test_a_model_of_another_endpoint_is_not_offered_for_chat() -> None:
    """Some are served on `/v1/responses` only."""
    entry = lookup("openai", "gpt-5-pro")
    assert entry is not None
    assert entry.capabilities is not None
    assert "chat" not in entry.capabilities


def test_equal_prices_agree_and_fill_each_others_gaps() -> None:
    """Tiers from one, limits and audio from the other."""
    first = model(cr=1, tiers={1000: {"i": 4 * USD, "o": 20 * USD, "cr": 2 * USD}}, context=100, date="2026-01-01", per_request_nusd=5)
    second = model(ai=40, cw=0, max_output=50, context=90, capabilities=frozenset({"chat"}))
    row = merge("x", known(m=first), known(m=second))[0].models["m"]
    assert (row.c, row.s, row.ctx, row.out, row.caps, row.d, row.f) == ("agree", "b", 100, 50, ("chat",), "2026-01-01", 5)
    assert row.p == Classes(i=2 * USD, o=10 * USD, cr=USD, ai=40 * USD)
    assert row.t == ((1000, Classes(i=4 * USD, o=20 * USD, cr=2 * USD, ai=40 * USD)),)


def test_where_sources_differ_the_dearer_rate_of_each_class_holds() -> None:
    """A budget can be kept too well, never overspent."""
    first = model(2, 10, cr=1, tiers={1000: {"i": 4 * USD, "o": 20 * USD}})
    second = model(3, 9)
    section, _ = merge("x", known(m=first), known(m=second, alone=second))
    assert (section.models["alone"].c, section.models["alone"].s) == ("single", "l")
    row = section.models["m"]
    assert (row.c, row.p) == ("dearer", Classes(i=3 * USD, o=10 * USD, cr=USD))
    assert row.t == ((1000, Classes(i=4 * USD, o=20 * USD, cr=USD)),)


def test_thresholds_that_mean_the_same_do_not_differ() -> None:
    """`from 200,000 on` is `above 199,999`; other thresholds do differ."""
    tier = {"i": 4 * USD, "o": 20 * USD}
    first = known(m=model(tiers={199_999: tier}))
    assert merge("x", first, known(m=model(tiers={200_000: tier})))[0].models["m"].c == "agree"
    assert merge("x", first, known(m=model(tiers={128_000: tier})))[0].models["m"].c == "dearer"


def test_an_alias_that_the_sources_price_differently_gets_a_row_of_its_own() -> None:
    """`-latest` moves: one source may have seen it move."""
    first = Known(models={"m-1": model()}, aliases={"m-latest": "m-1", "m": "m-1", "m-zero": "gone"})
    section, problems = merge("x", first, Known(models={"m-latest": model(5, 10), "m": model()}))
    assert not problems
    assert section.aliases == {"m": "m-1"}
    assert section.models["m-1"].c == "agree"
    assert (section.models["m-latest"].c, section.models["m-latest"].p.i) == ("dearer", 5 * USD)


def test_rows_that_are_no_price_of_text_are_left_out() -> None:
    """Free, half-priced and absurd rows are mistakes or fees of another kind: the model stays unpriced."""
    rows = {"free": model(0, 0), "half": model(2, 0), "absurd": model(2, 2000), "embed-x": model(2, 0), "none": Model(base={})}
    assert set(merge("x", Known(models=rows), Known())[0].models) == {"embed-x"}
    vector = Model(base={"i": USD, "o": 5}, capabilities=EMBEDDINGS)
    row = merge("x", known(v=model(1, 9)), known(v=vector))[0].models["v"]
    assert (row.p.o, row.c) == (0, "agree")


@pytest.mark.parametrize(("take", "want"), [("genai-prices", (2, 10, "g")), ("litellm", (3, 9, "l")), ("dearer", (3, 10, "b"))])
def test_a_decision_names_what_holds_and_why(monkeypatch: pytest.MonkeyPatch, take: Any, want: tuple[int, int, str]) -> None:
    """It is in the book, for everyone to read."""
    monkeypatch.setitem(REVIEWED, ("x", "m"), Decision(take, "because", "2026-11-22"))
    row = merge("x", known(m=model(2, 10)), known(m=model(3, 9, max_output=7)))[0].models["m"]
    assert (row.p.i // USD, row.p.o // USD, row.s) == want
    assert (row.c, row.n, row.out) == ("reviewed", "because (2026-11-22)", 7)


def test_the_generator_refuses_a_new_disagreement(monkeypatch: pytest.MonkeyPatch) -> None:
    """A curated model that differs, is missing, or has a decision that nothing needs any more stops the build."""
    for key in list(REVIEWED):
        monkeypatch.delitem(REVIEWED, key)
    first, second = agreeing(), agreeing()
    for kind, names in CURATED.items():
        for name in names:
            first[kind].models.setdefault(name, model())
            second[kind].models.setdefault(name, model())
    assert build(first, second, date="2026-01-01", versions=VERSIONS).date == "2026-01-01"
    second["openai"].models["gpt-4o"] = model(3, 10)
    with pytest.raises(Disagreement, match="openai/gpt-4o: dearer"):
        build(first, second, date="2026-01-01", versions=VERSIONS)
    del second["openai"].models["gpt-4o"]
    with pytest.raises(Disagreement, match="openai/gpt-4o: single"):
        build(first, second, date="2026-01-01", versions=VERSIONS)
    del first["openai"].models["gpt-4o"]
    with pytest.raises(Disagreement, match="openai/gpt-4o: not in either source"):
        build(first, second, date="2026-01-01", versions=VERSIONS)
    monkeypatch.setitem(REVIEWED, ("openai", "o3"), Decision("dearer", "r", "2026-01-01"))
    monkeypatch.setitem(REVIEWED, ("openai", "gpt-0"), Decision("dearer", "r", "2026-01-01"))
    with pytest.raises(Disagreement, match=r"gpt-0: decided on, but not in the book(.|\n)*o3: the sources agree by now"):
        build(first, second, date="2026-01-01", versions=VERSIONS)


def test_a_book_that_is_written_reads_back(tmp_path: Path) -> None:
    """One model a line, so that a change of prices reads as one."""
    write(prices.book(), tmp_path / "book.json")
    text = (tmp_path / "book.json").read_text(encoding="utf-8")
    assert json.loads(text)["date"] == prices.book().date
    assert text == Path(prices.__file__).with_name("book.json").read_text(encoding="utf-8")


def test_litellms_rows_are_read_as_data(tmp_path: Path) -> None:
    """Floats become exact integers; regions, pictures and other operations stay out."""
    rows: dict[str, Any] = {
        "sample_spec": {"mode": "one of"},
        "groq/m": {
            "litellm_provider": "groq", "mode": "chat", "input_cost_per_token": 1.5e-07, "output_cost_per_token": 6e-07,
            "input_cost_per_token_above_128k_tokens": 3e-07, "max_input_tokens": 1000, "max_output_tokens": True,
            "supports_vision": True, "supports_function_calling": False, "output_cost_per_token_above_128k_tokens": None,
        },
        "fireworks_ai/accounts/fireworks/models/f": {"litellm_provider": "fireworks_ai", "mode": "chat", "input_cost_per_token": 1e-06},
        "azure/eu/m": {"litellm_provider": "azure", "mode": "chat", "input_cost_per_token": 1e-06},
        "draw": {"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": 1e-06, "output_cost_per_image": 1},
        "speak": {"litellm_provider": "openai", "mode": "audio_speech", "input_cost_per_token": 1e-06},
        "vec": {"litellm_provider": "vertex_ai-embedding-models", "mode": "embedding", "input_cost_per_token": 1e-06},
        "nobody/m": {"litellm_provider": "nobody", "mode": "chat", "input_cost_per_token": 1e-06},
        "dashscope/q": {
            "litellm_provider": "dashscope", "mode": "chat", "input_cost_per_token": 1e-06, "output_cost_per_token": 1e-06,
            "tiered_pricing": [{"range": [0, 32000.0]}, {"range": [32000.0, 128000.0], "input_cost_per_token": 2e-06}],
        },
    }  # fmt: skip
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    read = read_litellm(path)
    assert {kind: sorted(one.models) for kind, one in read.items()} == {
        "groq": ["m"],
        "fireworks": ["f"],
        "vertex_ai": ["vec"],
        "dashscope": ["q"],
    }
    groq = read["groq"].models["m"]
    assert groq.base == {"i": 150_000_000, "o": 600_000_000}
    assert groq.tiers == {128_000: {"i": 300_000_000, "o": 600_000_000}}
    assert (groq.context, groq.max_output, groq.capabilities) == (1000, None, {"chat", "stream", "image"})
    assert read["vertex_ai"].models["vec"].base["o"] == 0
    assert read["dashscope"].models["q"].tiers == {32_000: {"i": 2 * USD, "o": USD}}


def test_genai_prices_are_read_for_a_date_at_the_dear_hours() -> None:
    """Prices that depend on the hour are held at the peak; prices that have begun since are not used before."""
    before, now = read_genai(dt.date(2026, 7, 20)), read_genai(dt.date(2026, 11, 22))
    old, new = before["openai"].models["gpt-5.6-luna"], now["openai"].models["gpt-5.6-luna"]
    assert (old.base["i"], new.base["i"]) == (USD, USD // 5)
    assert (old.date, bool(new.date)) == ("", True)
    assert now["deepseek"].models["deepseek-v4-pro"].base["i"] == 1_320_000_000
    assert now["openai"].aliases["gpt-5.6"] == "gpt-5.6-sol"
    assert "claude-opus-5" in now["vertex_ai"].models
    assert "claude-opus-5" not in now["gemini"].models
    tiers = now["openai"].models["gpt-6-sol"].tiers
    assert tiers[272_000]["i"] == 2 * now["openai"].models["gpt-6-sol"].base["i"]


def test_the_generator_writes_a_book_or_says_why_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1 and a line per model; the old book stays."""
    target = tmp_path / "book.json"
    rows = tmp_path / "rows.json"
    rows.write_text("{}", encoding="utf-8")
    monkeypatch.setattr(generate, "BOOK", target)
    monkeypatch.setattr("sys.argv", ["generate", "--litellm", str(rows), "--litellm-version", "2", "--date", "2026-11-22"])
    assert generate.main() == 1
    assert "openai/gpt-4o: single" in capsys.readouterr().err
    assert not target.exists()
    monkeypatch.setattr(generate, "CURATED", {})
    monkeypatch.setattr("router.prices.merge.REVIEWED", {})
    assert generate.main() == 0
    assert json.loads(target.read_text(encoding="utf-8"))["sources"]["l"] == "litellm 2"


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(load("prices"), list(arguments))
    return result.exit_code, result.stdout, result.stderr


def test_the_command_shows_price_source_and_date() -> None:
    """What an operator asks first when a bill looks wrong."""
    code, out, _ = run("openai/gpt-6-sol")
    assert code == 0
    for part in ("openai/gpt-6-sol", "input above 272,000 input tokens", "2.00", "1,050,000 tokens", "genai-prices", "both sources agree"):
        assert part in out
    code, out, _ = run("deepseek/deepseek-chat")
    assert "decided: an alias" in out


def test_the_command_finds_a_model_at_every_provider() -> None:
    """The same id costs differently elsewhere; some ids have a slash of their own."""
    code, out, _ = run("openai/gpt-oss-120b", "--json")
    assert code == 0
    assert {"groq", "together"} <= {entry["provider"] for entry in json.loads(out)}
    code, out, _ = run("gpt-4o", "--json")
    assert {"openai", "azure"} <= {entry["provider"] for entry in json.loads(out)}


def test_the_command_lists_a_provider_and_the_book() -> None:
    """For browsing."""
    code, out, _ = run("groq/")
    assert code == 0
    assert "groq/openai/gpt-oss-120b  input 0.15  output 0.60" in out
    code, out, _ = run()
    assert "openai" in out
    assert json.loads(run("--json")[1])["date"] == prices.book().date


def test_the_command_refuses_an_unknown_model_and_suggests() -> None:
    """Exit 1, close names, and what to do."""
    code, _, err = run("gpt-4oo")
    assert code == 1
    assert "gpt-4o" in err
    assert "price" in err
    code, _, err = run("zzzzzzzzzzzzzz")
    assert code == 1
    assert "close to it" not in err


def test_a_fee_per_request_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Search models charge for the call."""
    entry = lookup("openai", "gpt-4o")
    assert entry is not None
    with_fee = msgspec.structs.replace(entry, price=msgspec.structs.replace(entry.price, per_request_nusd=5_000_000), context_tokens=None)
    monkeypatch.setattr(prices, "lookup", lambda kind, name: with_fee if kind == "openai" else None)
    _, out, _ = run("openai/gpt-4o")
    assert "per request" in out
    assert "unknown" in out


def test_a_section_without_a_row_for_an_id_is_silent() -> None:
    """Asking for a provider that the book does not have lists nothing."""
    assert list(prices.entries("nobody")) == []


def test_models_that_reason_unseen_are_known() -> None:
    """Their streams do not show all that is billed, so they must hold their whole cap."""
    reasoning, plain = lookup("openai", "o3"), lookup("openai", "gpt-4o")
    assert reasoning is not None
    assert "reasoning" in (reasoning.capabilities or ())
    assert plain is not None
    assert "reasoning" not in (plain.capabilities or ())
