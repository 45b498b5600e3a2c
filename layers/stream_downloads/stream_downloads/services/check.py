"""Checks an installation, and says how to fix what is wrong.

Nothing is changed. Cloudflare is asked for one video and for the subscription, and to create a
download of a video that does not exist: the answer shows whether the credentials may edit.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, TypeVar

from stream_downloads.adapters.observability import described, logger
from stream_downloads.adapters.secrets import SecretUnavailable
from stream_downloads.adapters.shared_state import POLLER_LEASE
from stream_downloads.adapters.stream_api import NotReached, RefusalKind, Refused
from stream_downloads.domain.download import DownloadType, iso_time
from stream_downloads.services.gateway import NotNow
from stream_downloads.services.manage import STOP_BEFORE_TIMEOUT, oldest_due
from stream_downloads.services.poll import LIVE_QUEUES
from stream_downloads.services.reconcile import LOOK_BACK
from stream_downloads.services.record import WEBHOOK_TAKES_AT_MOST
from stream_downloads.services.signing_secret import GUEST, is_same_url, position_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from stream_downloads.adapters.stream_api import WebhookSubscription
    from stream_downloads.services.dependencies import Service

Result = TypeVar("Result")

# Three requests have to fit into the function's time even if Cloudflare is slow.
REQUEST_SECONDS: Final = 5.0
# No video has this uid.
NO_VIDEO: Final = "0" * 32
# As long as NoPollAlarm waits.
POLL_OVERDUE: Final = 180.0
# The timeout of ReconcileLibrary: its record has the time at which a run began.
RECONCILIATION_OVERDUE_AT_LEAST: Final = 600.0
DUE_TOO_LONG: Final = 900.0
# A reconciliation at least this often replaces the webhook.
MINUTES_WITHOUT_WEBHOOK: Final = WEBHOOK_TAKES_AT_MOST / 60
# Cloudflare's codes for invalid credentials, other than for a missing permission.
INVALID_CREDENTIALS: Final = frozenset({6003, 9103, 9106, 9109})
# Cloudflare's codes for an unknown route, as with the id of no account.
NO_ROUTE: Final = frozenset({7000, 7003})

SHAPES: Final = '{"api_token": "…"}, or {"api_email": "…", "api_key": "…"}'
STORE_CREDENTIALS: Final = f"Store {SHAPES} in the secret of CloudflareSecretArn."
NEW_TOKEN: Final = (
    "Create an API token with the permission Stream: Edit for the account of CloudflareAccountId."
    f" {STORE_CREDENTIALS}"
)
PERMIT: Final = (
    "Give the API token the permission Stream: Edit for the account of CloudflareAccountId. Check"
    " as well that the token is still valid, and that this is the account of the videos."
)
OTHER_ACCOUNT: Final = (
    "Deploy with the id of the videos' account as CloudflareAccountId: it is in the address of"
    " Cloudflare's dashboard."
)
ALLOW_TO_READ: Final = (
    "Allow the role of ManageDownloads to read the secret: look for a deny in the secret's resource"
    " policy or in the organization. If a key of your own encrypts the secret, deploy with"
    " CloudflareSecretKmsKeyArn."
)
# How to fix the secret of the credentials, by a part of the error's text; the first match applies.
SECRET_FIXES: Final = (
    ("KMS", "Deploy with CloudflareSecretKmsKeyArn, the ARN of the key that encrypts the secret."),
    ("DecryptionFailure", "Enable the KMS key that encrypts the secret."),
    ("AccessDenied", ALLOW_TO_READ),
    (
        "ResourceNotFound",
        "Deploy with the ARN of a secret that has a value as CloudflareSecretArn.",
    ),
    ("InvalidRequest", "Restore the deleted secret: aws secretsmanager restore-secret."),
    ("cannot be read", "Check again in a minute: Secrets Manager did not answer."),
    ("", STORE_CREDENTIALS),
)
TAKE_OVER_OR_SHARE: Final = (
    'Invoke RegisterWebhook with {"force": true} to take the subscription over. Or invoke it with'
    ' {"subscribe": false}, and have the owner of the subscription pass the requests on unchanged.'
)
STORE_AS_GUEST: Final = (
    "Wait for the next request that the owner passes on: it makes the stack store the secret. Or"
    ' invoke RegisterWebhook with {"subscribe": false} now.'
)
WITHOUT_WEBHOOK: Final = (
    f"Or deploy with ReconcileMinutes from 1 to {MINUTES_WITHOUT_WEBHOOK:g}: then the stack works"
    " without any webhook."
)
STORE_AGAIN: Final = (
    'Invoke RegisterWebhook with {}, or with {"subscribe": false} if another system owns the'
    " subscription: it stores the secret again."
)
SEE_CREDENTIALS: Final = "See the finding credentials."
SEE_ACCOUNT: Final = "See the finding account."
SEE_PERMISSION: Final = "See the finding permission."
CHECK_AGAIN: Final = "Check again in a minute."
OUT_OF_TIME: Final = "the function's time was over"

# What was found, and how to fix it: None if nothing is wrong.
Verdict = tuple[str, str | None]


@dataclass(frozen=True, slots=True)
class Installation:
    """The settings that the checks compare with.

    Attributes:
        webhook_url: where Cloudflare has to send the webhooks.
        signing_secret: reads and returns the stored signing secret.
        reconcile_minutes: the minutes between two reconciliations.
    """

    webhook_url: str
    signing_secret: Callable[[], bytes]
    reconcile_minutes: float


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        check: the name of the check.
        ok: True if nothing is wrong; False also if it could not be checked.
        detail: what was found.
        fix: what to do; None if `ok`.
    """

    check: str
    ok: bool
    detail: str
    fix: str | None = None

    def as_answer(self) -> dict[str, Any]:
        """Return the finding as JSON; without ``fix`` if there is nothing to fix."""
        return {name: value for name, value in asdict(self).items() if value is not None}


