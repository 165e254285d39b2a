"""Which ledger an address means. Two processes that read it in two ways would each have a budget of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner

from router import cli
from router.adapters.choose import choose_store, open_ledger, simulated_store, store_of
from router.adapters.redis.ledger import RedisLedger
from router.adapters.sqlite.ledger import SqliteLedger
from router.domain.store_address import read_store, redis_problem, without_password
from router.errors import ConfigError
from router.settings import load_snapshot
from router.settings.discover import discover_snapshot
from tests.running import running

SIMULATED = "version: 1\nproviders: [sim]\nmodels: {m: sim/mid-closed}\nbudgets: {everyone: $1/day}\n"


@pytest.fixture(autouse=True)
def no_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state folder of its own, and nothing named by the environment."""
    for name in ("FAREGATE_CONFIG", "REDIS_URL", "FAREGATE_STORE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.mark.parametrize(
    ("address", "guess"),
    [
        ("localhost:6379", "redis://localhost:6379"),
        ("127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        (":6379", "redis://:6379"),
        ("//localhost:6379", "redis://localhost:6379"),
        ("http://localhost:6379", "redis://localhost:6379"),
        ("redis:/localhost:6379", "redis://localhost:6379"),
        ("redis:localhost", "redis://localhost"),
        ("REDISS://h", "rediss://h"),
        ("unix:/run/redis.sock", "unix:///run/redis.sock"),
        ("postgres://h/db", "redis://h/db"),
        ("sqlite://", "sqlite:///path/of/the/ledger.sqlite"),
        ("fare:s3cret@h:6379", "redis://***@h:6379"),
        ("http://fare:s3cret@h:6379", "redis://***@h:6379"),
    ],
)
def test_a_mistyped_address_is_no_file(address: str, guess: str) -> None:
    """It would be made as a local file, with a budget for this process alone."""
    with pytest.raises(ValueError, match="is no store") as caught:
        read_store(address)
    assert str(caught.value).endswith(f'did you mean "{guess}"?')
    assert "s3cret" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"store: .* is no store"):
        open_ledger(address)


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("books.sqlite", "books.sqlite"),
        ("/data/my@books:2.sqlite", "/data/my@books:2.sqlite"),
        ("sqlite:///data/l.sqlite", "/data/l.sqlite"),
        ("sqlite:////data/l.sqlite", "/data/l.sqlite"),
        ("sqlite://l.sqlite", "l.sqlite"),
        ("file:/data/l.sqlite", "/data/l.sqlite"),
        ("redis://h:6379/0", None),
        ("rediss://h", None),
        ("unix:///run/redis.sock", None),
    ],
)
def test_an_address_is_a_server_or_a_file(address: str, path: str | None) -> None:
    """As it is written in the documentation."""
    assert read_store(address) == path
    assert isinstance(open_ledger(address), RedisLedger if path is None else SqliteLedger)


def test_what_follows_the_database_is_no_address() -> None:
    """Two ledgers that were meant to be two would be one."""
    with pytest.raises(ConfigError, match="expected redis://host:port/db"):
        open_ledger("redis://h:6379/0/1")


