"""The admin API over real HTTP: who may do what, what changes, what is told of it, and what hostile input meets."""

from __future__ import annotations

import asyncio
import csv
import json
import re
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from router.admin.office import Office
from router.commands.serve import loaded
from router.serving import RunningApp
from router.settings import load_snapshot
from router.snapshot import Snapshot
from tests.gateway import KEY
from tests.running import PROVIDER_KEY, chat
from tests.scripted_behaviours import Gate, Json
from tests.scripted_upstream import ScriptedUpstream

CONFIG = """
version: 1
server: {store: "STORE", record_decisions: 100%, log_requests: false, ADMIN}
providers:
  up: {kind: openai, base_url: "UP", api_key: $PROVIDER_KEY}
models:
  m: {at: up/m, price: {input: 10, output: 10}, default_max_output: 100}
budgets:
  everyone: {limit: $5}
  per-key: {limit: $1, each: key}
teams:
  search: {budget: $2/month, rpm: 1000}
keys:
  tester: {secret: $TEST_KEY, team: search}
limits: {each_key: {rpm: 100000}}
admins:
  alice: {secret: $ALICE, role: admin}
  oscar: {secret: $OSCAR, role: operator}
  vera: {secret: $VERA, role: viewer}
"""
SECRETS = {name: f"{name.lower()}-secret-0123456789-0123456789" for name in ("ALICE", "OSCAR", "VERA")}
ENVIRONMENT = SECRETS | {"PROVIDER_KEY": PROVIDER_KEY, "TEST_KEY": KEY}
ROLES = {"viewer": SECRETS["VERA"], "operator": SECRETS["OSCAR"], "admin": SECRETS["ALICE"]}
RANK = ["viewer", "operator", "admin"]


