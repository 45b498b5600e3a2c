"""Translates between the row of a download and its DynamoDB item."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from stream_downloads.domain.download import (
    Creation,
    Download,
    DownloadType,
    Lane,
    Reason,
    Report,
    Status,
    Step,
    Trouble,
    TroubleKind,
    Work,
    iso_time,
)

# Longer text is cut: the size of an item is limited.
_TEXT_AT_MOST: Final = 1024
_REASON_AT_MOST: Final = 300
_ZERO: Final = {"N": "0"}
_FALSE: Final = {"BOOL": False}


class Unreadable(ValueError):
    """An item of the table is not one that this service wrote."""


def text(value: str, at_most: int = _TEXT_AT_MOST) -> dict[str, Any]:
    """Return a text as DynamoDB stores it, cut at ``at_most`` characters."""
    # Half a surrogate, which JSON can hold and DynamoDB cannot, becomes a question mark.
    return {"S": value[:at_most].encode(errors="replace").decode()}


def number(value: float) -> dict[str, Any]:
    """Return a number as DynamoDB stores it, with three decimals at most."""
    # DynamoDB returns numbers without trailing zeros and without a negative zero. Written like
    # that, an item equals the one that is read.
    digits = f"{value:.3f}".rstrip("0").rstrip(".")
    return {"N": "0" if digits == "-0" else digits}


def _flag(value: bool) -> dict[str, Any]:  # noqa: FBT001 - the value itself
    return {"BOOL": value}


def _time(value: float) -> dict[str, Any]:
    return {"S": iso_time(value)}


# The public attributes, and how each is stored.
_PUBLIC: Final[Mapping[str, Callable[[Any], dict[str, Any]]]] = {
    "video_uid": text,
    "download_type": text,
    "status": text,
    "url": text,
    "percent_complete": number,
    "requires_signed_url": _flag,
    "creator": text,
    "name": text,
    "duration_seconds": number,
    "error_code": text,
    "error_message": text,
    "requested_at": _time,
    "updated_at": _time,
    "ready_at": _time,
}


def to_item(row: Download) -> dict[str, Any]:
    """Return the row as a DynamoDB item, without attributes for what is None.

    What indexes, conditions and projections use is a top-level attribute; the rest of the service's
    own data is in two maps, ``_work`` and ``_creation``.
    """
    item = {
        name: store(value)
        for name, store in _PUBLIC.items()
        if (value := getattr(row, name)) is not None
    }
    item["_version"] = {"N": str(row.version)}
    item["_lane"] = {"S": row.lane}
    if row.recreations:
        item["_recreations"] = {"N": str(row.recreations)}
    if row.reopens:
        item["_reopens"] = {"BOOL": True}
    if row.creation:
        item["_creation"] = {"M": _creation_to_map(row.creation)}
    if row.work:
        item["_queue"] = {"S": row.queue}
        item["_due_at"] = number(row.indexed_at or 0.0)
        item["_work"] = {"M": _work_to_map(row.work)}
    return item


def from_item(item: Mapping[str, Any]) -> Download:
    """Return the row of a DynamoDB item. Unknown attributes are ignored.

    Raises:
        Unreadable: the item is not one that this service wrote.
    """
    try:
        public = {name: _read(store, item[name]) for name, store in _PUBLIC.items() if name in item}
        public["download_type"] = DownloadType(public["download_type"])
        public["status"] = Status(public["status"])
        return Download(
            **public,
            work=_work_of(item),
            creation=_creation_of(item),
            recreations=int(item.get("_recreations", _ZERO)["N"]),
            reopens=item.get("_reopens", _FALSE)["BOOL"],
            lane=Lane(item["_lane"]["S"]),
            version=int(item.get("_version", _ZERO)["N"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Unreadable(f"not a download: {error!r}") from error


def consumers_view(row: Download) -> dict[str, Any]:
    """Return the public fields of a row, as the table's consumers see them."""
    return {
        name: iso_time(value) if store is _time else value
        for name, store in _PUBLIC.items()
        if (value := getattr(row, name)) is not None
    }