def test_redis_url_names_a_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name without a scheme would be a file of that name."""
    assert redis_problem("redis://localhost") == ""
    assert 'did you mean "redis://localhost"?' in redis_problem("localhost")
    assert 'did you mean "redis://localhost:6379"?' in redis_problem("localhost:6379")
    assert without_password("redis://u:p@h") == "redis://***@h"
    monkeypatch.setenv("REDIS_URL", "localhost")
    with pytest.raises(ConfigError, match=r"REDIS_URL: .* is no store"):
        choose_store(None, None)
    with pytest.raises(ConfigError, match=r"REDIS_URL: .* is no store"):
        discover_snapshot(environ={"REDIS_URL": "localhost:6379"})


@pytest.mark.parametrize("verb", ["check", "serve"])
@pytest.mark.parametrize(
    ("server", "environ", "said"),
    [
        ("server: {store: 'http://localhost:6379'}", {}, "r.yaml:2:17: server.store: "),
        ("server: {store: 'redis:/localhost:6379'}", {}, 'did you mean "redis://localhost:6379"?'),
        ("", {"REDIS_URL": "localhost:6379"}, ": REDIS_URL: "),
        ("", {"FAREGATE_STORE": "localhost:6379"}, ": FAREGATE_STORE: "),
    ],
)
def test_check_and_serve_refuse_what_is_no_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, server: str, environ: dict[str, str], said: str
) -> None:
    """Before anything is served from books that nobody else reads."""
    file = tmp_path / "r.yaml"
    file.write_text(SIMULATED.replace("version: 1", f"version: 1\n{server}"))
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(cli.load(verb), [str(file)])
    assert result.exit_code == 1
    assert said in result.output + str(result.exception)


def test_a_relative_store_lies_beside_its_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same file, wherever the process was started."""
    (tmp_path / "conf").mkdir()
    file = tmp_path / "conf" / "r.yaml"
    file.write_text(SIMULATED.replace("version: 1", "version: 1\nserver: {store: books/l.sqlite}"))
    monkeypatch.chdir(tmp_path)
    assert load_snapshot("conf/r.yaml").server.store == str(tmp_path / "conf" / "books" / "l.sqlite")
    assert choose_store(None, "conf/r.yaml") == str(tmp_path / "conf" / "books" / "l.sqlite")
    monkeypatch.setenv("FAREGATE_STORE", "l.sqlite")
    file.write_text(SIMULATED)
    assert store_of(load_snapshot("conf/r.yaml")) == str(tmp_path / "l.sqlite")


def test_simulated_models_have_books_of_their_own(tmp_path: Path) -> None:
    """Simulated money must not use up real budgets, also when a file names the models."""
    file = tmp_path / "r.yaml"
    file.write_text(SIMULATED)
    assert store_of(load_snapshot(str(file))) == choose_store(None, str(file)) == simulated_store()
    file.write_text(SIMULATED.replace("[sim]", "{sim: {}, ollama: {}}"))
    assert choose_store(None, str(file)) == str(tmp_path / "state" / "faregate" / "ledger.sqlite")


def test_commands_without_a_configuration_find_or_name_the_simulated_ledger(capsys: pytest.CaptureFixture[str]) -> None:
    """After a first try with simulated models, `spend` must show them and not an empty book."""
    real = Path(choose_store(None, None))
    simulated = Path(simulated_store())
    simulated.parent.mkdir(parents=True)
    simulated.touch()
    assert choose_store(None, None) == str(simulated)
    assert str(simulated) in capsys.readouterr().err
    real.touch()
    assert choose_store(None, None) == str(real)
    assert capsys.readouterr().err == f"There is also a ledger of simulated models: --store {simulated}\n"


def test_a_new_key_says_where_it_is_known(tmp_path: Path) -> None:
    """Without a configuration it may be kept in another ledger than the one that is served."""
    result = CliRunner().invoke(cli.load("keys"), ["new", "ci"])
    assert str(tmp_path / "state" / "faregate" / "ledger.sqlite") in result.stderr
    assert "No configuration was named" in result.stderr
    file = tmp_path / "r.yaml"
    file.write_text(SIMULATED)
    result = CliRunner().invoke(cli.load("keys"), ["new", "ci", "--config", str(file)])
    assert f"Kept in {simulated_store()}" in result.stderr
    assert "No configuration was named" not in result.stderr


async def test_a_limit_that_another_process_finds_changed_is_logged(tmp_path: Path) -> None:
    """The last to start decides for all: whoever changes a limit says so."""
    text = SIMULATED + f"server: {{store: {tmp_path / 'l.sqlite'}}}\n"
    async with running(tmp_path, text) as run:
        assert (await run.ask()).status_code == 200
    with capture_logs() as logs:
        async with running(tmp_path, text):
            pass
        assert [line for line in logs if "change" in line] == []
        async with running(tmp_path, text.replace("$1/day", "$2/day")):
            pass
    assert [line["change"] for line in logs if "change" in line] == ["everyone: 1.00 USD -> 2.00 USD"]
