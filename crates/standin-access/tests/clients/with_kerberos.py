"""pypsrp's transport with a Kerberos ticket that is in the cache already."""

import os
import warnings

from pypsrp.wsman import _TransportHTTP

warnings.simplefilter("ignore")
HTTP, HTTPS = int(os.environ["HTTP_PORT"]), int(os.environ["HTTPS_PORT"])


def check(name, ssl, auth, service="HTTP", **more):
    transport = _TransportHTTP(
        "localhost", HTTPS if ssl else HTTP, ssl=ssl, auth=auth, no_proxy=True,
        cert_validation=os.environ["REQUESTS_CA_BUNDLE"] if ssl else True, negotiate_service=service, **more,
    )
    for body in [b"hello", b"x" * 100_000, b"last"]:
        head, echoed = transport.send(body).split(b"\n", 1)
        assert echoed == body, (name, echoed[:100])
        assert b"user=dora role=operator proof=kerberos " in head, (name, head)
    transport.close()
    print("passed", name)


check("sealed on http", False, "kerberos")
check("spnego sealed on http", False, "negotiate")
check("over tls with channel bindings", True, "kerberos")
check("sealed over tls", True, "kerberos", encryption="always")
check("another service of the keytab", False, "kerberos", service="host")
print("all done")