class NoAnswer(Exception):
    """Cloudflare gave no answer that can be judged; the text says why, `fix` what to do."""

    def __init__(self, reason: str, fix: str = CHECK_AGAIN) -> None:
        super().__init__(reason)
        self.fix = fix


def check(
    service: Service, installation: Installation, remaining: Callable[[], float]
) -> dict[str, Any]:
    """Check the installation, within the function's time.

    Args:
        service: the parts of the service.
        installation: the settings to compare with.
        remaining: returns the seconds that the function has left.

    Returns:
        The answer of the invocation.
    """
    findings = Inspection(service, installation, remaining).findings()
    return {
        "ok": all(finding.ok for finding in findings),
        "findings": [finding.as_answer() for finding in findings],
    }


class Questions:
    """Asks Cloudflare each question once, and none after a failure that concerns all."""

    def __init__(self, service: Service, remaining: Callable[[], float]) -> None:
        """Take the parts of the service, and what returns the seconds the function has left."""
        self._gateway = service.gateway
        self._remaining = remaining
        self._stopped: NoAnswer | None = None
        self._answers: dict[str, Any] = {}

    def stop(self, reason: str, fix: str = CHECK_AGAIN) -> NoAnswer:
        """Ask no more; return the exception that says why, and what to do."""
        self._stopped = NoAnswer(reason, fix)
        return self._stopped

    def ask(self, call: Callable[..., Result], *args: object, **kwargs: object) -> Result | Refused:
        """Return the answer to a request, or the refusal.

        Raises:
            NoAnswer: there is no answer that can be judged.
        """
        name = call.__name__
        if self._stopped:
            raise self._stopped
        if name not in self._answers:
            try:
                self._answers[name] = self._send(call, *args, **kwargs)
            except NoAnswer as reason:
                self._answers[name] = reason
        answer: Result | Refused | NoAnswer = self._answers[name]
        if isinstance(answer, NoAnswer):
            raise answer
        return answer

    def _send(self, call: Callable[..., Result], *args: object, **kwargs: object) -> object:
        if self._remaining() < REQUEST_SECONDS + STOP_BEFORE_TIMEOUT:
            raise self.stop(OUT_OF_TIME)
        try:
            return self._gateway.ask(call, *args, **kwargs, seconds=REQUEST_SECONDS)
        except (NotNow, NotReached, SecretUnavailable) as error:
            raise self.stop(str(error).rstrip(".")) from None
        except Refused as refusal:
            if refusal.kind is RefusalKind.THROTTLED:
                raise self.stop(answer_of(refusal)) from None
            if refusal.kind is RefusalKind.UNUSABLE:
                raise NoAnswer(str(refusal)) from None
            return refusal


