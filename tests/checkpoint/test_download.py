"""One file from a real server that fails in every way it can, through the real client."""

import os
import resource
import time
from dataclasses import replace

import pytest

from qwen35cli.checkpoint import download
from qwen35cli.checkpoint.download import Discarded, Received, fetch
from qwen35cli.checkpoint.hub import HubFile
from qwen35cli.checkpoint.remote import HOME, Patience, Remote, Retrying, address
from qwen35cli.errors import DoesNotFitError, ModelError, Qwen35Error, UsageError
from tests.hub_server import COMMIT, REPO, etag, serving

WEIGHTS = bytes(range(256)) * 800  # 204,800
SMALL = b'{"a": 1}\n' * 50
QUICK = Patience(
    connect_s=2.0,
    stall_s=10.0,
    tries=4,
    first_wait_s=0.01,
    longest_wait_s=0.02,
    progress_bytes=4096,
)
NAMES = {"model.safetensors": WEIGHTS, "config.json": SMALL}


@pytest.fixture
def hub():
    with serving(NAMES) as hub:
        yield hub


def listed(name):
    data = NAMES[name]
    tag = etag(name, data)
    return HubFile(name, len(data), tag, tag if len(tag) == 64 else None)


@pytest.fixture
def get(hub, tmp_path):
    """Fetch a file; the events."""

    def call(name="model.safetensors", *, token=None, patience=QUICK):
        remote = Remote(hub.endpoint, token, patience)
        file = listed(name)
        part = tmp_path / f"{file.etag}.part"
        return [*fetch(remote, remote.file_url(REPO, COMMIT, name), file, part)]

    return call


@pytest.fixture
def part(tmp_path):
    return tmp_path / f"{listed('model.safetensors').etag}.part"


def ranges(hub):
    return [asked.headers.get("range") for asked in hub.gets("/xet/")]


def reasons(events):
    return [event.reason for event in events if isinstance(event, Retrying)]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_comes_whole(hub, get, tmp_path, name):
    events = get(name)
    assert (tmp_path / f"{listed(name).etag}.part").read_bytes() == NAMES[name]
    assert [event.done for event in events if isinstance(event, Received)][-1] == len(NAMES[name])
    assert not reasons(events)


def test_an_earlier_part_is_gone_on_with(hub, get, part):
    part.write_bytes(WEIGHTS[:50_000])
    get()
    assert part.read_bytes() == WEIGHTS
    assert ranges(hub) == ["bytes=50000-"]


def test_a_complete_part_is_only_hashed(hub, get, part):
    part.write_bytes(WEIGHTS)
    get()
    assert not hub.asked


def test_a_part_that_is_too_long_begins_anew(hub, get, part):
    part.write_bytes(WEIGHTS + b"more")
    get()
    assert part.read_bytes() == WEIGHTS
    assert ranges(hub) == [None]


@pytest.mark.parametrize("then", ["drop", "reset", "stall"])
def test_a_broken_connection_is_taken_up_where_it_broke(hub, get, part, then):
    hub.fail("storage:", after=100_000, then=then, seconds=5)
    start = time.monotonic()
    events = get(patience=replace(QUICK, stall_s=0.25) if then == "stall" else QUICK)
    assert time.monotonic() - start < 3
    assert part.read_bytes() == WEIGHTS
    assert len(reasons(events)) == 1
    assert "sent nothing for 0.25 s" in reasons(events)[0] or then != "stall"
    [first, second] = hub.gets("/xet/")
    assert "range" not in first.headers
    if then != "reset":  # where the kernel may drop what was under way
        assert second.headers["range"] == "bytes=100000-"
    assert second.headers["if-range"] == f'"{listed("model.safetensors").etag[:32]}"'


def test_the_servers_tag_outlives_the_process(hub, get, part):
    hub.fail("storage:", after=8_192, then="drop", times=4)
    hub.fail("storage:", status=500, times=9)
    with pytest.raises(ModelError):
        get()
    hub.faults.clear()
    get()
    assert hub.gets("/xet/")[-1].headers["if-range"] == (
        f'"{listed("model.safetensors").etag[:32]}"'
    )
    assert part.read_bytes() == WEIGHTS


