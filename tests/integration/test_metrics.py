"""Compare the metrics that the code writes with alarms, dashboard and queries.

The metrics are read from the lines that the code prints, as CloudWatch reads them: an alarm, a
widget or a saved query about something that is never written fails here.
"""

from __future__ import annotations

import io
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import pytest

from functions.poll_downloads import app as poll_downloads
from stream_downloads.adapters import observability
from stream_downloads.adapters.observability import Metric, logger
from stream_downloads.domain import transitions
from stream_downloads.domain import video as cloudflare
from stream_downloads.domain.download import DownloadType
from stream_downloads.domain.signature import sign
from stream_downloads.services.receive import receive
from tests.simulator import Fault
from tests.simulator.videos import Video
from tests.support.events import LambdaContext, encoded, video_event
from tests.support.rows import requested
from tests.support.template import environment, resources, template
from tests.support.world import World, function_url_event

HOUR = 3600.0
DAY = 24 * HOUR
STACK = environment()["POWERTOOLS_SERVICE_NAME"]


class Series(NamedTuple):
    """The identity of a metric in CloudWatch."""

    namespace: str
    name: str
    dimensions: frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Written:
    """The printed output: the values of each metric, and the fields of the lines."""

    metrics: dict[Series, list[float]] = field(default_factory=lambda: defaultdict(list))
    fields: set[str] = field(default_factory=set)

    def read(self, lines: str) -> None:
        """Read lines of a log, as CloudWatch does."""
        for line in map(json.loads, lines.splitlines()):
            self.fields.update(line)
            for told in line.get("_aws", {}).get("CloudWatchMetrics", ()):
                for names in told["Dimensions"]:
                    dimensions = frozenset((name, line[name]) for name in names)
                    for metric in told["Metrics"]:
                        series = Series(told["Namespace"], metric["Name"], dimensions)
                        self.metrics[series] += line[metric["Name"]]

    def total(self, metric: Metric, **dimensions: str) -> float:
        """Return the sum of a metric's values."""
        named = frozenset({"service": STACK, **dimensions}.items())
        return sum(self.metrics.get(Series("StreamDownloads", metric, named), ()))


@contextmanager
def recording() -> Iterator[Written]:
    """Yield the output of the block, complete after its end."""
    written, output = Written(), io.StringIO()
    with pytest.MonkeyPatch.context() as monkeypatch, redirect_stdout(output):
        observability.flush()
        output.truncate(0)
        output.seek(0)
        monkeypatch.setattr(logger.registered_handler, "stream", output)
        yield written
        observability.flush()
    written.read(output.getvalue())


def poll(world: World, minutes: int = 3) -> None:
    """Let that many minutes pass, with a run of the poller each."""
    for _ in range(minutes):
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(poll_downloads, "SERVICE", world.service)
            poll_downloads.lambda_handler({}, LambdaContext(remaining_ms=80_000))
        world.clock.sleep(60)


def send(world: World, body: bytes, *, age: float = 0.0) -> int:
    """Send a webhook that was signed so many seconds ago."""
    secrets: Any = world.secrets
    (secret,) = secrets.candidates()
    header = sign(body, secret, int(world.clock() - age))
    event = function_url_event(body, {"Webhook-Signature": header})
    return int(receive(world.webhook_service, secrets, event)["statusCode"])


def upload(world: World, **details: Any) -> str:
    uid = world.simulator.upload(**details)
    world.deliver_webhooks()
    return uid


def drop_downloads(world: World, uid: str) -> None:
    """Delete downloads at Cloudflare and let a week pass until that is found: one `Drift`."""
    # The look-up of the video fails once: a row without a URL is counted no second time.
    world.simulator.faults.script(Fault.CANNOT_CONNECT, calls=["get video"])
    world.simulator.drop_download(uid, DownloadType.DEFAULT)
    world.clock.sleep(8 * DAY)
    poll(world, 5)


def end_retentions(world: World) -> None:
    """Shorten the retention and delete the ready downloads: their URLs go without a `Drift`."""
    world.service = replace(world.service, retention=1.0)
    world.clock.sleep(8 * DAY)
    poll(world, 5)
    assert not any(row.url for row in world.downloads.rows.values())


def lose_a_webhook(world: World) -> None:
    world.simulator.upload(webhook_delays=())
    world.clock.sleep(HOUR)
    world.reconcile()


def fail_a_request(world: World, fault: Fault, call: str) -> None:
    world.simulator.faults.script(fault, calls=[call])
    world.simulator.upload(webhook_delays=())
    world.reconcile()
    poll(world, 10)


