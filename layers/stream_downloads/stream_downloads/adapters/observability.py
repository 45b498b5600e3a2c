"""Provides the logger and the metrics.

Log lines are JSON, those of libraries as well; a line about a video carries ``video_uid``. Never
logged: events, headers, bodies, secrets, signatures, tokens. If a library's message contains a
token or a signature, the serializer redacts it.

Metrics are log lines in CloudWatch's Embedded Metric Format.
"""

from __future__ import annotations

import functools
import json
import logging
import math
import re
import sys
import threading
from collections import defaultdict
from collections.abc import Callable
from enum import StrEnum
from typing import Any, Final

from aws_lambda_powertools import Logger, Metrics, single_metric
from aws_lambda_powertools.metrics import MetricUnit

# A bearer token, the headers of an API key, the parts of a signature header, a signed token.
_SECRET = re.compile(
    r"(Bearer |X-Auth-Key\W{1,6}|sig1=)[^\s\"'\\,;}]+"
    r"|\beyJ[\w-]+\.[\w-]+\.[\w-]+",
    re.IGNORECASE,
)

NAMESPACE = "StreamDownloads"

Handler = Callable[[Any, Any], Any]


class Metric(StrEnum):
    """Every metric there is. The unit is a count unless the name says seconds or percent."""

    WEBHOOKS = "Webhooks"  # by outcome
    STALE_SIGNATURES = "StaleSignatures"  # valid, but too old or too new
    CLOUDFLARE_REQUESTS = "CloudflareRequests"  # by call and outcome
    CREDENTIALS_REFUSED = "CredentialsRefused"
    GATE_CLOSED = "GateClosed"
    BUDGET_USED = "BudgetUsedPercent"
    POLLS_COMPLETED = "PollsCompleted"
    OLDEST_DUE = "OldestDueSeconds"
    DOWNLOADS_READY = "DownloadsReady"
    READY_DELAY = "ReadyDelaySeconds"  # from the create to ready in the table
    DOWNLOADS_FAILED = "DownloadsFailed"
    URLS_REFUSED = "UrlsRefused"
    VIDEOS_FOUND = "VideosFoundByReconciliation"
    DRIFT = "Drift"


_UNITS = {
    Metric.BUDGET_USED: MetricUnit.Percent,
    Metric.OLDEST_DUE: MetricUnit.Seconds,
    Metric.READY_DELAY: MetricUnit.Seconds,
}


def redact(text: str) -> str:
    """Return a text without its tokens and signatures."""
    return _SECRET.sub(lambda found: (found[1] or "") + "(redacted)", text)


def _serialize(line: Any) -> str:
    return redact(json.dumps(line, default=str, separators=(",", ":")))


# The root logger gets the lines of libraries and Python's warnings. Its handler from Lambda's
# runtime writes plain text, so one that writes JSON replaces it. Powertools writes our own lines,
# and keeps them out of the root's handlers that exist when its `Logger` is made.
logging.captureWarnings(capture=True)
logging.basicConfig(stream=sys.stdout, force=True)
logger = Logger(json_serializer=_serialize, utc=True)
for _handler in logging.getLogger().handlers:
    _handler.setFormatter(logger.registered_formatter)
metrics = Metrics(namespace=NAMESPACE)

_counts: defaultdict[tuple[Metric, tuple[tuple[str, str], ...]], float] = defaultdict(float)
_lock = threading.Lock()


def record(metric: Metric, value: float = 1, **dimensions: str) -> None:
    """Record a metric, to be written by :func:`flush` at the end of the invocation.

    Without dimensions each value is kept, so that CloudWatch can show a median. With dimensions
    (``call="list_downloads", outcome="ok"``) values are added up: a run makes hundreds of
    requests, and every set of dimensions is a log line of its own. Thread-safe.
    """
    with _lock:
        if dimensions:
            _counts[metric, tuple(sorted(dimensions.items()))] += value
        else:
            metrics.add_metric(name=metric.value, unit=_unit(metric), value=value)


def flush() -> None:
    """Write what was recorded since the last flush."""
    with _lock:
        counts = dict(_counts)
        _counts.clear()
        if metrics.metric_set:
            metrics.flush_metrics()
    for (metric, dimensions), value in counts.items():
        with single_metric(metric.value, _unit(metric), value, namespace=NAMESPACE) as line:
            for name, dimension in dimensions:
                line.add_dimension(name=name, value=dimension)


def observed(handler: Handler) -> Handler:
    """Decorate a Lambda handler: its request in every log line, its metrics at the end.

    An exception is logged here as well, because Lambda logs it as plain text.
    """

    @functools.wraps(handler)
    def invoke(event: Any, context: Any) -> Any:
        try:
            return handler(event, context)
        except Exception as error:
            logger.exception("The invocation failed", extra=described(error))
            raise
        finally:
            flush()

    return logger.inject_lambda_context(invoke, clear_state=True)


def described(error: BaseException) -> dict[str, Any]:
    """Return the log fields of an error: ``logger.warning("…", extra=described(error))``.

    For a refusal by Cloudflare they include its kind, its HTTP status and Cloudflare's codes.
    """
    fields = {
        "error": type(error).__name__,
        "error_message": redact(str(error))[:1000],
        "refusal": getattr(error, "kind", None),
        "status_code": getattr(error, "status", None),
        "codes": [message.code for message in getattr(error, "errors", ())] or None,
        "reason": getattr(error, "reason", None),
    }
    return {key: value for key, value in fields.items() if value is not None}


class LogLimit:
    """Limits the log lines of each kind to one a minute, and counts those left out."""

    SECONDS: Final = 60.0

    def __init__(self) -> None:
        self._kinds: dict[str, tuple[float, int]] = {}  # when the last was logged, how many since

    def admit(self, kind: str, now: float) -> int | None:
        """Return None if a line must be left out, else how many were left out since the last.

        Args:
            kind: one of a small set: each is remembered for as long as the process lives.
            now: seconds of a monotonic clock.
        """
        logged_at, left_out = self._kinds.get(kind, (-math.inf, 0))
        if now - logged_at < self.SECONDS:
            self._kinds[kind] = (logged_at, left_out + 1)
            return None
        self._kinds[kind] = (now, 0)
        return left_out


def _unit(metric: Metric) -> MetricUnit:
    return _UNITS.get(metric, MetricUnit.Count)
