#!/usr/bin/env python3
"""Small servers, clients and senders of odd packets for the end-to-end cases; standard library only.

  server PORT                answers every line (TCP) or datagram (UDP) with "peer-address peer-port", IPv4 and IPv6
  echo PORT                  sends every datagram back, IPv4 and IPv6
  echo-ask HOST PORT SIZE... sends one datagram of each size to such a server; prints "echoed" once all came back unchanged
  ask tcp|udp HOST PORT      asks such a server once and prints the answer. Without one prints refused, silence or
                             unreachable, with exit code 3, 4, 5
  talk tcp|udp HOST PORT     asks again and again on one connection, 20 times a second, a line of output each
  crowd HOST PORT COUNT      COUNT UDP flows, three datagrams each way, all held open; prints how many were answered
  fill HOST PORT COUNT       opens TCP connections until WAITS in a row are not answered, prints "full" and how many
                             there are, then asks on all of them again and again: "all answer". At most COUNT
  udp-flood HOST COUNT       COUNT datagrams, each a flow of its own
  syn-flood HOST COUNT       COUNT SYNs, each a flow of its own
  packet SRC DST PROTO       one IPv4 packet with any source: udp, tcp (a SYN), icmp (an echo request) or a number
  multicast PROTO GROUP DEV  one packet to a multicast group out of a device, TTL 255
  dcc-offer HOST NICK FILE   offers a file to `taker` on an IRC server by DCC SEND, until it was taken
  dcc-take HOST NICK FILE    waits on an IRC server for such an offer, prints "offered ADDRESS PORT", and takes it
  control SOCKET WHAT        misbehaves at a control socket: garbage, oversized, truncated, slow, crowd
"""
import argparse
import errno
import os
import random
import resource
import selectors
import socket
import struct
import sys
import threading
import time

REFUSED, SILENCE, UNREACHABLE = 3, 4, 5


def peer(address):
    host = address[0].removeprefix("::ffff:")
    return f"{host} {address[1]}\n".encode()


def serve(args):
    def lines(connection, address):
        with connection:
            try:
                while connection.recv(4096):
                    connection.sendall(peer(address))
            except OSError:
                pass

    # As many clients as want to come.
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    tcp = socket.create_server(("::", args.port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=512)
    udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    udp.bind(("::", args.port))
    print("ready", flush=True)
    ready = selectors.DefaultSelector()
    ready.register(tcp, selectors.EVENT_READ)
    ready.register(udp, selectors.EVENT_READ)
    while True:
        for key, _ in ready.select():
            try:
                if key.fileobj is tcp:
                    connection, address = tcp.accept()
                    threading.Thread(target=lines, args=(connection, address), daemon=True).start()
                else:
                    _, address = udp.recvfrom(4096)
                    udp.sendto(peer(address), address)
            except OSError:
                pass


def echo(args):
    udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    udp.bind(("::", args.port))
    print("ready", flush=True)
    while True:
        try:
            data, address = udp.recvfrom(65536)
            udp.sendto(data, address)
        except OSError:
            pass


def echo_ask(args):
    family = socket.AF_INET6 if ":" in args.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as out:
        out.settimeout(5)
        out.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        # Fragment here, whatever the path is believed to carry.
        if family == socket.AF_INET:
            out.setsockopt(socket.IPPROTO_IP, 10, 0)  # IP_MTU_DISCOVER, IP_PMTUDISC_DONT
        out.connect((args.host, args.port))
        for size in args.sizes:
            data = os.urandom(size)
            for last in (False, True):
                try:
                    out.send(data)
                    answer = out.recv(65536)
                    break
                except OSError as error:
                    # IPv6: the path is narrower than was believed; the next one is cut for it.
                    if last or error.errno != errno.EMSGSIZE:
                        print(f"{size} bytes: {error}")
                        return SILENCE
            if answer != data:
                print(f"{size} bytes came back as {len(answer)} others")
                return 1
    print("echoed")
    return 0


def open_to(args):
    """A connected socket, from the wanted source port."""
    kind = socket.SOCK_STREAM if args.protocol == "tcp" else socket.SOCK_DGRAM
    family = socket.AF_INET6 if ":" in args.host else socket.AF_INET
    out = socket.socket(family, kind)
    out.settimeout(args.timeout)
    out.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if args.sport or args.source:
        any_address = "::" if family == socket.AF_INET6 else ""
        out.bind((args.source or any_address, args.sport))
    out.connect((args.host, args.port))
    return out


def once(out, tcp):
    out.sendall(b"who am I?\n")
    answer = out.recv(4096)
    if tcp and not answer:
        raise ConnectionResetError("closed")
    return answer.decode().strip()


def outcome(error):
    if isinstance(error, TimeoutError):
        return "silence", SILENCE
    if isinstance(error, (ConnectionRefusedError, ConnectionResetError)):
        return "refused", REFUSED
    return f"unreachable ({error})", UNREACHABLE


def ask(args):
    try:
        with open_to(args) as out:
            print(once(out, args.protocol == "tcp"))
    except OSError as error:
        text, code = outcome(error)
        print(text)
        return code
    return 0


def talk(args):
    try:
        with open_to(args) as out:
            while True:
                print("answer", once(out, args.protocol == "tcp"), flush=True)
                time.sleep(0.05)
    except OSError as error:
        text, code = outcome(error)
        print("ended", text, flush=True)
        return code


def crowd(args):
    sockets = []
    for _ in range(args.count):
        out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        out.settimeout(args.timeout)
        out.bind((args.source, 0))
        out.connect((args.host, args.port))
        sockets.append(out)
    answered = 0
    for out in sockets:
        try:
            for _ in range(3):
                out.send(b"x")
                out.recv(100)
            answered += 1
        except OSError:
            pass
    print(answered)


WAITS = 30


def fill(args):
    # A file for each connection, and some.
    resource.setrlimit(resource.RLIMIT_NOFILE, (args.count + 100, args.count + 100))
    held, waits = [], 0
    while waits < WAITS and len(held) < args.count:
        try:
            held.append(open_to(args))
            waits = 0
        except TimeoutError:
            waits += 1
    print("full", len(held), flush=True)
    while True:
        for out in held:
            out.settimeout(5)
            once(out, tcp=True)
        print("all answer", flush=True)


def udp_flood(args):
    per_socket = 2000
    sent = 0
    while sent < args.count:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            for port in range(1024, 1024 + min(per_socket, args.count - sent)):
                try:
                    out.sendto(b"flood", (args.host, port))
                except OSError:
                    pass
                sent += 1
                if sent % 200 == 0:
                    time.sleep(args.pause)
    print(sent)


def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def with_checksum(src, dst, number, segment, at):
    pseudo = socket.inet_aton(src) + socket.inet_aton(dst) + struct.pack("!BBH", 0, number, len(segment))
    value = checksum(pseudo + segment)
    return segment[:at] + struct.pack("!H", value) + segment[at + 2:]


def segment(src, dst, protocol, sport, dport, flags=2, data=b""):
    if protocol == "udp":
        plain = struct.pack("!HHHH", sport, dport, 8 + len(data), 0) + data
        return 17, with_checksum(src, dst, 17, plain, 6)
    if protocol == "tcp":
        plain = struct.pack("!HHIIBBHHH", sport, dport, random.getrandbits(32), 0, 5 << 4, flags, 65535, 0, 0)
        return 6, with_checksum(src, dst, 6, plain + data, 16)
    if protocol == "icmp":
        plain = struct.pack("!BBHHH", 8, 0, 0, sport, 1) + data
        return 1, plain[:2] + struct.pack("!H", checksum(plain)) + plain[4:]
    return int(protocol), b"no transport header"


def raw():
    return socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)


