"""What a fault does to a request that is not a read: whether the server hears of it, and how the connection goes on."""

import http.client
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from jobs.fault_proxy import Fault, FaultProxy


class Server(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    heard: list[bytes] = []

    def do_PUT(self):
        Server.heard.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_):
        pass


@pytest.fixture
def proxy():
    Server.heard = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    line = FaultProxy(f"http://127.0.0.1:{server.server_port}")
    yield line
    line.refuse()
    server.shutdown()
    server.server_close()


def put(connection, body):
    connection.request("PUT", "/b/key", body)
    answer = connection.getresponse()
    return answer.status, answer.read()


def connect(proxy):
    return http.client.HTTPConnection(proxy.address.removeprefix("http://"), timeout=60)


@pytest.mark.parametrize(("fault", "heard"), [(Fault("lost"), []), (Fault("reset", after_bytes=0), [b"a"])])
def test_a_lost_request_is_not_heard_a_lost_answer_is(proxy, fault, heard):
    proxy.on_request = lambda verb, path: fault if (verb, path) == ("PUT", "/b/key") else None
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        put(connect(proxy), b"a")
    assert Server.heard == heard
    proxy.on_request = lambda _verb, _path: None
    assert put(connect(proxy), b"b") == (200, b"ok")


def test_what_is_asked_unheard_is_done_before_the_connection_ends(proxy):
    done = []
    fault = Fault("unheard", then=lambda: done.append(list(Server.heard)))
    proxy.on_request = lambda _verb, _path: fault
    connection = connect(proxy)
    connection.putrequest("PUT", "/b/key")
    connection.putheader("Content-Length", "1")
    connection.putheader("Expect", "100-continue")
    connection.endheaders()
    assert connection.sock.recv(100).startswith(b"HTTP/1.1 100")
    connection.send(b"a")
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        connection.getresponse()
    assert done == [[b"a"]]


def test_the_body_of_a_refused_request_is_not_taken_for_another(proxy):
    faults = [Fault("refusal"), None]
    proxy.on_request = lambda _verb, _path: faults.pop(0)
    connection = connect(proxy)
    status, said = put(connection, b"x" * 300_000)
    assert status == 503
    assert b"SlowDown" in said
    assert put(connection, b"again") == (200, b"ok")
    assert Server.heard == [b"again"]
