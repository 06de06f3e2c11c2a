import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lab import HERE
from shark import fields
from test_http1 import GET, OK
from test_http2 import Pair
from test_requestlog import largest_file
from watching import CLIENT

import log
from packets import ACK_AFTER, Flow
from pcap import Parts, PcapFile

V4 = ("127.0.0.1:50818", "192.0.2.1:443")
V6 = ("[::1]:50818", "[2001:db8::1]:8443")
MIXED = ("127.0.0.1:50818", "[2001:db8::1]:443")
STRICT = ("-o", "ip.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE")


def opened(path: Path, version: str = "1.0") -> PcapFile:
    return PcapFile(path, version, list[int]().append)


def write(path: Path, *packets: Parts) -> None:
    file = opened(path)
    for batch in packets:
        file.write(batch)
    file.close()


@pytest.mark.parametrize("ends", [V4, V6, ("127.0.0.1:50818", "192.0.2.1:8080")])
def test_http1_is_dissected_without_any_option(tmp_path: Path, ends: tuple[str, str]) -> None:
    flow = Flow(*ends)
    path = tmp_path / "a.pcapng"
    write(path, flow.opened("a.example"), flow.sent(GET), flow.received(OK), flow.closed())
    found = fields(path, "http.request.full_uri", "http.response.code", "http.file_data", options=(), only="http")
    assert [row[1] for row in found] == ["", "200"]
    assert found[0][0] == "http://a.example/x"  # newer versions of tshark add it to the response, too
    assert found[1][2] in ("hi", "6869")  # text or hex, as tshark's version has it
    assert fields(path, "frame.comment", only="frame.comment") == [("a.example",)]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("ends", [V4, V6])
def test_http2_is_dissected_as_documented(tmp_path: Path, ends: tuple[str, str]) -> None:
    pair = Pair()
    pair.answer(pair.ask(), body=b"hello")
    flow = Flow(*ends)
    path = tmp_path / "a.pcapng"
    write(path, flow.opened(), *[(flow.sent if who == CLIENT else flow.received)(data) for who, data in pair.said])
    found = fields(path, "http2.headers.path", "http2.headers.status", only="http2.headers")
    assert found == [("/x", ""), ("", "200")]
    assert fields(path, "http2.type", only="http2.magic")


def test_a_body_of_many_segments_is_put_together(tmp_path: Path) -> None:
    body = os.urandom(300_000)
    flow = Flow(*V4)
    path = tmp_path / "a.pcapng"
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: 300000\r\n\r\n"
    write(path, flow.opened(), flow.sent(GET), flow.received(head + body), flow.closed())
    assert fields(path, "http.content_length", "http.response.code", only="http.response") == [("300000", "200")]
    result = fields(path, "tcp.len", "tcp.options.mss_val")
    assert max(int(length) for length, _ in result) <= int(result[0][1])
    assert sum(int(length) for length, _ in result) == len(GET + head + body)


@pytest.mark.parametrize(
    ("ends", "addresses"),
    [
        (V4, ("127.0.0.1", "192.0.2.1")),
        (V6, ("::1", "2001:db8::1")),
        (MIXED, ("::ffff:127.0.0.1", "2001:db8::1")),
        (("192.0.2.7:1", "[fe80::1%eth0]:2"), ("::ffff:192.0.2.7", "fe80::1")),
    ],
)
def test_the_tcp_is_without_a_fault(tmp_path: Path, ends: tuple[str, str], addresses: tuple[str, str]) -> None:
    path = tmp_path / "a.pcapng"
    batches = []
    for cut in (False, True):  # the same ports again, as a flow of its own
        flow = Flow(*ends)
        batches += [
            flow.opened(),
            flow.sent(b"a"),
            flow.received(os.urandom(99)),
            flow.sent(memoryview(b"bcd")),
            flow.sent(b""),
        ]
        batches += [flow.received(os.urandom(2 * ACK_AFTER + 1)), flow.sent(b"e"), flow.closed(cut)]
    write(path, *batches)
    kind = "ipv6" if ":" in addresses[0] else "ip"
    rows = fields(path, "tcp.stream", f"{kind}.src", "tcp.srcport", "tcp.flags.str", options=STRICT)
    assert {row[0] for row in rows} == {"0", "1"}
    assert {row[1:3] for row in rows} == {
        (addresses[0], ends[0].rpartition(":")[2]), (addresses[1], ends[1].rpartition(":")[2])
    }  # fmt: skip
    marks = [row[3].strip("·") for row in rows if row[0] == "0"]
    assert [mark for mark in marks if "S" in mark or "F" in mark or "R" in mark] == ["S", "A··S", "A···F", "A···F"]
    assert [row[3].strip("·") for row in rows if row[0] == "1"][-1] == "A·R"
    wrong = "_ws.malformed || ip.checksum.status == 0 || tcp.checksum.status == 0"
    wrong += " || (tcp.analysis.flags && !tcp.analysis.reused_ports)"
    assert fields(path, "frame.number", "_ws.expert.message", options=STRICT, only=wrong) == []
    checked = fields(path, "tcp.checksum.status", options=STRICT, only="tcp.checksum.status == 1")
    assert len(checked) == len(rows)