def ipv4(src, dst, number, payload, ttl):
    ident = random.getrandbits(16)
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), ident, 0, ttl, number, 0,
                       socket.inet_aton(src), socket.inet_aton(dst))
    return head + payload


def syn_flood(args):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((args.host, 9))
        src = probe.getsockname()[0]
    sent = 0
    with raw() as out:
        for sport in range(20000, 60000):
            for dport in range(1, 65):
                if sent == args.count:
                    print(sent)
                    return
                number, payload = segment(src, args.host, "tcp", sport, dport)
                try:
                    out.sendto(ipv4(src, args.host, number, payload, 64), (args.host, 0))
                except OSError:
                    pass
                sent += 1
                if sent % 200 == 0:
                    time.sleep(args.pause)
    print(sent)


def packet(args):
    number, payload = segment(args.src, args.dst, args.protocol, args.sport, args.dport, args.flags)
    with raw() as out:
        for _ in range(args.count):
            out.sendto(ipv4(args.src, args.dst, number, payload, 64), (args.to or args.dst, 0))


def multicast(args):
    payload = b"\x31\x01\x64\x01\x00\x01\x00\x00" + b"\0" * 12
    if ":" in args.group:
        with socket.socket(socket.AF_INET6, socket.SOCK_RAW, args.protocol) as out:
            index = socket.if_nametoindex(args.device)
            out.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
            out.sendto(payload, (args.group, 0, 0, index))
    else:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, args.protocol) as out:
            out.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, args.device.encode())
            out.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
            out.sendto(payload, (args.group, 0))