class Inspection:
    """Makes the findings of one check. One that could not be made is not ``ok``."""

    def __init__(
        self, service: Service, installation: Installation, remaining: Callable[[], float]
    ) -> None:
        self._service = service
        self._stream = service.gateway.stream
        self._installation = installation
        self._remaining = remaining
        self._questions = Questions(service, remaining)

    def findings(self) -> list[Finding]:
        """Make all findings; one check that fails hides no other."""
        # The tables first: they answer within milliseconds, Cloudflare may take seconds.
        of_the_stack = [
            self._finding("poll", self._poll),
            self._finding("reconciliation", self._reconciliation),
            self._finding("gate", self._gate),
            self._finding("oldest_due", self._oldest_due),
        ]
        of_cloudflare = [
            self._finding("credentials", self._credentials),
            self._finding("account", self._account),
            self._finding("permission", self._permission),
            self._finding("subscription", self._subscription),
            self._finding("signing_secret", self._signing_secret),
        ]
        return of_cloudflare + of_the_stack

    def _finding(self, name: str, judge: Callable[[], Verdict]) -> Finding:
        if self._remaining() < STOP_BEFORE_TIMEOUT:
            detail, fix = not_checked(OUT_OF_TIME)
            return Finding(name, ok=False, detail=detail, fix=fix)
        try:
            detail, fix = judge()
        except NoAnswer as reason:
            detail, fix = not_checked(str(reason), reason.fix)
        except Exception as error:  # noqa: BLE001 - one check that fails hides no other
            details = described(error)
            logger.error("A check failed", extra={"check": name, **details})
            detail, fix = not_checked(f"{details['error']}: {details['error_message']}")
        return Finding(name, ok=fix is None, detail=detail, fix=fix)

    # --- Cloudflare ---------------------------------------------------------------------------

    def _credentials(self) -> Verdict:
        try:
            self._service.gateway.reread_credentials()
        except SecretUnavailable as error:
            self._questions.stop("the credentials cannot be used", SEE_CREDENTIALS)
            problem = str(error)
            return f"{problem}.", next(fix for part, fix in SECRET_FIXES if part in problem)
        refusal = self._refusal_to_list()
        if refusal is None:
            return "The secret can be read, and Cloudflare accepts the credentials in it.", None
        if not is_about_credentials(refusal):
            return "The secret can be read, and has the form of credentials.", None
        self._questions.stop("Cloudflare does not accept the credentials", SEE_CREDENTIALS)
        return f"Cloudflare does not accept the credentials: {answer_of(refusal)}.", NEW_TOKEN

    def _account(self) -> Verdict:
        refusal = self._refusal_to_list()
        if refusal is None:
            return "Cloudflare lists the videos of the account.", None
        if refusal.kind is RefusalKind.CREDENTIALS:
            return not_checked("Cloudflare refuses to list the videos", SEE_PERMISSION)
        self._questions.stop("Cloudflare does not know the account", SEE_ACCOUNT)
        return f"Cloudflare does not know the account: {answer_of(refusal)}.", OTHER_ACCOUNT

    def _permission(self) -> Verdict:
        refusal = self._refusal_to_list()
        if refusal:
            self._questions.stop("Cloudflare refuses to list the videos", SEE_PERMISSION)
            return f"Cloudflare refuses to list the videos: {answer_of(refusal)}.", PERMIT
        create = self._stream.create_download
        answer = self._questions.ask(create, NO_VIDEO, DownloadType.DEFAULT)
        if isinstance(answer, Refused) and answer.kind is RefusalKind.CREDENTIALS:
            return f"Cloudflare lists videos, but refuses to edit: {answer_of(answer)}.", PERMIT
        return "The credentials allow to list videos and to create downloads.", None

    def _refusal_to_list(self) -> Refused | None:
        """Return the refusal to list videos that is about the credentials or the account."""
        answer = self._questions.ask(self._stream.list_videos, limit=1)
        if not isinstance(answer, Refused):
            return None
        codes = {error.code for error in answer.errors}
        if answer.kind in (RefusalKind.CREDENTIALS, RefusalKind.NOT_FOUND) or codes & NO_ROUTE:
            return answer
        raise NoAnswer(answer_of(answer))

    def _subscription(self) -> Verdict:
        found = self._found_subscription()
        if found and is_same_url(found, self._installation.webhook_url):
            return "Cloudflare sends the account's webhooks to this stack.", None
        receiver = found.notification_url if found else "nobody"
        there = f"Cloudflare sends the account's webhooks to {receiver}."
        if found and found.secret.encode() == self._stored_secret:
            return (
                f"{there} This stack knows their signing secret, and takes what is passed on.",
                None,
            )
        if found and position_of(self._service.control) == GUEST:
            return f"{there} This stack does not know their signing secret yet.", STORE_AS_GUEST
        minutes = self._installation.reconcile_minutes
        there += f" The reconciliation finds new videos, every {counted(minutes, 'minute')}."
        if minutes <= MINUTES_WITHOUT_WEBHOOK:
            return there, None
        fix = TAKE_OVER_OR_SHARE if found else "Invoke RegisterWebhook with {}."
        return there, f"{fix} {WITHOUT_WEBHOOK}"

    def _signing_secret(self) -> Verdict:
        stored = self._stored_secret
        if isinstance(stored, str):
            return f"{stored}.", STORE_AGAIN
        found = self._found_subscription()
        if found is None:
            return "It can be read. There is no subscription to compare it with.", None
        if found.secret.encode() == stored:
            return "It is the secret that Cloudflare signs with.", None
        if is_same_url(found, self._installation.webhook_url):
            return (
                "It is not the secret that Cloudflare signs with: webhooks are refused.",
                "Invoke RegisterWebhook with {}: it stores Cloudflare's secret.",
            )
        return "It can be read. The subscription is another's: see the finding subscription.", None

    def _found_subscription(self) -> WebhookSubscription | None:
        found = self._questions.ask(self._stream.get_webhook)
        if isinstance(found, Refused):
            raise NoAnswer(answer_of(found))
        return found

    @cached_property
    def _stored_secret(self) -> bytes | str:
        """Return the stored signing secret, or the text that says why it cannot be used."""
        try:
            return self._installation.signing_secret()
        except SecretUnavailable as error:
            return str(error)

    # --- the stack ----------------------------------------------------------------------------

    def _poll(self) -> Verdict:
        kept = self._service.control.read(POLLER_LEASE)
        fix = (
            "A run is due every minute: check again in two minutes. If this stays, look whether the"
            " schedule of PollDownloads is enabled, and for errors in its log."
        )
        completed_at = kept.value.get("notes", {}).get("completed_at")
        if completed_at is None:
            return "No run of PollDownloads has completed yet.", fix
        detail = f"The last complete run of PollDownloads ended {ago(completed_at, kept.now)}."
        return detail, None if kept.now - completed_at <= POLL_OVERDUE else fix

    def _reconciliation(self) -> Verdict:
        kept = self._service.control.read(LOOK_BACK)
        period = self._installation.reconcile_minutes * 60
        fix = (
            "Invoke ReconcileLibrary with {}: its answer says what holds it up. If it works, look"
            " whether its schedule is enabled."
        )
        began_at = kept.value.get("completed_at")
        if began_at is None:
            return "No reconciliation has completed yet.", fix
        detail = f"The last complete reconciliation began {ago(began_at, kept.now)}."
        overdue = max(2 * period, RECONCILIATION_OVERDUE_AT_LEAST)
        return detail, None if kept.now - began_at <= overdue else fix

    def _gate(self) -> Verdict:
        used, limit, blocked_until = self._service.gateway.usage()
        if blocked_until:
            return f"Cloudflare answered 429: no request before {iso_time(blocked_until)}.", (
                "Wait: everything goes on automatically then. If it happens again, lower"
                " CloudflareRequestLimit, or give the stack's token a user of its own."
            )
        return f"Open: {used} of {counted(limit, 'request')} used in five minutes.", None

    def _oldest_due(self) -> Verdict:
        oldest = oldest_due(self._service, LIVE_QUEUES)  # a backfill may wait for hours
        now = self._service.clock()
        if oldest is None:
            return "Nothing is due.", None
        detail = f"The oldest download that is due has been so since {iso_time(oldest)}."
        return detail, None if now - oldest <= DUE_TOO_LONG else (
            'Fix what the other findings say. If all are ok, invoke {"action": "status"}: with the'
            " requests used up, raise CloudflareRequestLimit; otherwise look for errors in the log"
            " of PollDownloads."
        )