def test_another_tag_of_the_same_content_loses_nothing(hub, get, part):
    part.write_bytes(WEIGHTS[:50_000])
    part.with_name(f"{part.name}.etag").write_text('"of-another-host"')
    hub.storage_tag = '"new"'
    get()
    assert ranges(hub) == ["bytes=50000-", "bytes=50000-"]
    assert part.read_bytes() == WEIGHTS


def test_a_weak_tag_is_not_a_condition(hub, get):
    hub.storage_tag = 'W/"weak"'
    hub.fail("storage:", after=100_000)
    get()
    assert "if-range" not in hub.gets("/xet/")[1].headers


def test_a_200_to_a_range_begins_anew(hub, get, part):
    part.write_bytes(b"x" * 50_000)
    hub.fail("storage:", ignore_range=True)
    events = get()
    assert part.read_bytes() == WEIGHTS
    assert not any(isinstance(event, Discarded) for event in events)


@pytest.mark.parametrize(
    "content_range", ["bytes 0-204799/204800", "bytes 49999-204799/204800", "rubbish"]
)
def test_another_range_than_asked_for_is_not_taken(hub, get, part, content_range):
    part.write_bytes(WEIGHTS[:50_000])
    hub.fail("storage:", content_range=content_range)
    assert "another range" in reasons(get())[0]
    assert part.read_bytes() == WEIGHTS


def test_a_range_of_another_size_is_wrong_content(hub, get, part):
    part.write_bytes(WEIGHTS[:50_000])
    hub.fail("storage:", content_range="bytes 50000-204799/999999")
    events = get()
    [discarded] = [event for event in events if isinstance(event, Discarded)]
    assert "999,999 bytes" in discarded.reason
    assert part.read_bytes() == WEIGHTS


def test_a_416_begins_anew(hub, get, part):
    part.write_bytes(WEIGHTS[:100_000])
    hub.fail("storage:", change=lambda data: data[:1_000])
    assert "no bytes after" in reasons(get())[0]
    assert ranges(hub) == ["bytes=100000-", None]
    assert part.read_bytes() == WEIGHTS


@pytest.mark.parametrize("chunked", [False, True])
def test_truncation_shows_and_is_made_up_for(hub, get, part, chunked):
    hub.fail("storage:", change=lambda data: data[:60_000], chunked=chunked)
    assert "ended the file too early" in reasons(get())[0]
    assert ranges(hub) == [None, "bytes=60000-"]
    assert part.read_bytes() == WEIGHTS


def flipped(data):
    return data[:70_000] + bytes([data[70_000] ^ 1]) + data[70_001:]


def test_wrong_bytes_of_the_right_size_are_fetched_once_more(hub, get, part):
    hub.fail("storage:", change=flipped)
    events = get()
    [discarded] = [event for event in events if isinstance(event, Discarded)]
    assert "is not the published" in discarded.reason
    assert ranges(hub) == [None, None]
    assert part.read_bytes() == WEIGHTS


@pytest.mark.parametrize("name", NAMES)
def test_wrong_bytes_twice_are_an_error_with_both_hashes(hub, get, tmp_path, name):
    hub.fail(
        "storage:" if name.startswith("model") else "resolve",
        change=lambda data: bytes([data[0] ^ 1]) + data[1:],
        times=2,
    )
    with pytest.raises(ModelError, match="wrong content twice") as refusal:
        get(name)
    assert refusal.value.exit_code == 3
    assert listed(name).etag in refusal.value.message
    found = etag(name, bytes([NAMES[name][0] ^ 1]) + NAMES[name][1:])
    assert found in refusal.value.message
    assert not list(tmp_path.iterdir())


def test_a_damaged_part_is_found_and_costs_one_retry(hub, get, part):
    part.write_bytes(b"x" * 50_000)
    events = get()
    assert sum(isinstance(event, Discarded) for event in events) == 1
    assert part.read_bytes() == WEIGHTS