def control(args):
    def connect():
        out = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        out.settimeout(5)
        out.connect(args.socket)
        return out

    def attempt(data):
        """Sends as much as it takes within five seconds, and reads what it says."""
        with connect() as out:
            out.settimeout(0.2)
            until = time.monotonic() + 5
            answer = b""
            while time.monotonic() < until and b"\r\n" not in answer:
                try:
                    if data:
                        data = data[out.send(data):]
                except TimeoutError:
                    pass
                except OSError:
                    data = b""
                try:
                    got = out.recv(4096)
                except TimeoutError:
                    continue
                except OSError:
                    break
                if not got:
                    break
                answer += got
            return answer.split(b"\r\n")[0].decode(errors="replace") or "no answer"

    if args.what == "garbage":
        for _ in range(50):
            print(attempt(os.urandom(4096)))
    elif args.what == "oversized":
        head = b"POST /v1/rules HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: "
        print(attempt(head + b"999999999\r\n\r\n" + b"x" * (4 << 20)))
        print(attempt(b"GET /v1/status HTTP/1.1\r\nHost: x\r\nX-Long: " + b"y" * (4 << 20) + b"\r\n\r\n"))
    elif args.what == "truncated":
        for _ in range(50):
            with connect() as out:
                out.sendall(b"POST /v1/rules HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{\"fam")
    elif args.what == "slow":
        with connect() as out:
            for byte in b"GET /v1/status HTTP/1.1\r\nHost: x\r\n":
                try:
                    out.sendall(bytes([byte]))
                except OSError:
                    break
                time.sleep(0.1)
    elif args.what == "crowd":
        held = []
        for _ in range(1000):
            try:
                held.append(connect())
            except OSError:
                break
        print(len(held))
        time.sleep(1)
    return 0


def irc(args):
    """Logs in; the lines that the server says from then on, answered where they ask for it."""
    out = socket.create_connection((args.host, 6667), timeout=30)
    out.sendall(f"NICK {args.nick}\r\nUSER {args.nick} 0 * :{args.nick}\r\n".encode())

    def lines():
        for line in out.makefile("r", newline="\r\n"):
            if line.startswith("PING"):
                out.sendall(line.replace("PING", "PONG", 1).encode())
            yield line.rstrip("\r\n")

    said = lines()
    next(line for line in said if f" 001 {args.nick} " in line)
    print("here", flush=True)
    return out, said


def dcc_offer(args):
    out, said = irc(args)
    listener = socket.create_server(("", 0))
    listener.settimeout(1)
    address = struct.unpack("!I", socket.inet_aton(out.getsockname()[0]))[0]
    offer = f"PRIVMSG taker :\1DCC SEND file {address} {listener.getsockname()[1]} 1\1\r\n"
    for _ in range(20):
        out.sendall(offer.encode())
        try:
            taker, _ = listener.accept()
        except TimeoutError:
            continue  # nobody of that name is there yet
        with taker, open(args.file, "rb") as file:
            taker.sendfile(file)
        return 0
    return SILENCE


def dcc_take(args):
    _, said = irc(args)
    offer = next(line for line in said if "\1DCC SEND " in line)
    _, address, port, _ = offer.partition("\1DCC SEND ")[2].rsplit("\1", 1)[0].split()
    address = socket.inet_ntoa(struct.pack("!I", int(address)))
    print(f"offered {address} {port}", flush=True)
    with socket.create_connection((address, int(port)), timeout=10) as source, open(args.file, "wb") as file:
        while data := source.recv(65536):
            file.write(data)
    return 0


def main():
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(required=True)

    def command(name, run, *positional):
        sub = commands.add_parser(name)
        for each in positional:
            number = each in ("port", "count") or (name == "multicast" and each == "protocol")
            sub.add_argument(each, type=int if number else str)
        sub.set_defaults(run=run)
        return sub

    command("server", serve, "port")
    command("echo", echo, "port")
    command("echo-ask", echo_ask, "host", "port").add_argument("sizes", type=int, nargs="+")
    for name, run in ("ask", ask), ("talk", talk):
        sub = command(name, run, "protocol", "host", "port")
        sub.add_argument("--sport", type=int, default=0)
        sub.add_argument("--source", default="")
        sub.add_argument("--timeout", type=float, default=5)
    sub = command("crowd", crowd, "host", "port", "count")
    sub.add_argument("--timeout", type=float, default=5)
    sub.add_argument("--source", default="")
    sub = command("fill", fill, "host", "port", "count")
    sub.add_argument("--timeout", type=float, default=0.3)
    sub.set_defaults(protocol="tcp", sport=0, source="")
    for name, run in ("udp-flood", udp_flood), ("syn-flood", syn_flood):
        command(name, run, "host", "count").add_argument("--pause", type=float, default=0.01)
    sub = command("packet", packet, "src", "dst", "protocol")
    sub.add_argument("--sport", type=int, default=4444)
    sub.add_argument("--dport", type=int, default=5555)
    sub.add_argument("--flags", type=lambda text: int(text, 0), default=2)
    sub.add_argument("--to", help="the next hop to find the way by, if it is not the destination")
    # `count` is an option here.
    sub.add_argument("--count", type=int, default=1)
    command("multicast", multicast, "protocol", "group", "device")
    command("dcc-offer", dcc_offer, "host", "nick", "file")
    command("dcc-take", dcc_take, "host", "nick", "file")
    command("control", control, "socket", "what")
    args = parser.parse_args()
    return args.run(args)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