@pytest.fixture(scope="module")
def written() -> Written:
    """Return the output of the code after every counted event has happened."""
    world = World()
    with recording() as written:
        world.reconcile()
        uid = upload(world)
        poll(world)
        drop_downloads(world, uid)
        upload(world, error_code="ERR_NON_VIDEO")
        lose_a_webhook(world)
        send(world, b"not json")
        send(world, encoded(video_event()), age=400)
        fail_a_request(world, Fault.URL_FOREIGN, "list downloads")
        fail_a_request(world, Fault.UNAUTHORIZED, "create download")
        fail_a_request(world, Fault.THROTTLED, "create download")
        fail_a_request(world, Fault.NOT_FOUND, "create download")
        upload(world, failing_creates={"default": 9})
        poll(world, 60)
        end_retentions(world)
    return written


def test_every_metric_is_written_by_the_code(written: Written) -> None:
    assert {series.name for series in written.metrics} == set(Metric)


@pytest.mark.parametrize(
    ("metric", "dimensions", "count"),
    [
        (Metric.WEBHOOKS, {"outcome": "video_failed"}, 1),
        (Metric.WEBHOOKS, {"outcome": "unusable"}, 1),
        (Metric.WEBHOOKS, {"outcome": "unauthentic"}, 1),
        (Metric.STALE_SIGNATURES, {}, 1),
        (Metric.CLOUDFLARE_REQUESTS, {"call": "create_download", "outcome": "throttled"}, 1),
        (Metric.CREDENTIALS_REFUSED, {}, 1),
        (Metric.GATE_CLOSED, {}, 1),
        (Metric.URLS_REFUSED, {}, 1),
        (Metric.VIDEOS_FOUND, {}, 1),
        (Metric.DRIFT, {}, 1),
        (Metric.DOWNLOADS_FAILED, {}, 1),
        # The first one, once more after it had vanished, the lost one and the four with a fault.
        (Metric.DOWNLOADS_READY, {}, 7),
    ],
)
def test_what_happens_once_is_counted_once(
    written: Written, metric: Metric, dimensions: dict[str, str], count: int
) -> None:
    assert written.total(metric, **dimensions) == count


def test_a_download_that_is_due_counts_from_when_it_was_due() -> None:
    world = World()
    with recording() as written:
        upload(world, generation_seconds=5)
        world.clock.sleep(3 * HOUR)
        world.poll()
    assert written.total(Metric.OLDEST_DUE) == pytest.approx(3 * HOUR, rel=0.05)


def test_a_backfill_that_waits_does_not_count_as_late() -> None:
    world = World()
    world.simulator.upload(webhook_delays=())
    world.clock.sleep(72 * HOUR)
    world.reconcile(since=0.0)
    world.clock.sleep(3 * HOUR)
    with recording() as written:
        assert world.poll().requests > 0
    assert written.total(Metric.OLDEST_DUE) == 0


def test_the_delay_is_that_from_create_to_ready() -> None:
    world = World()
    world.simulator.upload(webhook_delays=(), generation_seconds=5)
    world.reconcile()
    world.clock.sleep(HOUR)  # until the poller creates it
    world.poll()
    world.clock.sleep(200)
    with recording() as written:
        world.poll()
    assert written.total(Metric.READY_DELAY) == pytest.approx(200, abs=5)


def test_the_budget_used_is_a_part_of_the_limit() -> None:
    world = World(limit=200)
    with recording() as written:
        for _ in range(4):
            upload(world)
        world.poll()
    assert written.total(Metric.BUDGET_USED) == 2.0


def missed(world: World, since: float | None = None) -> float:
    """Reconcile, and return how many videos count as missed by their webhook."""
    with recording() as written:
        world.reconcile(since)
    return written.total(Metric.VIDEOS_FOUND)


@pytest.fixture
def world() -> World:
    """Return a stack that has reconciled before."""
    world = World()
    world.reconcile()
    return world


def test_what_was_there_before_the_stack_counts_as_missed_by_no_webhook() -> None:
    world = World()
    world.simulator.upload(webhook_delays=())
    world.clock.sleep(HOUR)
    assert missed(world) == 0
    assert len(world.downloads.rows) == 1


def test_a_video_whose_webhook_may_be_on_its_way_is_requested_but_not_counted(world: World) -> None:
    world.simulator.upload(webhook_delays=(700.0,), encode_seconds=2 * HOUR)
    world.clock.sleep(2 * HOUR + 30)
    assert missed(world) == 0
    assert len(world.downloads.rows) == 1


@pytest.mark.parametrize(
    ("ready_for", "ready_at_known", "count"),
    [(599.0, True, 0), (601.0, True, 1), (599.0, False, 1), (0.0, False, 1)],
)
def test_a_webhook_is_missed_ten_minutes_after_its_video_was_ready(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    *,
    ready_for: float,
    ready_at_known: bool,
    count: int,
) -> None:
    if not ready_at_known:  # then the time of its creation, an hour before, counts
        monkeypatch.setattr(Video, "listed", Video.described)
    world.simulator.upload(webhook_delays=(), encode_seconds=HOUR)
    world.clock.sleep(HOUR + ready_for)
    assert missed(world) == count
    assert missed(world) == 0
    assert len(world.downloads.rows) == 1