def test_a_file_without_an_end_is_stopped(hub, get, part):
    hub.fail("storage:", change=lambda data: data + b"more" * 10_000, times=2)
    with pytest.raises(ModelError, match="more than the published 204,800 bytes"):
        get()
    assert not part.exists()


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
@pytest.mark.parametrize("at", ["hub:", "storage:"])
def test_what_may_pass_is_waited_for(hub, get, part, status, at):
    hub.fail(at, status=status, times=2)
    assert [f"answers {status}" in reason for reason in reasons(get())] == [True, True]
    assert part.read_bytes() == WEIGHTS


def test_what_does_not_pass_ends_with_numbers_and_keeps_the_part(hub, get, part):
    hub.fail("storage:", after=100_000)
    hub.fail("storage:", status=503, times=99)
    with pytest.raises(ModelError) as refusal:
        get()
    assert "stopped at 100,000 of 204,800 bytes" in refusal.value.message
    assert "answers 503 Service Unavailable" in refusal.value.message
    assert "goes on from there" in refusal.value.hint
    assert part.read_bytes() == WEIGHTS[:100_000]


def test_progress_makes_up_for_failures(hub, get, part):
    hub.fail("storage:", after=20_000, times=10)
    assert len(reasons(get())) == 10
    assert part.read_bytes() == WEIGHTS


def test_retry_after_is_heeded(hub, get):
    hub.fail("storage:", status=429, headers={"Retry-After": "1"})
    [retrying] = [event for event in get() if isinstance(event, Retrying)]
    assert retrying.wait_s == 1.0


def test_a_wait_that_is_too_long_is_an_error(hub, get):
    hub.fail("storage:", status=429, headers={"Retry-After": "3600"})
    with pytest.raises(ModelError, match="asks to wait 3600 s"):
        get()


def test_back_off_doubles():
    patience = Patience(first_wait_s=1.0, longest_wait_s=8.0)
    assert [patience.wait_s(n) for n in (1, 2, 3, 4, 5)] == [1, 2, 4, 8, 8]


def test_a_signed_address_that_expired_is_asked_for_anew(hub, get, part):
    hub.fail("storage:", after=100_000)
    hub.fail("storage:", status=403)
    events = get()
    assert [event.wait_s for event in events if isinstance(event, Retrying)][1] == 0.02
    assert part.read_bytes() == WEIGHTS
    assert len({asked.path for asked in hub.gets("/xet/")}) == 3
    assert len(hub.gets("/resolve/")) == 3


def test_the_first_expiry_costs_no_time(hub, get):
    hub.fail("storage:", status=403)
    [retrying] = [event for event in get() if isinstance(event, Retrying)]
    assert retrying.wait_s == 0


@pytest.mark.parametrize(
    ("status", "headers", "message"),
    [
        (401, {}, "there is no token"),
        (403, {"X-Error-Code": "GatedRepo"}, "gated: its owner wants to be asked"),
        (404, {"X-Error-Code": "EntryNotFound"}, "model.safetensors is not there"),
        (410, {}, "cannot be had: 127.0.0.1 answers 410"),
    ],
)
def test_what_the_hub_refuses_ends_at_once(hub, get, status, headers, message):
    hub.fail("hub:", status=status, headers=headers, times=9)
    with pytest.raises(ModelError, match=message):
        get()
    assert len(hub.asked) == 1


def test_the_token_goes_to_the_hub_and_nowhere_else(hub, get):
    hub.private_token = "hf_secret"
    get(token="hf_secret")
    assert [asked.headers.get("authorization") for asked in hub.asked] == [
        "Bearer hf_secret",
        None,
    ]
    assert "hf_secret" not in repr(Remote(hub.endpoint, "hf_secret"))