def test_a_wrong_checksum_would_be_found(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    packets = bytearray(b"".join(Flow(*V4).opened()))
    packets[28 + 20 + 14] ^= 1  # the window of the first packet
    write(path, [bytes(packets)])
    assert fields(path, "frame.number", options=STRICT, only="tcp.checksum.status == 0") == [("1",)]


def test_sequence_numbers_go_around(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    flow = Flow(*V4)
    for end in (flow._client, flow._origin):
        end.sequence = end.acknowledged = 0xFFFFFFFF - 10
    write(path, flow.opened(), flow.sent(GET), flow.received(OK), flow.closed())
    assert fields(path, "http.response.code", only="http.response") == [("200",)]
    assert fields(path, "frame.number", only="tcp.analysis.flags") == []


def test_identifications_go_around(tmp_path: Path) -> None:
    """RFC 791 has 16 bits for them: a body of 4 GB has more packets."""
    path = tmp_path / "a.pcapng"
    flow = Flow(*V4)
    flow._number = 0xFFFF - 1
    write(path, flow.opened())
    assert [int(number, 16) for (number,) in fields(path, "ip.id")] == [0xFFFF, 0, 1]


def test_packets_have_the_time_at_which_they_were_made(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    before = time.time()
    write(path, Flow(*V4).opened())
    after = time.time()
    for (made,) in fields(path, "frame.time_epoch"):
        assert before - 0.000_002 <= float(made) <= after  # the file has microseconds


def test_an_earlier_file_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    for _ in range(3):
        write(path, Flow(*V4).opened())
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.1.pcapng", "a.2.pcapng", "a.pcapng"]
    assert len(fields(tmp_path / "a.2.pcapng", "frame.number")) == 3


def test_a_file_without_packets_pushes_none_out(tmp_path: Path) -> None:
    """A failed start leaves such a file, and so does a run without traffic."""
    path = tmp_path / "a.pcapng"
    write(path, Flow(*V4).opened())
    for version in ("1.0", "1.0.1", "2"):
        opened(path, version).close()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.1.pcapng", "a.pcapng"]
    assert len(fields(tmp_path / "a.1.pcapng", "frame.number")) == 3
    assert b"certifier 2\0" in path.read_bytes()
    torn = path.read_bytes() + b"\6\0"  # a packet that a kill cut off
    path.write_bytes(torn)
    opened(path, "2").close()
    assert (tmp_path / "a.1.pcapng").read_bytes() == torn


def test_one_writer_a_file(tmp_path: Path) -> None:
    file = opened(tmp_path / "a.pcapng")
    with pytest.raises(BlockingIOError):
        opened(tmp_path / "a.pcapng")
    file.close()
    assert os.listdir(tmp_path) == ["a.pcapng"]


def test_a_full_disk_is_told_once_and_never_raised(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log.set_up()
    path = tmp_path / "a.pcapng"
    with largest_file(50), pytest.raises(OSError, match=r"File too large|No space left"):
        opened(path)
    counted: list[int] = []
    file = PcapFile(path, "1.0", counted.append)
    flow = Flow(*V4)
    file.write(flow.opened())
    with largest_file(path.stat().st_size + 900):
        file.write(flow.sent(bytes(100_000)))  # more than one packet
        for _ in range(3):
            file.write(flow.sent(bytes(1000)))
            file.write(flow.sent(GET))  # for which there is room
    file.write(flow.sent(bytes(1000)))
    file.close()
    assert counted == [2, 1, 1, 1]
    assert [number for (number,) in fields(path, "frame.number")] == ["1", "2", "3", "4", "5", "6", "7"]
    lost, again = capfd.readouterr().err.splitlines()
    assert "packets are lost until it can be" in lost
    assert again.endswith("can be written again; packets lost: 5")


@pytest.mark.parametrize("left", [0, 20])
def test_emptied_by_someone_else(tmp_path: Path, left: int) -> None:
    """By somebody who finds that it has grown large: later packets can still be read."""
    path = tmp_path / "a.pcapng"
    file = opened(path)
    flow = Flow(*V4)
    file.write(flow.opened())
    os.truncate(path, left)
    with largest_file(left):
        file.write(flow.sent(bytes(1000)))
    file.write(flow.sent(GET))
    file.write(flow.received(OK))
    file.close()
    assert fields(path, "frame.number") == [("1",), ("2",)]


def test_renamed_by_someone_else(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """As logrotate does: after a signal, later packets go to a new file of that name, and can be read."""
    log.set_up()
    path, rotated = tmp_path / "a.pcapng", tmp_path / "a.pcapng-1"
    file = opened(path)
    flow = Flow(*V4)
    file.write(flow.opened())
    file.reopen()
    file.write(flow.sent(GET))
    assert len(fields(path, "frame.number")) == 4  # it was not renamed yet, so it is continued
    path.rename(rotated)
    path.mkdir()
    file.reopen()
    assert "can't reopen" in capfd.readouterr().err
    file.write(flow.received(OK))
    assert len(fields(rotated, "frame.number")) == 5
    path.rmdir()
    file.reopen()
    file.write(flow.sent(GET))
    file.close()
    assert len(fields(rotated, "frame.number")) == 5
    assert fields(path, "frame.number") == [("1",)]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_link_stays_where_it_is(tmp_path: Path) -> None:
    """It may be /dev/stdout, and renaming that would affect the whole system."""
    (tmp_path / "disk").mkdir()
    link = tmp_path / "link.pcapng"
    link.symlink_to("disk/a.pcapng")
    for _ in range(2):
        write(link, Flow(*V4).opened())
    assert link.is_symlink()
    assert sorted(os.listdir(tmp_path / "disk")) == ["a.1.pcapng", "a.pcapng"]
    assert len(fields(link, "frame.number")) == 3


def test_what_is_no_file_is_refused_and_stays(tmp_path: Path) -> None:
    """A device that can be read looks like an earlier file, and would be renamed."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(OSError, match="Not a regular file"):
        opened(fifo)
    link = tmp_path / "link.pcapng"
    link.symlink_to("/dev/zero")
    with pytest.raises(OSError, match="Not a regular file"):
        opened(link)
    assert sorted(os.listdir(tmp_path)) == ["fifo", "link.pcapng"]
    assert stat.S_ISCHR(os.stat("/dev/zero").st_mode)


WRITER = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from packets import Flow
from pcap import PcapFile
file, flow = PcapFile(Path(sys.argv[1]), "1.0", print), Flow("127.0.0.1:50818", "192.0.2.1:443")
file.write(flow.opened())
print("ready", flush=True)
while True:
    file.write(flow.received(bytes(100_000)))
"""


def test_killed_while_it_writes_the_file_is_readable(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(HERE)], stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        while path.stat().st_size < 1_000_000:
            os.sched_yield()
        process.send_signal(signal.SIGKILL)
    result = subprocess.run(["tshark", "-n", "-r", str(path)], capture_output=True, text=True, check=False)
    assert len(result.stdout.splitlines()) >= 10
    assert result.returncode == 0 or "cut short in the middle of a packet" in result.stderr
