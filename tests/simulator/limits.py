"""Simulate Cloudflare's rate limit: over it, no request for the next five minutes."""

from __future__ import annotations

import math
from collections import deque

WINDOW_SECONDS = 300.0


class RateLimiter:
    """Counts the requests of one user, whichever client sends them. Times are in seconds.

    https://developers.cloudflare.com/fundamentals/api/reference/limits/
    """

    def __init__(self, limit: int = 1200) -> None:
        self.limit = limit
        self.blocked_until = -math.inf
        self._times: deque[float] = deque()

    def take(self, now: float, requests: int = 1) -> float | None:
        """Count ``requests``; return the seconds of the block if over the limit, else None."""
        if now >= self.blocked_until:
            self._forget(now)
            self._times.extend([now] * requests)
            if len(self._times) <= self.limit:
                return None
            self.blocked_until = now + WINDOW_SECONDS
            self._times.clear()
        return self.blocked_until - now

    def headers(self, now: float) -> dict[str, str]:
        """Return the headers of every answer about the limit."""
        self._forget(now)
        if now < self.blocked_until:
            remaining, reset = 0, self.blocked_until - now
        else:
            remaining = self.limit - len(self._times)
            reset = self._times[0] + WINDOW_SECONDS - now if self._times else 0.0
        return {
            "ratelimit": f'"default";r={remaining};t={math.ceil(reset)}',
            "ratelimit-policy": f'"default";q={self.limit};w={WINDOW_SECONDS:.0f}',
        }

    def _forget(self, now: float) -> None:
        while self._times and self._times[0] <= now - WINDOW_SECONDS:
            self._times.popleft()
