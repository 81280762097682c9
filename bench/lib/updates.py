"""Changes the rules of a running Postern over its control socket, again and again, until it is told to stop.

    updates.py SOCKET NOTES RULES RULES

Ten times a second a port forward is added, the policy replaced by one of the two rulesets, by turns, and the forward
removed. NOTES gets a letter for each that was done: a, s, r. One connection to the socket for all: what is measured is
what updates cost, not what starting programs does.
"""

import http.client
import json
import signal
import socket
import sys
import time

PERIOD = 0.1


class Control(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=10)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)

    def ask(self, method, path, body=None):
        """Whether the request was carried out."""
        text = json.dumps(body) if body is not None else None
        self.request(method, path, text, {"Content-Type": "application/json"})
        response = self.getresponse()
        answer = json.loads(response.read())
        if response.status >= 300 or answer.get("code", 0) != 0:
            print(f"{method} {path}: {response.status} {answer}", file=sys.stderr)
            return False
        return True


def main():
    path, notes, *rulesets = sys.argv[1:]
    texts = [open(ruleset).read() for ruleset in rulesets]
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    control = Control(path)
    forward = {"protocol": "tcp", "port": "8080"}
    due = time.monotonic()
    turn = 0
    with open(notes, "a", buffering=1) as done:
        while not stopped:
            turn += 1
            if control.ask("POST", "/v1/forwards", forward | {"to": "192.168.1.10:80"}):
                done.write("a")
            restore = {"family": "ipv4", "program": "restore", "stdin": texts[turn % 2]}
            if control.ask("POST", "/v1/rules", restore):
                done.write("s")
            if control.ask("DELETE", "/v1/forwards?protocol=tcp&port=8080"):
                done.write("r")
            due = max(due + PERIOD, time.monotonic())
            time.sleep(max(0, due - time.monotonic()))


main()
