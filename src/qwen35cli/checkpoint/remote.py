"""The Hub's host over HTTP: one request at a time, retried where that may help, never for ever.

Through the client of huggingface_hub, so that its proxies and its offline switch hold. Redirects
are followed here: the token is for the Hub alone, and the signed addresses it gives out get none.
"""

import json
import sys
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from qwen35cli import __version__
from qwen35cli.errors import ModelError, Qwen35Error, UsageError

MOST_REDIRECTS = 5
LONGEST_RETRY_AFTER_S = 120.0
MAX_JSON_BYTES = 16 * 2**20
HOME = "https://huggingface.co"
GO_ON = "run the same command again, it goes on from there; HF_ENDPOINT names a mirror"
AGAIN = {408, 425, 429, 500, 502, 503, 504}


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long is waited for the network, in seconds, and how often it is tried again."""

    connect_s: float = 10.0
    stall_s: float = 30.0  # without a byte
    tries: int = 6  # in a row, without progress
    first_wait_s: float = 1.0  # doubled each time
    longest_wait_s: float = 30.0
    progress_bytes: int = 2**16  # so much is progress

    def wait_s(self, failures: int) -> float:
        return min(self.first_wait_s * 2 ** (failures - 1), self.longest_wait_s)


@dataclass(frozen=True, slots=True)
class Retrying:
    """It failed for a reason that may pass; the next try comes in `wait_s` seconds."""

    reason: str
    wait_s: float


class Passing(Exception):
    """A failure that may pass: the reason, and how long to wait where the server says it."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.wait_s = wait_s


class Expired(Passing):
    """A signed address that does not hold any more: another one is to be had at once."""


@dataclass(slots=True)
class Attempts:
    """Counts the failures in a row."""

    patience: Patience
    tries: int
    failures: int = 0

    def failed(self, error: Passing, message: str, hint: str) -> Retrying:
        """What to do about a failure.

        Raises:
            ModelError: it was one too many; `message` and the reason.
        """
        self.failures += 1
        if self.failures >= self.tries or (error.wait_s or 0) > LONGEST_RETRY_AFTER_S:
            later = f"; the server asks to wait {error.wait_s:.0f} s" if error.wait_s else ""
            raise ModelError(f"{message}: {error.reason}{later}", hint)
        if isinstance(error, Expired) and self.failures == 1:
            return Retrying(error.reason, 0.0)
        wait_s = self.patience.wait_s(self.failures) if error.wait_s is None else error.wait_s
        return Retrying(error.reason, wait_s)