def test_a_backfilled_video_was_missed_by_no_webhook(world: World) -> None:
    world.simulator.upload(webhook_delays=())
    world.clock.sleep(72 * HOUR)
    world.reconcile()
    assert missed(world, since=0.0) == 0
    assert len(world.downloads.rows) == 1


def test_a_video_whose_second_webhook_told_of_its_recovery_in_vain_was_missed(world: World) -> None:
    uid = world.simulator.upload(webhook_delays=())
    failed = transitions.fail_video(requested(uid), cloudflare.Video(uid), world.clock())
    world.downloads.add(failed)
    world.clock.sleep(HOUR)
    assert missed(world) == 1


def test_a_video_that_encoded_for_days_and_whose_webhook_never_came_was_missed(
    world: World,
) -> None:
    world.simulator.upload(webhook_delays=(), encode_seconds=49 * HOUR)
    world.clock.sleep(HOUR)
    world.reconcile()
    world.clock.sleep(49 * HOUR)
    assert missed(world) == 1


def test_a_type_that_is_wanted_only_since_then_was_missed_by_no_webhook(world: World) -> None:
    upload(world)
    world.clock.sleep(HOUR)
    world.service = world.make_service(600, tuple(DownloadType), 0.0, 1)
    assert missed(world) == 0
    assert len(world.downloads.rows) == 2


# --- Where they are used ----------------------------------------------------------------------

ALARMS = resources("AWS::CloudWatch::Alarm")


def dashboard() -> list[Any]:
    """Return the dashboard's metrics, as CloudWatch gets them."""
    body = template()["Resources"]["Dashboard"]["Properties"]["DashboardBody"]["Sub"]
    body = body.replace("${AWS::StackName}", STACK)
    return [
        metric
        for widget in json.loads(body)["widgets"]
        for metric in widget["properties"].get("metrics", ())
    ]


@pytest.mark.parametrize("name", ALARMS)
def test_an_alarm_watches_what_is_written(name: str, written: Written) -> None:
    alarm = ALARMS[name]
    dimensions = {each["Name"]: each["Value"] for each in alarm["Dimensions"]}
    if not alarm["Namespace"].startswith("AWS/"):
        assert dimensions.pop("service") == {"Ref": "AWS::StackName"}
        named = frozenset({"service": STACK, **dimensions}.items())
        assert Series(alarm["Namespace"], alarm["MetricName"], named) in written.metrics
        return
    # https://docs.aws.amazon.com/lambda/latest/dg/urls-monitoring.html and
    # https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-available-cloudwatch-metrics.html
    ((dimension, value),) = dimensions.items()
    (reference,) = value.values()
    resource = template()["Resources"][reference.removesuffix(".QueueName")]
    looks_at = (alarm["Namespace"], alarm["MetricName"], dimension, resource["Type"])
    assert looks_at in {
        ("AWS/Lambda", "Url5xxCount", "FunctionName", "AWS::Serverless::Function"),
        ("AWS/Lambda", "Throttles", "FunctionName", "AWS::Serverless::Function"),
        ("AWS/Lambda", "IteratorAge", "FunctionName", "AWS::Serverless::Function"),
        ("AWS/SQS", "ApproximateNumberOfMessagesVisible", "QueueName", "AWS::SQS::Queue"),
    }
    needed = {"Url5xxCount": "FunctionUrlConfig", "IteratorAge": "Events"}
    assert needed.get(alarm["MetricName"], "Type") in resource | resource["Properties"]


def test_the_dashboard_shows_what_is_written(written: Written) -> None:
    by_names = {
        (series.namespace, series.name, frozenset(name for name, _ in series.dimensions))
        for series in written.metrics
    }
    for metric in dashboard():
        if isinstance(metric[0], str):
            namespace, name, *dimensions = [part for part in metric if isinstance(part, str)]
            pairs = frozenset(zip(dimensions[::2], dimensions[1::2], strict=True))
            assert Series(namespace, name, pairs) in written.metrics
        else:
            search = re.fullmatch(
                r"""SEARCH\('\{(\w+),([\w,]+)\} MetricName="(\w+)" service="(.+)"', 'Sum', 300\)""",
                metric[0]["expression"],
            )
            assert search
            assert (search[1], search[3], frozenset(search[2].split(","))) in by_names
            assert search[4] == STACK


def test_the_saved_queries_ask_for_what_is_written(written: Written) -> None:
    queries = resources("AWS::Logs::QueryDefinition").values()
    assert queries
    for query in (found["QueryString"] for found in queries):
        asked = re.findall(r"(?:fields|filter|by) (?!ispresent)([\w@., ]+)", query)
        names = {name.strip().split()[0] for some in asked for name in some.split(",")}
        names |= set(re.findall(r"(\w+)\.0", query))
        ours = {name for name in names if not name.startswith("@")}
        assert ours <= written.fields, ours - written.fields
