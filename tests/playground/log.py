"""Describe what happens in the playground, one line for each change."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from tests.demo.scenario import Key
from tests.demo.screen import FILES, outcome, shortened
from tests.demo.stage import Stage, rows_of
from tests.support.template import resources

FUNCTIONS = [name.removesuffix("Function") for name in resources("AWS::Serverless::Function")]
# Seconds.
READ_LOGS_EVERY = 2.0
READ_LOGS_BACK = 120.0
QUIET_SECONDS = 60.0
# A line of the log fits 80 columns; `play table` shows URLs to be copied.
URL_WIDTH = 36


class Log:
    """Compares the present state with the lines written before, and writes the changes."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._videos, self._webhooks, self._calls = 0, 0, len(stage.server.simulator.calls)
        self._statuses: dict[Key, str] = {}
        self._began, self._read_logs_at = time.time(), 0.0
        self._groups = {name: stage.stack.physical_id(f"{name}LogGroup") for name in FUNCTIONS}
        self._read: set[tuple[str, int, str]] = set()
        self._said_at: dict[str, float] = {}

    def news(self) -> Iterator[str]:
        """Yield a line for each change; the same problem again only after a minute."""
        yield from self._uploads()
        yield from self._webhook_answers()
        yield from self._once(self._refusals())
        try:
            yield from self._rows()
            yield from self._once(self._troubles())
        except (BotoCoreError, ClientError) as error:
            yield from self._once(iter([f"The local AWS cannot be read: {error}"]))

    def _once(self, lines: Iterator[str]) -> Iterator[str]:
        for line in lines:
            now = time.monotonic()
            if now - self._said_at.get(line, -math.inf) >= QUIET_SECONDS:
                self._said_at[line] = now
                yield line

    def _uploads(self) -> Iterator[str]:
        videos = list(self._stage.server.simulator.videos.values())
        for video in videos[self._videos :]:
            yield f"uploaded    {video.upload.name}  {video.uid}"
        self._videos = len(videos)

    def _webhook_answers(self) -> Iterator[str]:
        answers = list(self._stage.server.webhook_answers)
        for uid, status in answers[self._webhooks :]:
            yield f"webhook     {self._name(uid)}  answered {status or 'not at all'}"
        self._webhooks = len(answers)

    def _refusals(self) -> Iterator[str]:
        calls = self._stage.server.simulator.calls[self._calls :]
        self._calls += len(calls)
        for call in calls:
            if call.status >= 400:
                yield f"Cloudflare answered {call.status} to {call.name}"

    def _rows(self) -> Iterator[str]:
        for key, row in rows_of(self._stage.stack).items():
            text = f"{row['status']:<10}  {self._name(key.video_uid)} {FILES[key.download_type]}"
            if told := shortened(row["url"], URL_WIDTH) if "url" in row else outcome(row):
                text += f"  {told}"
            if self._statuses.get(key) != text:
                self._statuses[key] = text
                yield text

    def _troubles(self) -> Iterator[str]:
        """Return the refusals, warnings and errors that functions have logged."""
        if time.monotonic() - self._read_logs_at < READ_LOGS_EVERY:
            return
        self._read_logs_at = time.monotonic()
        since = max(self._began, time.time() - READ_LOGS_BACK)
        pages = self._stage.stack.client("logs").get_paginator("filter_log_events")
        read = set()
        for function, group in self._groups.items():
            for page in pages.paginate(logGroupName=group, startTime=int(since * 1000)):
                for event in page["events"]:
                    known = (function, event["timestamp"], event["message"])
                    read.add(known)
                    if known not in self._read and (text := _trouble(event["message"])):
                        yield f"{function}: {text}"
        self._read = read

    def _name(self, uid: str) -> str:
        video = self._stage.server.simulator.videos.get(uid)
        return video.upload.name if video else uid


def _trouble(message: str) -> str | None:
    """Return the text of a log line if it is a refusal, a warning or an error."""
    try:
        line: Any = json.loads(message)
    except ValueError:
        return message.strip() if "Task timed out" in message or "[ERROR]" in message else None
    if not isinstance(line, dict):
        return None
    reason = line.get("error_message") or line.get("exception_name") or line.get("outcome") or ""
    if line.get("message") == "Webhook" and line.get("status", 0) >= 400:
        return f"a webhook was answered {line['status']}: {reason}"
    if line.get("level") in ("WARNING", "ERROR", "CRITICAL"):
        return f"{line['level']}: {line.get('message')}" + (f" ({reason})" if reason else "")
    return None
