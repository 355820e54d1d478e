"""Range headers with a thousand ranges: one answer, hardly larger than the file."""

from __future__ import annotations

import pytest

from .conftest import within

CONTENT = bytes(range(256)) * 4096

RANGES = {
    "thousands of single bytes": "bytes=" + ",".join(f"{2 * n}-{2 * n}" for n in range(5000)),
    "thousands of whole files": "bytes=" + ",".join(["0-"] * 5000),
    "thousands that overlap": "bytes=" + ",".join(f"{n}-" for n in range(5000)),
    "a hundred apart": "bytes=" + ",".join(f"{20 * n}-{20 * n}" for n in range(100)),
    "a hundred whole files": "bytes=" + ",".join(["0-"] * 100),
    "nothing but commas": "bytes=" + "," * 20_000,
    "numbers of thousands of digits": "bytes=" + "9" * 20_000 + "-",
    "a negative end": "bytes=5--7",
    "spaces": "bytes=" + " " * 20_000 + "0-1",
    "an end before its beginning": "bytes=9-1",
}


@pytest.mark.parametrize("what", RANGES)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_one_header_gets_one_bounded_answer(service, train_spec, publish, what: str, method: str):
    url = publish(service, service.claim(service.submit(train_spec)["id"]), "m.safetensors", CONTENT)
    with within(3):
        answer = service.http.request(method, f"{url}/m.safetensors", headers={"Range": RANGES[what]})
    assert answer.status_code in (200, 206, 400, 416), answer.text[:200]
    assert int(answer.headers["Content-Length"]) <= len(CONTENT) + 20_000
    assert len(answer.content) <= len(CONTENT) + 20_000


def test_two_range_headers_are_no_way_around(service, train_spec, publish):
    url = publish(service, service.claim(service.submit(train_spec)["id"]), "m.safetensors", CONTENT)
    headers = [(b"Range", b"bytes=0-9"), (b"Range", RANGES["thousands that overlap"].encode()[:30_000])]
    answer = service.http.get(f"{url}/m.safetensors", headers=headers)
    assert answer.status_code in (200, 206, 400, 416)
    assert len(answer.content) <= len(CONTENT)
