"""pywinrm's transport: NTLM sealed on plain HTTP and over TLS, Basic over TLS."""

import os
import warnings

from winrm.transport import Transport

warnings.simplefilter("ignore")
PASSWORD = os.environ["PASSWORD"]
HTTP, HTTPS = os.environ["HTTP_PORT"], os.environ["HTTPS_PORT"]


def check(name, url, **more):
    transport = Transport(
        url, username="alice", password=PASSWORD, ca_trust_path=os.environ["REQUESTS_CA_BUNDLE"], **more
    )
    for body in ["hello", "x" * 40_000, "last"]:
        answer = transport.send_message(body)
        answer = answer if isinstance(answer, bytes) else answer.encode()
        assert answer.endswith(b"\n" + body.encode()), (name, answer[:200])
        assert b"user=alice role=operator" in answer, (name, answer[:200])
    print("passed", name)


check("ntlm on http", f"http://localhost:{HTTP}/wsman", auth_method="ntlm", message_encryption="always")
check("ntlm over tls", f"https://localhost:{HTTPS}/wsman", auth_method="ntlm")
check("ntlm sealed over tls", f"https://localhost:{HTTPS}/wsman", auth_method="ntlm", message_encryption="always")
check("basic over tls", f"https://localhost:{HTTPS}/wsman", auth_method="basic")
print("all done")