@dataclass(frozen=True, slots=True)
class Remote:
    """A host with the Hub's routes, and who asks it."""

    endpoint: str
    token: str | None = field(default=None, repr=False)
    patience: Patience = field(default_factory=Patience)

    @property
    def host(self) -> str:
        return urlsplit(self.endpoint).netloc

    def file_url(self, repo_id: str, commit: str, name: str) -> str:
        return f"{self.endpoint}/{repo_id}/resolve/{commit}/{quote(name)}"

    def get_json(self, path: str, what: str) -> Generator[Retrying, None, tuple[Any, str | None]]:
        """The JSON at `path` and the address of its next page; `what` is for messages.

        Raises:
            ModelError: it cannot be had.
        """
        url = urljoin(f"{self.endpoint}/", path)
        attempts = Attempts(self.patience, min(self.patience.tries, 3))
        while True:
            try:
                with self.open(url, {}, what) as response:
                    body = bytearray()
                    for chunk in self.body(response):
                        body += chunk
                        if len(body) > MAX_JSON_BYTES:
                            raise ModelError(f"{self.host} sends a listing without an end", "")
                    links = response.links
                try:
                    return json.loads(body), links.get("next", {}).get("url")
                except (ValueError, RecursionError):
                    raise Passing(f"{self.host} answers with something that is no JSON") from None
            except Passing as error:
                yield attempts.failed(
                    error,
                    f"could not ask for {what}",
                    "check the network, HTTPS_PROXY and HF_ENDPOINT; --offline goes without",
                )

    @contextmanager
    def open(self, url: str, headers: Mapping[str, str], what: str) -> Iterator[Any]:
        """The answer to a GET, 200, 206 or 416, its body yet to be read; redirects are followed.

        Raises:
            Passing: it may work later, also where the connection fails inside of the block.
            ModelError: it will not.
        """
        client = _client()
        patience = self.patience
        timeout = (patience.connect_s, patience.stall_s, patience.stall_s, patience.connect_s)
        failures = sys.modules[type(client).__module__.partition(".")[0]]  # httpx, or httpx2
        at = url
        try:
            for _ in range(MOST_REDIRECTS):
                at_home = _origin(at) == _origin(self.endpoint)
                with client.stream(
                    "GET",
                    at,
                    headers=self._headers(headers, at_home=at_home),
                    follow_redirects=False,
                    timeout=timeout,
                ) as response:
                    if response.is_redirect:
                        at = urljoin(at, response.headers["location"])
                        continue
                    self._check(response, what, at_home=at_home)
                    yield response
                    return
            raise Passing(f"{self.host} redirects without an end")
        except failures.TimeoutException as error:
            raise Passing(self._patience_lost(error, urlsplit(at).netloc)) from None
        except (failures.TransportError, failures.InvalidURL, failures.StreamError) as error:
            reason = str(error) or type(error).__name__
            raise Passing(f"{urlsplit(at).netloc}: {reason}") from None

    def body(self, response: Any) -> Iterator[bytes]:
        """The bytes of an answer as they come.

        Raises:
            Passing: they are packed, though they were asked for as they are.
        """
        if response.headers.get("content-encoding", "identity") != "identity":
            raise Passing(f"{response.url.host} sends the file packed")
        yield from response.iter_raw()

    def _headers(self, more: Mapping[str, str], *, at_home: bool) -> dict[str, str]:
        own = {"user-agent": f"qwen35cli/{__version__}", "accept-encoding": "identity"}
        if at_home and self.token is not None:
            own["authorization"] = f"Bearer {self.token}"
        return {**own, **more}

    def _check(self, response: Any, what: str, *, at_home: bool) -> None:
        code = response.status_code
        if code in (200, 206, 416):
            return
        said = f"{response.url.host} answers {code} {_phrase(code)}"
        if code in AGAIN:
            raise Passing(said, _retry_after(response.headers.get("retry-after")))
        if code == 403 and not at_home:
            raise Expired(f"{said}: the signed address does not hold any more")
        if code in (401, 403):
            why = response.headers.get("x-error-code")
            gated = " (gated: its owner wants to be asked)" if why == "GatedRepo" else ""
            token = "the token does not open it" if self.token else "there is no token"
            raise ModelError(
                f"{what} cannot be had{gated}, {token}: {said}",
                f"check the name, and that {self.endpoint} lets you in; then hf auth login",
            )
        if code == 404:
            raise ModelError(f"{what} is not there: {said}", "check the name and --revision")
        raise ModelError(f"{what} cannot be had: {said}", "HF_ENDPOINT names another host")

    def _patience_lost(self, error: Exception, host: str) -> str:
        if type(error).__name__ == "ReadTimeout":
            return f"{host} sent nothing for {self.patience.stall_s:g} s"
        return f"{host} did not answer within {self.patience.connect_s:g} s"


def address(endpoint: str) -> str:
    """What `HF_ENDPOINT` names, or the Hub itself where that is empty.

    Raises:
        UsageError: it is no address of a host.
    """
    try:
        parts = urlsplit(endpoint or HOME)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return endpoint or HOME
    except ValueError:  # of brackets, or the port
        pass
    raise UsageError(f"HF_ENDPOINT is {endpoint!r}, which is no address", f"HF_ENDPOINT={HOME}")


def _client() -> Any:
    """The client of huggingface_hub, as proxies and its own variables make it."""
    from huggingface_hub import get_session  # late: half a second

    try:
        return get_session()
    except (ImportError, ValueError) as error:
        raise Qwen35Error(
            f"the proxy that is set cannot be used: {error}",
            "check HTTPS_PROXY, HTTP_PROXY and ALL_PROXY; SOCKS needs: pip install socksio",
        ) from None


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme.lower(), parts.netloc.lower()


def _phrase(code: int) -> str:
    return HTTPStatus(code).phrase if code in HTTPStatus._value2member_map_ else ""


def _retry_after(value: str | None) -> float | None:
    return float(value) if value is not None and value.isascii() and value.isdigit() else None