@dataclass(slots=True)
class Desk:
    """A service with administrators, and clients of each role."""

    app: RunningApp
    up: ScriptedUpstream
    file: Path
    admin: httpx.AsyncClient

    @property
    def root(self) -> str:
        return str(self.admin.base_url).removesuffix("/admin/v1/")

    async def ask(self, key: str = KEY) -> httpx.Response:
        """A call for a model."""
        async with httpx.AsyncClient(timeout=60) as client:
            return await client.post(f"{self.app.base_url}/chat/completions", json=chat(), headers=bearer(key))

    async def get(self, path: str, **query: str) -> Any:
        answer = await self.admin.get(path, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def post(self, path: str, status: int = 200, **body: object) -> Any:
        answer = await self.admin.post(path, json=body)
        assert answer.status_code == status, answer.text
        return answer.json()


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


@pytest.fixture(params=["own port"])
async def desk(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    own = request.param == "own port"
    async with ScriptedUpstream(default=Json()) as up:
        file = tmp_path / "router.yaml"
        text = CONFIG.replace("UP", up.base_url).replace("STORE", str(tmp_path / "ledger.sqlite"))
        file.write_text(text.replace("ADMIN", "admin: {port: 0}" if own else "admin: {}"))

        async with RunningApp(load_snapshot(str(file)), port=0, load=lambda: load_snapshot(str(file))) as app:
            office = app.service._office
            assert isinstance(office, Office)
            root = f"http://127.0.0.1:{office.port}" if own else app.base_url.removesuffix("/v1")
            async with httpx.AsyncClient(base_url=f"{root}/admin/v1", timeout=60, headers=bearer(SECRETS["ALICE"])) as client:
                yield Desk(app, up, file, client)


def endpoints(told: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(method, path, least role) of everything that the description names."""
    found = []
    for path, methods in told["paths"].items():
        filled = path.replace("{budget}", "everyone").replace("{target}", "team=search").replace("{version}", "0123456789ab")
        for method, about in methods.items():
            found.append((method.upper(), re.sub(r"\{\w+\}", "nothing1", filled), about["x-role"]))
    return found


async def test_every_endpoint_lets_in_its_roles_and_nobody_else(desk: Desk) -> None:
    """One forgotten check would let a dashboard's credential mint keys. The list is what is served, not what we remember."""
    async with httpx.AsyncClient(base_url=desk.root, timeout=60) as client:
        told = (await client.get("/admin/openapi.json")).json()
        assert len(endpoints(told)) >= 30
        for method, path, role in endpoints(told):
            nobody = await client.request(method, path, json={})
            assert (nobody.status_code, nobody.json()["error"]["code"]) == (401, "invalid_admin_credential"), path
            for name, secret in ROLES.items():
                answer = await client.request(method, path, json={}, headers=bearer(secret))
                may = RANK.index(name) >= RANK.index(role)
                assert (answer.status_code == 403) == (not may), (method, path, name, answer.text)
                assert answer.status_code not in (401, 405, 500), (method, path, name, answer.text)
                if not may:
                    error = answer.json()["error"]
                    assert (error["code"], role in error["message"]) == ("role_not_allowed", True)
                assert answer.headers["cache-control"] == "no-store"
        # A client's key is nobody here, and an administrator's secret buys nothing.
        assert (await client.get("/admin/v1/me", headers=bearer(KEY))).status_code == 401
        assert (await desk.ask(SECRETS["ALICE"])).status_code == 401
        assert (await client.get(f"{desk.app.base_url.removesuffix('/v1')}/admin/v1/me")).status_code == 404


@pytest.mark.parametrize("desk", ["main port"], indirect=True)
async def test_without_a_port_of_its_own_it_is_below_admin(desk: Desk) -> None:
    """Long and chunked bodies too, which the main port reads for known keys only; what is not below it stays as it was."""
    assert await desk.get("me") == {"name": "alice", "role": "admin"}

    async def chunks() -> AsyncIterator[bytes]:
        yield b'{"target": "team=search", '
        yield b'"reason": "wild"}'

    made = await desk.admin.post("freezes", content=chunks(), headers={"content-type": "application/json"})
    assert made.json()["data"][0]["by"] == "alice"
    assert (await desk.ask()).status_code == 403
    assert (await desk.admin.get(f"{desk.root}/livez")).json() == {"status": "ok"}
    assert (await desk.admin.get(f"{desk.root}/admin")).status_code == 404


async def test_changes_take_effect_and_are_audited(desk: Desk) -> None:
    """Who changed what, when and why: each change is one line, under the administrator's name."""
    await desk.post("budgets/everyone/set", amount="0usd", reason="stop")
    assert (await desk.ask()).status_code == 402
    made = await desk.post("budgets/everyone/raise", amount="50usd", reason="go", until="2h")
    assert (made["before"], made["after"]) == ("0.00", "50.00")
    assert (await desk.ask()).status_code == 200
    card = await desk.get("budgets/everyone")
    assert [change["change"] for change in card["changes"]] == ["set to 0.00 USD", "+50.00 USD"]
    assert (card["configured_limit"], card["limit"]) == ("5.00", "50.00")

    async def spent() -> str:
        return str((await desk.get("budgets/everyone"))["instances"][0]["spent"])

    # A call is settled after its answer has gone out.
    await until(spent, "0.00014")
    assert (await desk.get("budgets/search"))["name"] == "team/search"
    await desk.post("budgets/everyone/reset", reason="as it was")
    await desk.post("budgets/team:search:rpm/lower", amount="1", reason="slower")
    frozen = await desk.post("freezes", target="team=search", reason="wild", until="3h")
    assert [each["target"] for each in frozen["data"]] == ["team=search"]
    assert (await desk.admin.delete("freezes/team=search", params={"reason": "calm"})).json() == {"data": []}
    await desk.post("drains", target="up/m", reason="odd")
    assert (await desk.admin.delete("drains/up/m")).json() == {"data": []}
    assert (await desk.get("stops"))["data"] == []
    assert (await desk.admin.post("stops", json={"target": "auto/default/new", "reason": "x"})).status_code == 405
    service = desk.app.service
    service.fleet.memory.experiments.unsaid["auto", "default", "new", ""] = "cost"
    await service.controls.poll()
    assert [(each["target"], each["reason"], each["by"]) for each in (await desk.get("stops"))["data"]] == [
        ("auto/default/new", "cost", "faregate")
    ]
    assert (await desk.admin.delete("stops/auto/default/new", params={"reason": "mended"})).json() == {"data": []}
    assert (await desk.admin.delete("stops/auto/default/new")).status_code == 400
    audit = (await desk.get("audit", who="alice"))["data"]
    assert [(line["action"], line["target"]) for line in reversed(audit)] == [
        ("budget.set", "everyone"),
        ("budget.raise", "everyone"),
        ("budget.reset", "everyone"),
        ("budget.lower", "team:search:rpm"),
        ("freeze", "team=search"),
        ("unfreeze", "team=search"),
        ("drain", "up/m"),
        ("undrain", "up/m"),
        ("experiment.resume", "auto/default/new"),
    ]
    assert {line["via"] for line in audit} == {"admin"}
    assert audit[-1]["reason"] == "stop"
    assert (await desk.admin.post("budgets/nothing/raise", json={"amount": "1usd", "reason": "x"})).status_code == 400


async def test_many_instances_are_read_some_at_a_time(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is told is the same: the fullest first, and how many there are."""
    keys = [(await desk.post("keys", 201, name=f"k{number}", team="search"))["key"] for number in range(3)]
    for times, key in enumerate(keys, 1):
        for _ in range(times):
            assert (await desk.ask(key)).status_code == 200

    async def spent() -> list[str]:
        return [each["spent"] for each in (await desk.get("budgets/per-key"))["instances"]]

    await until(spent, ["0.00042", "0.00028", "0.00014"])
    before = [await desk.get("budgets", instances="2"), await desk.get("budgets/per-key", instances="1")]
    assert [before[1]["instances"][0]["spent"], before[1]["instances_total"]] == ["0.00042", 3]
    monkeypatch.setattr("router.admin.budgets.MANY", 0)
    assert [await desk.get("budgets", instances="2"), await desk.get("budgets/per-key", instances="1")] == before


async def test_the_books_are_read_by_page_by_request_and_as_csv(desk: Desk) -> None:
    """What a support case needs: from the id in an answer to what it cost and why it went there."""
    ids = [(await desk.ask()).headers["x-faregate-request-id"] for _ in range(5)]
    async with asyncio.timeout(20):
        while len((await desk.get("records"))["data"]) < 5:
            await asyncio.sleep(0.02)
    pages, cursor = [], ""
    while cursor is not None:
        page = await desk.get("records", limit="2", filter="team=search", **({"cursor": cursor} if cursor else {}))
        pages += page["data"]
        cursor = page["next"]
    assert [record["request_id"] for record in pages] == ids
    assert (await desk.get("records", filter="team=other"))["data"] == []
    one = await desk.get(f"requests/{ids[0]}")
    assert (one["cost_usd"], len(one["attempts"])) == ("0.00014", 1)
    assert one["decision"]["decision"]["order"][0]["deployment"] == "up/m"
    spend = await desk.get("spend", by="team,key", since="1h")
    assert [(row["group"], row["cost_usd"]) for row in spend["rows"]] == [({"team": "search", "key": "tester"}, "0.0007")]
    assert (await desk.admin.get("spend.csv", params={"by": "key"})).text.splitlines()[1].startswith("tester,5,5,")
    lines = (await desk.admin.get("records.csv")).text.splitlines()
    assert len(lines) == 6
    assert lines[0].startswith("entry_id,day,attempt_id,request_id")
    (first, *_) = csv.DictReader(lines)
    assert json.loads(first["buckets"]) == pages[0]["buckets"], "long cells are whole: programs read them"
    assert first["stream"] == "false", "as in the files of an export"
    for path, query in (
        ("spend", {"by": "nonsense"}),
        ("records", {"cursor": "x"}),
        ("records", {"cursor": "0.0.1-1"}),
        ("records", {"cursor": "0.0.999999.01234567"}),
        ("records", {"cursor": "٣.0."}),
        ("records", {"since": "soon"}),
        ("audit", {"limit": "0"}),
    ):
        answer = await desk.admin.get(path, params=query)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, *{name.replace("limit", "limit") for name in query}), (
            answer.text
        )


async def test_a_record_of_another_release_does_not_keep_the_others_from_being_shown(desk: Desk, tmp_path: Path) -> None:
    """After a step back to an older release, its pages go on."""
    for _ in range(3):
        await desk.ask()
    async with asyncio.timeout(20):
        while len((await desk.get("records"))["data"]) < 3:
            await asyncio.sleep(0.02)
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as db, db:
        db.execute("UPDATE log SET record = ? WHERE seq = (SELECT min(seq) FROM log)", (b'{"route": 5}',))
    assert len((await desk.get("records"))["data"]) == 2


async def test_moments_beyond_the_calendar_are_refused_and_lists_go_on(desk: Desk) -> None:
    """One entry that cannot be shown would take all others with it, for good."""
    late = "9999-12-31T23:59:59-23:59"
    for path, body in (
        ("keys", {"name": "x", "expires": "999999w"}),
        ("keys", {"name": "x", "expires": late}),
        ("freezes", {"target": "team=search", "reason": "x", "until": late}),
        ("budgets/everyone/raise", {"amount": "1usd", "reason": "x", "until": late}),
    ):
        assert "beyond the year 9999" in (await desk.post(path, status=400, **body))["error"]["message"]
    for path in ("keys", "freezes", "budgets", "audit"):
        await desk.get(path)
    for moment in (late, "0001-01-01T00:00:00+23:59", "99999w"):
        for path in ("spend", "audit", "records"):
            await desk.get(path, since=moment, until=moment)


async def test_hostile_input_is_refused_in_one_shape_and_nothing_leaks(desk: Desk, capfd: pytest.CaptureFixture[str]) -> None:
    """Whoever can reach the port can send anything; names end up in terminals, logs and spreadsheets."""
    seen: list[str] = []

    async def refused(status: int, method: str, path: str, **more: Any) -> None:
        answer = await desk.admin.request(method, path, **more)
        seen.append(answer.text)
        assert answer.status_code == status, answer.text
        assert {"message", "type", "param", "code"} <= set(answer.json()["error"])

    await refused(413, "POST", "keys", json={"name": "x" * 70_000})

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b'{"name": "' + b"x" * 20_000

    await refused(413, "POST", "keys", content=chunks(), headers={"content-type": "application/json"})
    for body in (b"{{{", b"[" * 30_000, b"\xff\xfe", b'{"name": NaN', b"[]", b'"x"', b""):
        await refused(400, "POST", "keys", content=body, headers={"content-type": "application/json"})
    for name in ("\x1b[2Jx", "a\nb", " ", "", "x" * 200, 7, None, {"$ne": ""}):
        await refused(400, "POST", "keys", json={"name": name})
    await refused(400, "POST", "keys", json={"name": "x", "team": "'; DROP TABLE log; --"})
    await refused(400, "POST", "keys", json={"name": "x", "models": ["../../etc/passwd"]})
    await refused(400, "POST", "keys", json={"name": "x", "secret_hmac": "0" * 64})
    await refused(400, "POST", "freezes", json={"target": "host=evil", "reason": "x"})
    await refused(400, "POST", "freezes", json={"target": "team=serach", "reason": "x"})
    await refused(400, "POST", "drains", json={"target": "upp", "reason": "x"})
    await refused(400, "POST", "freezes", json={"target": "all", "reason": "\x1b]0;evil\x07"})
    await refused(400, "POST", "budgets/everyone/raise", json={"amount": "1e400usd", "reason": "x"})
    await refused(400, "POST", "budgets/everyone/raise", json={"amount": "5usd", "reason": "x", "until": "9999999d"})
    for how in ("raise", "lower", "set"):
        await refused(400, "POST", f"budgets/everyone/{how}", json={"amount": "-5usd", "reason": "x"})
    await refused(400, "POST", "keys", json={"name": "x", "limits": {"per-key": "-5usd"}})
    await refused(404, "GET", "keys/")
    await refused(404, "GET", "keys/..%2F..%2Fetc")
    await refused(404, "POST", f"keys/{KEY}/revoke", json={})
    await refused(404, "GET", "requests/' OR 1=1")
    await refused(400, "POST", "config/rollback", json={"version": "../../etc", "reason": "x"})
    assert (await desk.get("keys"))["data"][0]["id"] == "tester"
    assert len((await desk.get("keys"))["data"]) == 1
    wrong = [await desk.admin.get("me", headers=bearer(f"guess-{number:030}")) for number in range(12)]
    assert [answer.status_code for answer in wrong] == [401] * 10 + [429] * 2
    assert int(wrong[-1].headers["retry-after"]) >= 1
    output = capfd.readouterr()
    for secret in (*SECRETS.values(), KEY, PROVIDER_KEY, "guess-"):
        assert secret not in "".join(seen) + output.out + output.err


async def test_keys_are_minted_rotated_and_revoked(desk: Desk) -> None:
    """A secret is shown once; a rotation keeps id and spending, and both secrets work until the overlap is over."""
    limits = {"per-key": "0.0021usd", "each_key:rpm": "3"}
    made = await desk.post("keys", 201, name="night job", team="search", tags={"kind": "batch"}, expires="30d", limits=limits)
    first, key_id = made["key"], made["card"]["id"]
    assert first.startswith(f"sk-fg-{key_id}-")
    assert made["card"]["limits"] == {"per-key": "0.0021", "each_key:rpm": "3"}
    # Limits of its own: two calls would be 0.00028 USD, and one more could cost 0.00192 USD.
    assert [(await desk.ask(first)).status_code for _ in range(3)] == [200, 200, 402]
    await desk.post("budgets/per-key/reset", scope=f"key={key_id}", reason="enough")
    assert [(await desk.ask(first)).status_code for _ in range(2)] == [200, 429]
    await desk.post("budgets/each_key:rpm/reset", scope=f"key={key_id}", reason="enough")
    await desk.post("budgets/per-key/set", amount="3usd", scope=f"key={key_id}", reason="more")
    for wrong in ({"everyone": "5usd"}, {"per-key": "5"}, {"nothing": "5usd"}):
        assert (await desk.admin.post("keys", json={"name": "x", "limits": wrong})).status_code == 400
    second = (await desk.post(f"keys/{key_id}/rotate", overlap="1h", reason="quarter"))["key"]
    assert [(await desk.ask(key)).status_code for key in (first, second)] == [200, 200]
    third = (await desk.post(f"keys/{key_id}/rotate", overlap="0s"))["key"]

    async def statuses() -> list[int]:
        return [(await desk.ask(key)).status_code for key in (first, second, third)]

    await until(lambda: statuses(), [401, 401, 200])
    shown = await desk.get(f"keys/{key_id}")
    assert (shown["state"], shown["previous_secret_until"], shown["source"]) == ("active", None, "minted")
    assert (await desk.post(f"keys/{key_id}/revoke", reason="it leaked"))["limits"] == {}
    await until(lambda: statuses(), [401, 401, 401])
    assert (await desk.admin.post(f"keys/{key_id}/rotate", json={})).status_code == 400
    assert (await desk.admin.post("keys/tester/revoke", json={})).status_code == 404
    audit = json.dumps((await desk.get("audit"))["data"]) + json.dumps(await desk.get("keys")) + desk.file.read_text()
    for secret in (first, second, third):
        assert secret.partition("-")[2][3 + 9 :] not in audit
    assert [line["action"] for line in (await desk.get("audit", since="1h"))["data"] if line["action"].startswith("key.")] == [
        "key.revoke",
        "key.rotate",
        "key.rotate",
        "key.mint",
    ]


async def until(look: Any, wanted: object) -> None:
    deadline = time.monotonic() + 20
    while (found := await look()) != wanted:
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.05)


async def test_a_configuration_is_reloaded_refused_and_rolled_back(desk: Desk) -> None:
    """A bad file changes nothing and is told with every finding; an old version comes back by one request, and goes by another."""
    text = desk.file.read_text()
    first = (await desk.get("config"))["version"]
    desk.file.write_text(text.replace("at: up/m", "at: nobody/m"))
    refused = await desk.admin.post("config/reload", json={"reason": "try"})
    assert refused.status_code == 400
    assert 'there is no provider "nobody"' in refused.json()["error"]["findings"][0]
    ready = (await desk.admin.get(f"{desk.app.base_url.removesuffix('/v1')}/readyz")).json()
    assert (ready["status"], ready["config_version"], "was refused at" in ready["notes"][0]) == ("ready", first, True)
    desk.file.write_text(text.replace("limit: $5}", "limit: $7}"))
    second = (await desk.post("config/reload"))["version"]
    assert second != first
    assert (await desk.get("budgets/everyone"))["limit"] == "7.00"
    await until(lambda: kept(desk), [second, first])
    assert (await desk.get(f"config/versions/{first}"))["configuration"]["budgets"]["everyone"]["limit"] == "$5.00"
    back = await desk.post("config/rollback", version=first, reason="too dear")
    assert (back["version"], back["pin"]["by"], back["pin"]["reason"]) == (first, "alice", "too dear")
    assert (await desk.get("budgets/everyone"))["limit"] == "5.00"
    await _starts_with(first, desk)
    await _stays_over_a_broken_file(first, desk)
    desk.file.write_text(text.replace("limit: $5}", "limit: $9}"))
    assert (await desk.post("config/reload"))["version"] == first
    assert (await desk.post("config/unpin", reason="mended"))["pin"] is None
    assert (await desk.get("budgets/everyone"))["limit"] == "9.00"
    assert (await desk.admin.post("config/unpin", json={})).status_code == 400
    actions = [line["action"] for line in (await desk.get("audit", who="alice"))["data"]]
    assert actions == ["config.unpin", "config.reload", "config.reload", "config.rollback", "config.reload", "config.reload"]
    desk.file.write_text(text.replace("  oscar: {secret: $OSCAR, role: operator}\n", ""))
    without = (await desk.post("config/reload"))["version"]
    await until(lambda: newest(desk), without)
    desk.file.write_text(text)
    await desk.post("config/reload")
    locked = await desk.admin.post("config/rollback", json={"version": without, "reason": "x"}, headers=bearer(SECRETS["OSCAR"]))
    assert (locked.status_code, "could not take it back" in locked.text) == (400, True)


async def _stays_over_a_broken_file(version: str, desk: Desk) -> None:
    """A roll-back is needed most where the file is broken: neither a reload, nor a try to end it, nor a restart loses it."""
    desk.file.write_text(desk.file.read_text() + "broken: [\n")
    for change, word in (("reload", "stays in force"), ("unpin", "mend it first")):
        refused = await desk.admin.post(f"config/{change}", json={"reason": "try"})
        assert (refused.status_code, word in refused.json()["error"]["message"]) == (400, True)
        assert "not valid YAML" in refused.json()["error"]["findings"][0]
        status = await desk.get("config")
        assert (status["version"], status["pin"]["version"]) == (version, version)
    await _starts_with(version, desk)


async def _starts_with(version: str, desk: Desk) -> None:
    """What people rolled back to outlives the process; whoever looks at it is told."""

    def load() -> Snapshot:
        return load_snapshot(str(desk.file))

    async with (
        RunningApp(await asyncio.to_thread(loaded, str(desk.file), quiet=True), port=0, load=load) as again,
        httpx.AsyncClient() as client,
    ):
        ready = (await client.get(f"{again.base_url.removesuffix('/v1')}/readyz")).json()
    assert (ready["config_version"], ready["notes"]) == (version, [f"the configuration was rolled back to version {version}"])


async def newest(desk: Desk) -> str:
    return (await kept(desk))[0]


async def kept(desk: Desk) -> list[str]:
    return [each["version"] for each in (await desk.get("config/versions"))["data"]]


async def test_calls_under_way_are_shown_with_what_is_held(desk: Desk) -> None:
    """What would be cut off by a restart now, and whose it is."""
    gate = Gate()
    desk.up.default = Json(before=gate)
    asking = asyncio.create_task(desk.ask())
    await desk.up.until_seen(1)
    shown = await desk.get("holds")
    (hold,) = shown["data"]
    assert (hold["deployment"], hold["team"], hold["key_id"], hold["state"]) == ("up/m", "search", "tester", "held")
    assert float(hold["held_usd"]) > 0
    assert shown["held_usd"] == hold["held_usd"]
    gate.open()
    assert (await asking).status_code == 200
