"""NTLM tokens of a real client that come where they do not belong."""

import base64
import http.client
import os

import spnego
from spnego.channel_bindings import GssChannelBindings

HTTP, PASSWORD = int(os.environ["HTTP_PORT"]), os.environ["PASSWORD"]


def connection():
    return http.client.HTTPConnection("localhost", HTTP, timeout=30)


def post(conn, token=None, body=b"hello", scheme="Negotiate"):
    headers = {"Authorization": f"{scheme} {base64.b64encode(token).decode()}"} if token else {}
    conn.request("POST", "/wsman", body=body, headers=headers)
    reply = conn.getresponse()
    text, offered = reply.read(), reply.getheader("WWW-Authenticate") or ""
    parts = offered.split(",")[0].split(" ")
    return reply.status, base64.b64decode(parts[1]) if len(parts) > 1 else None, text


def client(protocol="ntlm", **more):
    return spnego.client("alice", PASSWORD, "localhost", service="http", protocol=protocol, **more)


def expect(name, got, wanted):
    assert got == wanted, (name, got)
    print("passed", name)


first, second, ntlm = connection(), connection(), client()
status, challenge, _ = post(first, ntlm.step())
answer = ntlm.step(challenge)
expect("an answer on a connection without a challenge", post(second, answer)[0], 401)
post(second, client().step())
expect("an answer to another connection's challenge", post(second, answer)[0], 401)
expect("the answer where it belongs", post(first, answer)[0], 200)
expect("the connection is the user's now", b"user=alice" in post(first)[2], True)
expect("another connection is not", post(second)[0], 401)
expect("the answer a second time", post(first, answer)[0], 401)
expect("after which the connection is nobody's", post(first)[0], 401)

third, bound = connection(), client(channel_bindings=GssChannelBindings(application_data=b"tls-server-end-point:" + b"x" * 32))
_, challenge, _ = post(third, bound.step())
expect("bindings to a TLS connection that this is not", post(third, bound.step(challenge))[0], 401)

fourth, within = connection(), client("negotiate")
_, challenge, _ = post(fourth, within.step())
answer = within.step(challenge)
at = answer.rindex(b"\x04\x10") + 4
expect("a list of mechanisms whose signature is wrong", post(fourth, answer[:at] + bytes([answer[at] ^ 1]) + answer[at + 1 :])[0], 401)
print("all done")