def test_a_renamed_repository_is_followed_with_the_token(hub, get):
    hub.private_token = "hf_secret"
    hub.fail(
        "hub:",
        status=307,
        headers={"Location": f"/{REPO}/resolve/{COMMIT}/model.safetensors"},
    )
    get(token="hf_secret")
    assert len(hub.gets("/xet/")) == 1


def test_redirects_without_an_end_are_given_up(hub, get):
    hub.fail("hub:", status=302, headers={"Location": "/again"}, times=99)
    with pytest.raises(ModelError, match="redirects without an end"):
        get()


def test_a_packed_answer_is_not_taken_for_the_file(hub, get):
    hub.fail("storage:", headers={"Content-Encoding": "gzip"})
    assert "sends the file packed" in reasons(get())[0]
    assert hub.asked[0].headers["accept-encoding"] == "identity"


def test_nobody_there_is_an_error(get, hub, part):
    remote = Remote("http://127.0.0.1:1", None, QUICK)
    file = listed("model.safetensors")
    with pytest.raises(ModelError, match=r"stopped at 0 of 204,800 bytes: 127\.0\.0\.1:1"):
        [*fetch(remote, remote.file_url(REPO, COMMIT, file.name), file, part)]


def test_a_full_disk_ends_it_at_once_and_keeps_the_part(hub, get, part):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (90_000, before[1]))
    try:
        with pytest.raises(DoesNotFitError, match="is full: File too large") as refusal:
            get()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert refusal.value.exit_code == 5
    assert len(hub.gets("/xet/")) == 1
    assert part.read_bytes() == WEIGHTS[:90_000]
    get()
    assert ranges(hub)[1] == "bytes=90000-"


def test_a_disk_that_takes_nothing_is_an_error(hub, tmp_path):
    (tmp_path / "file").touch()
    remote, file = Remote(hub.endpoint, None, QUICK), listed("model.safetensors")
    with pytest.raises(Qwen35Error, match=r"could not write .*Not a directory"):
        [*fetch(remote, "http://127.0.0.1:1/", file, tmp_path / "file" / "x.part")]


def test_an_interruption_keeps_what_came(hub, part):
    hub.fail("storage:", after=100_000, then="pause", seconds=5)
    remote, file = Remote(hub.endpoint, None, Patience(stall_s=9)), listed("model.safetensors")
    work = fetch(remote, remote.file_url(REPO, COMMIT, file.name), file, part)
    for event in work:
        if event.done >= 100_000:
            break
    work.close()
    assert part.read_bytes() == WEIGHTS[:100_000]


def test_it_is_on_the_disk_before_it_is_called_complete(hub, get, monkeypatch):
    synced = []
    monkeypatch.setattr(download.os, "fsync", lambda number: synced.append(os.fstat(number)))
    get()
    assert synced[-1].st_size == len(WEIGHTS)


def test_a_slow_server_is_not_a_stalled_one(hub, get, part):
    hub.delay = 0.02
    patience = Patience(stall_s=0.25)
    start = time.monotonic()
    assert not reasons(get(patience=patience))
    assert time.monotonic() - start > patience.stall_s
    assert part.read_bytes() == WEIGHTS


# -- the host --------------------------------------------------------------------------------------


@pytest.mark.parametrize("endpoint", ["", HOME, "http://127.0.0.1:8080", "https://host/prefix"])
def test_an_address_is_one(endpoint):
    assert address(endpoint) == (endpoint or HOME)


@pytest.mark.parametrize(
    "endpoint",
    ["huggingface.co", "127.0.0.1:80", "ftp://host", "https://", "http://h:x", "http://["],
)
def test_what_is_no_address_is_refused_before_it_is_asked(endpoint):
    with pytest.raises(UsageError, match="HF_ENDPOINT is"):
        address(endpoint)


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "ftp://127.0.0.1"])
def test_a_proxy_that_cannot_be_used_is_named(get, monkeypatch, proxy):
    import huggingface_hub

    huggingface_hub.close_session()
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(Qwen35Error, match="the proxy that is set cannot be used") as refusal:
        get()
    assert "ALL_PROXY" in refusal.value.hint
