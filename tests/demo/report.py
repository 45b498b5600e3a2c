"""Show the demo's figures, a consumer's query, and an event as it was received."""

from __future__ import annotations

import json
import re
import shlex
import statistics
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from tests.demo.play import REQUEST_LIMIT, Ending
from tests.demo.scenario import DEFAULT, Item, Key, creates_by_download
from tests.demo.screen import Screen
from tests.simulator import StreamSimulator
from tests.support.deployment import Stack

CLOUDFLARES_LIMIT = 1200


def delays(cloudflare: StreamSimulator, rows: Mapping[Key, Item]) -> list[float]:
    """Return for each ready row the seconds from ready at Cloudflare to ready in the table."""
    found = []
    for key, row in rows.items():
        was_ready = cloudflare.ready_at(*key)
        if row["status"] == "ready" and was_ready is not None:
            found.append(datetime.fromisoformat(row["ready_at"]).timestamp() - was_ready)
    return found


def show_report(screen: Screen, cloudflare: StreamSimulator, stack: Stack, ending: Ending) -> None:
    """Show the figures, a consumer's query, and an event."""
    screen.title("What it took")
    screen.show_pairs(summary(cloudflare, ending))
    uid = ending.library.uid("interview.mp4")
    query, urls = downloads_of(uid, stack)
    screen.title(
        "How a consumer gets the URLs of a video, here interview.mp4: AWS CLI, Python, answer"
    )
    screen.show(f"{as_command(query)}\n\n{as_python(query)}\n", "cyan")
    screen.show("\n".join(urls), "green")
    screen.title("What a subscriber to the event bus received when it was ready")
    screen.show(f"{json.dumps(ending.event, indent=2)}\n", "cyan")


def summary(cloudflare: StreamSimulator, ending: Ending) -> dict[str, str]:
    """Return the figures, counted at Cloudflare."""
    statuses = Counter(row["status"] for row in ending.rows.values())
    calls = cloudflare.counts()
    creates, lists = calls["create download"], calls["list downloads"]
    made = len(cloudflare.downloads_made)
    late = delays(cloudflare, ending.rows)
    sent = Counter(webhook.video_uid for webhook in cloudflare.outbox.sent)
    tour = Key(ending.library.uid("tour.mp4"), DEFAULT)
    private = ending.rows[Key(ending.library.uid("salaries.mp4"), DEFAULT)]
    failed = ending.rows[Key(ending.library.uid("notes.pdf"), DEFAULT)]
    return {
        "Downloads": ", ".join(f"{count} {status}" for status, count in statuses.most_common()),
        "Delay": f"{statistics.fmean(late):.1f} s on average, {max(late):.1f} s at most, from ready"
        " at Cloudflare to ready in the table",
        "Requests": f"{(creates + lists) / made:.1f} per download: {creates} creates and {lists}"
        f" lists for {made} downloads; {calls.total() - creates - lists} others",
        "Rate limit": f"{cloudflare.most_requests_in(300.0)} requests in the busiest five minutes;"
        f" the stack allows itself {REQUEST_LIMIT}, Cloudflare blocks at {CLOUDFLARES_LIMIT}",
        "Lost webhook": "webinar.mp4 had no row until ReconcileLibrary found it,"
        f" {ending.found_after:.0f} s after it was ready to view",
        "Repeated": f"{sent[tour.video_uid]} webhooks came for tour.mp4; creates sent for"
        f" it: {creates_by_download(cloudflare)[tour]}",
        "Failed": f"notes.pdf, with Cloudflare's own reason {failed['error_code']}:"
        f" {failed['error_message']}",
        "Private": f"salaries.mp4: its URL answers {cloudflare.fetch(private['url'])}; the signed"
        f" link that ManageDownloads gives for it answers {ending.link_answers}",
    }


def downloads_of(video_uid: str, stack: Stack) -> tuple[dict[str, Any], list[str]]:
    """Query the table for one video's downloads, as a consumer would.

    Returns:
        The query, and the URLs.
    """
    query = {
        "TableName": stack.outputs["DownloadsTableName"],
        "KeyConditionExpression": "video_uid = :v",
        "ExpressionAttributeValues": {":v": {"S": video_uid}},
    }
    answer = stack.client("dynamodb").query(**query)
    return query, [item["url"]["S"] for item in answer["Items"] if "url" in item]


def as_python(query: Mapping[str, Any]) -> str:
    """Return the query as it was made, in Python."""
    arguments = "".join(f"    {name}={json.dumps(value)},\n" for name, value in query.items())
    return (
        f'answer = boto3.client("dynamodb").query(\n{arguments})\n'
        'urls = [item["url"]["S"] for item in answer["Items"] if "url" in item]'
    )


def as_command(query: Mapping[str, Any]) -> str:
    """Return the same query for the AWS CLI."""
    options = [
        part
        for name, value in query.items()
        for part in (
            [f"--{_kebab(name)} {shlex.quote(value)}"]
            if isinstance(value, str)
            else [f"--{_kebab(name)}", f"  {shlex.quote(json.dumps(value))}"]
        )
    ]
    output = "--query 'Items[?url].[url.S]' --output text"
    return " \\\n    ".join(["aws dynamodb query", *options, output])


def _kebab(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()
