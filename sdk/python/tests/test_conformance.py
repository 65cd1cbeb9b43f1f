"""The conformance vectors that every SDK is held to, against real queue-proxies. See `conformance/README.md`."""

import hashlib
import json
import time
from datetime import datetime, timedelta, timezone

import pytest
from world import REPOSITORY, World

import zipline_sdk
from zipline_sdk import Client, PayloadWriter, Reference, Response

PIECE_BYTES = 100_000
STEP_FIELDS = {
    "op", "at", "payload", "how", "retrievals", "ttl_ms", "content_type", "save", "reference", "reference_text", "range", "receiver",
    "slot", "service", "path", "method", "headers", "payloads", "parallel", "references", "consumers", "environment", "expect",
}  # fmt: skip
EXPECT_FIELDS = {
    "error", "size", "prefix", "count", "payload", "slice", "payloads", "content_type", "retrievals_left", "expires_in_ms", "status",
    "text", "json",
}  # fmt: skip

VECTORS = json.loads((REPOSITORY / "conformance" / "vectors" / "sdk.json").read_text())
assert VECTORS["schema"] == 1, "this runner reads schema 1"


def generated(definition):
    if "text" in definition:
        data = definition["text"].encode()
    else:
        count = -(-definition["length"] // 32)
        seed = definition["seed"]
        data = b"".join(hashlib.sha256(f"{seed}:{i}".encode()).digest() for i in range(count))[: definition["length"]]
    assert len(data) == definition["length"] and hashlib.sha256(data).hexdigest() == definition["sha256"]
    return data


PAYLOADS = {name: generated(definition) for name, definition in VECTORS["payloads"].items()}


def function(client, request):
    """The function of the conformance world, written with the SDK's `serve`."""
    if request.path == "/echo":
        return Response(request.payload)
    if request.path == "/describe":
        described = {
            "method": request.method,
            "target": request.target,
            "content_type": request.headers.get("Content-Type"),
            "x-test": request.headers.get("X-Test"),
            "size": len(request.payload),
            "sha256": hashlib.sha256(request.payload.view).hexdigest(),
        }
        return Response.of(json.dumps(described), content_type="application/json")
    if request.path.startswith("/status/"):
        status = request.path[len("/status/") :]
        return Response.of(f"status {status}", status=int(status))
    if request.path == "/put":
        return client.put(request.payload)
    return Response.of("no such path", status=404)


@pytest.fixture(scope="module")
def worlds(module_scratch, stores):
    """Worlds by name and transfer method; a case of theirs leaves nothing behind that another could see."""
    made = {}

    def world(name, transfer):
        if (name, transfer) not in made:
            variables = stores.variables(transfer)
            folder = module_scratch / str(len(made))
            folder.mkdir()
            made[name, transfer] = World(folder, function, VECTORS["worlds"][name], variables)
        return made[name, transfer]

    yield world
    for each in made.values():
        each.stop()


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["name"])
def test_case(case, worlds):
    run = Run(worlds(case["world"], case["transfer"]))
    for index, step in enumerate(case["steps"]):
        assert set(step) <= STEP_FIELDS and set(step.get("expect", {})) <= EXPECT_FIELDS, f"step {index}: unknown fields"
        run.step(index, step)


