"""Simulate Cloudflare Stream: in memory, in place of a connection pool, or over HTTP."""

from tests.simulator.core import Call, Settings, StreamSimulator
from tests.simulator.faults import Fault
from tests.simulator.limits import RateLimiter
from tests.simulator.messages import Request, Response, Wire
from tests.simulator.server import SimulatorServer
from tests.simulator.transport import BASE_URL, InProcessPool
from tests.simulator.videos import CUSTOMER_HOST, PROGRESS, Upload, download_url, timestamp
from tests.simulator.webhooks import Webhook, signature, unreliable

__all__ = [
    "BASE_URL",
    "CUSTOMER_HOST",
    "PROGRESS",
    "Call",
    "Fault",
    "InProcessPool",
    "RateLimiter",
    "Request",
    "Response",
    "Settings",
    "SimulatorServer",
    "StreamSimulator",
    "Upload",
    "Webhook",
    "Wire",
    "download_url",
    "signature",
    "timestamp",
    "unreliable",
]