def _read(store: Callable[[Any], dict[str, Any]], stored: Mapping[str, Any]) -> Any:
    """Return the value of a public attribute."""
    if store is number:
        return float(stored["N"])
    if store is _flag:
        return stored["BOOL"]
    return datetime.fromisoformat(stored["S"]).timestamp() if store is _time else stored["S"]


def _work_to_map(work: Work) -> dict[str, Any]:
    """Return the work as a map, without the due time that is stored for the index."""
    fields: dict[str, Any] = {"step": {"S": work.step}}
    if work.indexed_at is not None:
        fields["due_at"] = number(work.due_at)
    if work.attempts:
        fields["attempts"] = {"N": str(work.attempts)}
    if trouble := work.trouble:
        fields["trouble"] = {"S": trouble.kind}
        fields["since"] = number(trouble.since)
        fields["count"] = {"N": str(trouble.count)}
        fields["code"] = text(trouble.reason.code, _REASON_AT_MOST)
        fields["message"] = text(trouble.reason.message, _REASON_AT_MOST)
    return fields


def _work_of(item: Mapping[str, Any]) -> Work | None:
    if "_step" in item:
        return _first_version_work(item)
    if "_due_at" not in item and "_work" not in item:
        return None
    fields = item["_work"]["M"]
    trouble = None
    if "trouble" in fields:
        trouble = Trouble(
            TroubleKind(fields["trouble"]["S"]),
            float(fields["since"]["N"]),
            int(fields["count"]["N"]),
            Reason(fields["code"]["S"], fields["message"]["S"]),
        )
    attempts = int(fields.get("attempts", _ZERO)["N"])
    indexed_at = float(item["_due_at"]["N"])
    if "due_at" in fields:
        due_at = float(fields["due_at"]["N"])
        return Work(Step(fields["step"]["S"]), due_at, attempts, trouble, indexed_at)
    return Work(Step(fields["step"]["S"]), indexed_at, attempts, trouble)


def _creation_to_map(creation: Creation) -> dict[str, Any]:
    times = {
        "sent_at": creation.sent_at,
        "accepted_at": creation.accepted_at,
        "polled_at": creation.polled_at,
    }
    stored = {name: number(time) for name, time in times.items() if time is not None}
    if earlier := creation.earlier:
        stored["earlier_at"] = number(earlier.at)
        stored["earlier_percent"] = number(earlier.percent)
    return stored


def _creation_of(item: Mapping[str, Any]) -> Creation | None:
    if "_creation" not in item:
        return _first_version_creation(item)
    numbers = {name: float(stored["N"]) for name, stored in item["_creation"]["M"].items()}
    earlier_at, percent = numbers.pop("earlier_at", None), numbers.pop("earlier_percent", 0.0)
    earlier = None if earlier_at is None else Report(earlier_at, percent)
    return Creation(**numbers, earlier=earlier)


# Version 0.1 kept its own data in top-level attributes. Such a row is written in the present form
# with its next step.
_FIRST_VERSION_STEPS: Final = {"confirm": Step.GET_VIDEO, "verify": Step.RECHECK}


def _first_version_work(item: Mapping[str, Any]) -> Work:
    step = item["_step"]["S"]
    return Work(_FIRST_VERSION_STEPS.get(step) or Step(step), float(item["_due_at"]["N"]))


def _first_version_creation(item: Mapping[str, Any]) -> Creation | None:
    times = [
        float(item[name]["N"]) if name in item else None
        for name in ("_sent_at", "_created_at", "_looked_at")
    ]
    sent_at, accepted_at, polled_at = times
    first = accepted_at if sent_at is None else sent_at
    return None if first is None else Creation(first, accepted_at, polled_at)
