"""Run what ``docs/webhooks.md`` shows to the owner of a webhook: requests arrive unchanged."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.request
from contextlib import nullcontext
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest

from stream_downloads.adapters.function_url import unwrap
from stream_downloads.domain.signature import verify
from tests.support.documents import block
from tests.support.events import EXAMPLE_SECRET, EXAMPLE_TIME, signed_event

# Bytes that do not survive a parse and a serialisation: spaces, an order, a character of two bytes.
BODY = '{"uid":  "6b9e68b07dfee8cc2d116e4c51d6a957", "b": 1.0,"a":"\u00e9"}\n'.encode()
PAGE = "docs/webhooks.md"
URL = "https://receive.lambda-url.us-east-1.on.aws/"
# Calls the worker with a request, and prints the one that it sends.
DRIVER = """
import worker from "./worker.mjs";
import { readFileSync } from "node:fs";
const answered = Number(process.argv[3]);
globalThis.fetch = async (url, options) => {
  console.log(JSON.stringify({
    url, method: options.method, headers: options.headers,
    body: Buffer.from(options.body).toString("base64"),
  }));
  if (!answered) throw new TypeError("not reached");
  return new Response(null, { status: answered });
};
const request = new Request("https://owner.example.com/hook", {
  method: "POST",
  headers: { "Webhook-Signature": process.argv[2] },
  body: readFileSync("body"),
});
const answer = await worker.fetch(request, { STREAM_DOWNLOADS_URL: "%s" });
console.log(answer.status);
"""


# The answer of WebhookUrl, 0 if it was not reached, and the owner's to Cloudflare.
ANSWERS = [(200, 200), (403, 200), (413, 200), (429, 502), (500, 502), (0, 502)]


def passed_on(
    monkeypatch: pytest.MonkeyPatch, event: dict[str, Any], answered: int
) -> tuple[int, urllib.request.Request]:
    """Invoke the function; return its answer and the request that it passes on."""
    sent: list[urllib.request.Request] = []

    def urlopen(request: urllib.request.Request, timeout: float) -> object:
        assert timeout <= 10
        sent.append(request)
        if not answered:
            raise TimeoutError
        if answered != 200:
            raise HTTPError(URL, answered, "", Message(), None)
        return nullcontext()

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    monkeypatch.setenv("STREAM_DOWNLOADS_URL", URL)
    module: dict[str, Any] = {}
    exec(block(PAGE, "python"), module)  # noqa: S102
    status = module["handler"](event, None)["statusCode"]
    (request,) = sent
    return status, request


@pytest.mark.parametrize("is_base64", [True, False])
@pytest.mark.parametrize(("answered", "answers"), ANSWERS)
def test_a_lambda_function_passes_a_request_on_unchanged(
    monkeypatch: pytest.MonkeyPatch, answered: int, answers: int, *, is_base64: bool
) -> None:
    event = signed_event(BODY, is_base64=is_base64)
    status, request = passed_on(monkeypatch, event, answered)
    assert status == answers
    assert request.full_url == URL
    assert request.data == BODY
    verify(BODY, request.get_header("Webhook-signature"), [EXAMPLE_SECRET], EXAMPLE_TIME)


def test_a_lambda_function_bears_a_request_without_a_signature_and_a_body(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    event = signed_event(BODY)
    del event["headers"]["webhook-signature"], event["body"]
    status, request = passed_on(monkeypatch, event, 403)
    assert status == 200
    assert request.data == b""
    assert request.get_header("Webhook-signature") == ""


@pytest.mark.skipif(not shutil.which("node"), reason="needs Node.js")
@pytest.mark.parametrize(("answered", "answers"), ANSWERS)
def test_a_worker_passes_a_request_on_unchanged(
    tmp_path: Path, answered: int, answers: int
) -> None:
    (tmp_path / "worker.mjs").write_text(block(PAGE, "js"), encoding="utf-8")
    (tmp_path / "driver.mjs").write_text(DRIVER % URL, encoding="utf-8")
    (tmp_path / "body").write_bytes(BODY)
    signature = signed_event(BODY)["headers"]["webhook-signature"]
    command = ["node", "driver.mjs", signature, str(answered)]
    ran = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )
    sent, status = ran.stdout.splitlines()
    assert int(status) == answers
    request = json.loads(sent)
    headers = {name.lower(): text for name, text in request["headers"].items()}
    delivery = unwrap(
        {
            "requestContext": {"http": {"method": request["method"]}},
            "headers": headers,
            "body": request["body"],
            "isBase64Encoded": True,
        }
    )
    assert delivery.body == BODY
    verify(delivery.body, delivery.signature, [EXAMPLE_SECRET], EXAMPLE_TIME)