class Run:
    """One case: what its steps have saved."""

    def __init__(self, world):
        self.world = world
        self.saved = {}
        self.expiries = {}

    def step(self, index, step):
        expect = step.get("expect", {})
        where = f"step {index} {step}"
        try:
            result = getattr(self, "op_" + step["op"])(step, self.world.clients.get(step.get("at")))
        except zipline_sdk.ZiplineError as error:
            assert error.name == expect.get("error"), f"{where}: {error}"
            known = zipline_sdk.ERRORS_BY_NAME.get(error.name)
            if known is not None:
                told = (error.status, error.retry, error.fault)
                assert isinstance(error, known) and told == (known.status, known.retry, known.fault), where
            return
        assert "error" not in expect, f"{where}: it succeeded"
        check(expect, result, where)

    def reference(self, step):
        if "reference_text" in step:
            return Reference(step["reference_text"])
        return self.saved_reference(step["reference"])

    def saved_reference(self, name):
        name, _, index = name.partition(".")
        return self.saved[name][int(index)] if index else self.saved[name]

    def save(self, step, value):
        if "save" in step:
            self.saved[step["save"]] = value

    def payload(self, step):
        """The step's payload, in the way it says."""
        data = PAYLOADS[step.get("payload", "empty")]
        if step.get("how") == "writer":
            writer = PayloadWriter(content_type=step.get("content_type"))
            for first in range(0, len(data), PIECE_BYTES):
                writer.write(data[first : first + PIECE_BYTES])
            return writer.finish()
        return data

    def op_put(self, step, client):
        options = {"retrievals": step.get("retrievals", 1), "content_type": step.get("content_type")}
        if "ttl_ms" in step:
            options["ttl"] = step["ttl_ms"] / 1000
        if step.get("how") == "stream":
            data = PAYLOADS[step["payload"]]
            pieces = (data[first : first + PIECE_BYTES] for first in range(0, len(data), PIECE_BYTES))
            receipt = client.put_stream(pieces, **options)
        else:
            receipt = client.put_with_receipt(self.payload(step), **options)
        self.save(step, receipt.reference)
        self.expiries[step.get("save")] = receipt.expires
        return {"reference": receipt.reference, "size": receipt.size, "expires": receipt.expires}

    def op_open(self, step, client):
        receipt, writer = client.open()
        self.save(step, receipt.reference)
        self.saved[step["save"] + "/writer"] = writer
        return {"reference": receipt.reference, "size": receipt.size}

    def op_write(self, step, _):
        data = PAYLOADS[step["payload"]]
        self.saved[step["reference"] + "/writer"].write(data[first : first + PIECE_BYTES] for first in range(0, len(data), PIECE_BYTES))
        return {}

    def op_get(self, step, client):
        part = step.get("range")
        payload = client.get(self.reference(step), range=(part["first"], part["length"]) if part else None)
        return {"payload": payload, "size": len(payload), "content_type": payload.content_type}

    def op_stat(self, step, client):
        stat = client.stat(self.reference(step))
        return {"size": stat.size, "retrievals_left": stat.retrievals_left, "expires": stat.expires}

    def op_release(self, step, client):
        client.release(self.reference(step))
        return {}

    def op_narrow(self, step, client):
        narrowing = {name: step[name] for name in ("receiver", "slot") if name in step}
        if "range" in step:
            narrowing["range"] = (step["range"]["first"], step["range"]["length"])
        if "ttl_ms" in step:
            narrowing["expires"] = datetime.now(timezone.utc) + timedelta(milliseconds=step["ttl_ms"])
            self.expiries[step.get("save")] = narrowing["expires"]
        reference = client.narrow(self.reference(step), **narrowing)
        self.save(step, reference)
        return {"reference": reference}

    def op_await_expiry(self, step, _):
        # It is told from the beginning of a put; a store counts from when the value has come, on a busy machine later.
        expiry = self.expiries[step["reference"]] + timedelta(seconds=0.3)
        while (left := (expiry - datetime.now(timezone.utc)).total_seconds()) >= 0:
            time.sleep(left + 0.005)  # Wall time is what is waited for.
        return {}

    def op_tamper(self, step, _):
        token = self.reference(step)
        middle = len(token) // 2
        self.save(step, Reference(token[:middle] + ("B" if token[middle] == "A" else "A") + token[middle + 1 :]))
        return {}

    def op_invoke(self, step, client):
        reference = self.saved_reference(step["reference"]) if "reference" in step else None
        answer = client.invoke(
            step["service"], self.payload(step), path=step.get("path", "/"), method=step.get("method", "POST"),
            headers=step.get("headers"), reference=reference,
        )  # fmt: skip
        result = {"status": answer.status, "payload": answer.payload}
        if "save" in step:
            self.save(step, Reference(answer.payload.text()))
            result["reference"] = self.saved[step["save"]]
        return result

    def op_scatter(self, step, client):
        references = client.scatter([PAYLOADS[name] for name in step["payloads"]], parallel=step.get("parallel", 8))
        self.save(step, references)
        return {"references": references}

    def op_gather(self, step, client):
        return {"payloads": client.gather(self.saved[step["references"]], parallel=step.get("parallel", 8))}

    def op_broadcast(self, step, client):
        references = client.broadcast(PAYLOADS[step["payload"]], step["consumers"])
        self.save(step, references)
        return {"references": references}

    def op_configure(self, step, _):
        variables = {name: value.replace("{producer}", self.world.producer.api) for name, value in step["environment"].items()}
        Client.from_env(variables).close()
        return {}


def check(expect, result, where):
    """Every field of an expectation against what a step gave."""
    references = result.get("references", [result["reference"]] if "reference" in result else [])
    for field, value in expect.items():
        if field == "prefix":
            assert references and all(reference.startswith(value) for reference in references), where
        elif field == "count":
            assert len(references) == value, where
        elif field == "payload":
            part = expect.get("slice", {"first": 0, "length": len(PAYLOADS[value])})
            assert bytes(result["payload"]) == PAYLOADS[value][part["first"] : part["first"] + part["length"]], where
        elif field == "payloads":
            assert [bytes(payload) for payload in result["payloads"]] == [PAYLOADS[name] for name in value], where
        elif field == "expires_in_ms":
            left = (result["expires"] - datetime.now(timezone.utc)).total_seconds() * 1000
            assert value["min"] <= left <= value["max"], where
        elif field == "text":
            assert result["payload"].text() == value, where
        elif field == "json":
            told = json.loads(bytes(result["payload"]))
            assert {name: told.get(name) for name in value} == value, where
        elif field != "slice":
            assert result[field] == value, f"{where}: {field} is {result[field]!r}"
