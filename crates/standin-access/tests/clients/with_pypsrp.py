"""pypsrp's transport against the echo endpoint, by every proof it has."""

import os
import sys
import warnings

from pypsrp.exceptions import AuthenticationError, WinRMTransportError
from pypsrp.wsman import _TransportHTTP

warnings.simplefilter("ignore")
HTTP, HTTPS = int(os.environ["HTTP_PORT"]), int(os.environ["HTTPS_PORT"])
PASSWORD, BUNDLE = os.environ["PASSWORD"], os.environ["REQUESTS_CA_BUNDLE"]


def connect(ssl, auth, user="alice", password=PASSWORD, **more):
    return _TransportHTTP(
        "localhost", HTTPS if ssl else HTTP, user, password, ssl=ssl, auth=auth,
        cert_validation=BUNDLE if ssl else True, no_proxy=True, **more,
    )


def check(name, transport, proof, user="alice"):
    # Several on one connection, some longer than anything that could be a limit of a part.
    for body in [b"hello", "gr\u00fc\u00df".encode(), b"x" * 16384, b"y" * 100_000, b"-" * 70_000, b"last"]:
        answer = transport.send(body)
        head, echoed = answer.split(b"\n", 1)
        assert echoed == body, (name, len(body), echoed[:100])
        assert f"user={user} role=operator proof={proof} ".encode() in head, (name, head)
        assert f"length={len(body)}".encode() in head, (name, head)
        assert b"type=application/soap+xml;charset=UTF-8" in head, (name, head)
    transport.close()
    print("passed", name)


check("ntlm sealed on http", connect(False, "ntlm"), "ntlm")
check("spnego with ntlm sealed on http", connect(False, "negotiate"), "ntlm")
check("domain\\user", connect(False, "ntlm", user="EXAMPLE\\Alice"), "ntlm")
check("user@realm", connect(False, "negotiate", user="alice@example.org"), "ntlm")
check("ntlm over tls with channel bindings", connect(True, "ntlm"), "ntlm")
check("spnego over tls", connect(True, "negotiate"), "ntlm")
check("ntlm sealed over tls", connect(True, "ntlm", encryption="always"), "ntlm")
check("no channel bindings", connect(True, "ntlm", negotiate_send_cbt=False), "ntlm")
check("basic over tls", connect(True, "basic"), "basic")
check(
    "certificate", connect(True, "certificate", None, None, certificate_pem=sys.argv[1], certificate_key_pem=sys.argv[2]),
    "certificate", "carol",
)


def refused(name, transport, kinds):
    try:
        transport.send(b"hello")
    except kinds as error:
        print("refused", name, type(error).__name__)
    else:
        raise AssertionError(name)


refused("wrong password", connect(False, "ntlm", password="wrong"), Exception)
refused("no nt hash", connect(False, "ntlm", user="bob"), Exception)
refused("unsealed on http", connect(False, "ntlm", encryption="never"), WinRMTransportError)
refused("wrong basic", connect(True, "basic", password="wrong"), AuthenticationError)
print("all done")