# --- words ------------------------------------------------------------------------------------


def not_checked(reason: str, fix: str = CHECK_AGAIN) -> Verdict:
    """Return the verdict on what could not be checked."""
    return f"Not checked: {reason}.", fix


def is_about_credentials(refusal: Refused) -> bool:
    """Return True if the credentials are invalid, False if they only lack a permission."""
    codes = {error.code for error in refusal.errors}
    return refusal.status == 401 or not INVALID_CREDENTIALS.isdisjoint(codes)


def answer_of(refusal: Refused) -> str:
    """Return what Cloudflare answered, without advice."""
    errors = "; ".join(f"{error.code} {error.message}" for error in refusal.errors)
    return f"Cloudflare answered {refusal.status}" + (f" ({errors})" if errors else "")


def counted(count: float, noun: str) -> str:
    """Return a number with its noun: ``1 minute``, ``2 minutes``."""
    return f"{count:g} {noun}" + ("" if count == 1 else "s")


def ago(then: float, now: float) -> str:
    """Return how long ago ``then`` was, in the largest unit, and its time."""
    seconds = max(0.0, now - then)
    for size, unit in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds >= size:
            return f"{counted(seconds // size, unit)} ago, at {iso_time(then)}"
    return f"{counted(seconds // 1, 'second')} ago, at {iso_time(then)}"
