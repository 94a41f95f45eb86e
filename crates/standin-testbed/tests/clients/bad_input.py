"""Everything that a client can do wrong, to a running daemon, on all four ports: PRIMARY REPLICA CA PID ROUNDS. The
primary has the VMs web-1, which is replicated, and db-1, which is not, and takes passwords over HTTP and requests of
up to 8 MiB. Beside each wrong request, right ones are asked all the time; none may wait or fail. PID is the daemon's."""

import base64
import os
import random
import re
import socket
import ssl
import struct
import sys
import threading
import time
from http.client import HTTPConnection, HTTPException, HTTPSConnection

HOST, _, CA, PID, ROUNDS = sys.argv[1:6]
PASSWORD = os.environ["STANDIN_PASSWORD"]
LIMIT = 8 << 20
TLS = ssl.create_default_context(cafile=CA)
WSMAN, CIMXML = (5985, 5986), (5988, 5989)
PORTS = WSMAN + CIMXML
ENCRYPTED = (5986, 5989)
SEED = int(os.environ.get("STANDIN_SEED", "1"))
PATIENCE = 20  # seconds that one request may take on a busy machine

WMI = "http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/"
TRANSFER = "http://schemas.xmlsoap.org/ws/2004/09/transfer"
ENUMERATION = "http://schemas.xmlsoap.org/ws/2004/09/enumeration"
WQL = "http://schemas.microsoft.com/wbem/wsman/1/WQL"


# -- requests ---------------------------------------------------------------------------------------------------------


def basic(user="admin"):
    return "Basic " + base64.b64encode(f"{user}:{PASSWORD}".encode()).decode()


def open_to(port, source=None):
    kind, more = (HTTPSConnection, {"context": TLS}) if port in ENCRYPTED else (HTTPConnection, {})
    return kind(HOST, port, timeout=PATIENCE, source_address=(source, 0) if source else None, **more)


def ask(port, body, connection=None, user="admin", **headers):
    """Status, headers and text of the reply."""
    client = connection or open_to(port)
    named = {"Content-Type": "application/soap+xml;charset=UTF-8" if port in WSMAN else "application/xml"}
    if port in CIMXML:
        named |= announced(body)
    named |= {"Authorization": basic(user)} | {name.replace("_", "-"): value for name, value in headers.items()}
    path = "/wsman" if port in WSMAN else "/cimom"
    client.request("POST", path, body if isinstance(body, bytes) else body.encode(), named)
    reply = client.getresponse()
    text = reply.read().decode("utf-8", "replace")
    if connection is None:
        client.close()
    return reply.status, reply.headers, text


def announced(body):
    """What CIM-XML's headers say of a message."""
    text = body if isinstance(body, str) else body.decode("latin-1")
    method = re.search(r'METHODCALL NAME="(\w+)"', text)
    space = "/".join(re.findall(r'NAMESPACE NAME="(\w+)"', text)[:3])
    if "<METHODCALL" in text:
        space = 'root/virtualization/v2:Msvm_ReplicationService.Name="replicasvc"'
    return {"CIMOperation": "MethodCall", "CIMMethod": method[1] if method else "X", "CIMObject": space or "root"}


def soap(uri, action, inner="", selectors=()):
    chosen = "".join(f'<w:Selector Name="{name}">{value}</w:Selector>' for name, value in selectors)
    return (
        '<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope" '
        'xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing" xmlns:n="' + ENUMERATION + '" '
        'xmlns:w="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd"><s:Header><a:To>x</a:To>'
        f"<w:ResourceURI>{uri}</w:ResourceURI><a:Action>{action}</a:Action><a:MessageID>uuid:1</a:MessageID>"
        f"<w:SelectorSet>{chosen}</w:SelectorSet></s:Header><s:Body>{inner}</s:Body></s:Envelope>"
    )


def cim(operation, inner="", space="root/virtualization/v2"):
    spaces = "".join(f'<NAMESPACE NAME="{part}"/>' for part in space.split("/"))
    return (
        '<?xml version="1.0" encoding="utf-8"?><CIM CIMVERSION="2.0" DTDVERSION="2.0"><MESSAGE ID="1" '
        f'PROTOCOLVERSION="1.0"><SIMPLEREQ><IMETHODCALL NAME="{operation}"><LOCALNAMESPACEPATH>{spaces}'
        f"</LOCALNAMESPACEPATH>{inner}</IMETHODCALL></SIMPLEREQ></MESSAGE></CIM>"
    )


def class_name(name):
    return f'<IPARAMVALUE NAME="ClassName"><CLASSNAME NAME="{name}"/></IPARAMVALUE>'


def value(name, text):
    return f'<IPARAMVALUE NAME="{name}"><VALUE>{text}</VALUE></IPARAMVALUE>'


def instance_name(name, key, text):
    return (
        f'<IPARAMVALUE NAME="InstanceName"><INSTANCENAME CLASSNAME="{name}"><KEYBINDING NAME="{key}">'
        f'<KEYVALUE VALUETYPE="string">{text}</KEYVALUE></KEYBINDING></INSTANCENAME></IPARAMVALUE>'
    )


def extrinsic(method, inner=""):
    return (
        '<CIM CIMVERSION="2.0" DTDVERSION="2.0"><MESSAGE ID="1" PROTOCOLVERSION="1.0"><SIMPLEREQ>'
        f'<METHODCALL NAME="{method}"><LOCALINSTANCEPATH><LOCALNAMESPACEPATH><NAMESPACE NAME="root"/>'
        '<NAMESPACE NAME="virtualization"/><NAMESPACE NAME="v2"/></LOCALNAMESPACEPATH><INSTANCENAME '
        'CLASSNAME="Msvm_ReplicationService"><KEYBINDING NAME="Name"><KEYVALUE VALUETYPE="string">replicasvc'
        f"</KEYVALUE></KEYBINDING></INSTANCENAME></LOCALINSTANCEPATH>{inner}</METHODCALL></SIMPLEREQ></MESSAGE></CIM>"
    )


RIGHT = {
    True: soap(WMI + "Msvm_ComputerSystem", TRANSFER + "/Get", selectors=[("Name", "host-a")]),
    False: cim("GetInstance", instance_name("Msvm_ComputerSystem", "Name", "host-a")),
}


def right(port):
    return RIGHT[port in WSMAN]


# -- what must hold ---------------------------------------------------------------------------------------------------


class Beside(threading.Thread):
    """Somebody who asks for the right thing all the time, each port in its turn."""

    def __init__(self):
        super().__init__(daemon=True)
        self.longest, self.asked, self.failed, self.over = 0.0, 0, [], threading.Event()

    def run(self):
        while not self.over.wait(0.1):
            port = PORTS[self.asked % 4]
            start = time.monotonic()
            try:
                status, _, text = ask(port, right(port))
                if status != 200 or "host-a" not in text:
                    self.failed.append((port, status, text[:300]))
            except (OSError, HTTPException) as error:
                self.failed.append((port, repr(error)))
            self.longest = max(self.longest, time.monotonic() - start)
            self.asked += 1


def memory(kind="VmRSS"):
    with open(f"/proc/{PID}/status", encoding="ascii") as file:
        return int(re.search(rf"{kind}:\s+(\d+) kB", file.read()).group(1)) // 1024


def fault(port, body, subcode, **headers):
    status, _, text = ask(port, body, **headers)
    assert status in (400, 500) and f":Value>{subcode}" in text, (subcode, status, text[:1500], body[:200])


def error(port, body, code, **headers):
    status, _, text = ask(port, body, **headers)
    assert status == 200 and f'<ERROR CODE="{code}"' in text, (code, status, text[:1500], body[:200])


def refused(port, body, **headers):
    """A body that cannot be read: the protocol's own way to say that."""
    status, got, text = ask(port, body, **headers)
    if port in WSMAN:
        assert status == 500 and "<s:Fault>" in text, (status, text[:500])
    else:
        assert status in (400, 415) or "<ERROR " in text, (status, text[:500])
        assert status == 200 or got.get("CIMError") or status == 415, (status, got)
    return text


# -- what is wrong ----------------------------------------------------------------------------------------------------


def entities(port):
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
    for doctype in (
        f'<!DOCTYPE x [<!ENTITY l0 "lol">{laughs}]>',
        '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE x SYSTEM "http://127.0.0.1:1/x.dtd">',
        "<!DOCTYPE x []>",
    ):
        body = doctype + re.sub(r"^<\?xml[^>]*>", "", right(port)).replace("host-a", "&l11;&a;")
        assert "root:" not in refused(port, body)
    refused(port, right(port).replace("host-a", "&nothing;"))


def nesting(port):
    for body in ("<a>" * 1_000_000 + "</a>" * 1_000_000, "<a>" * 1_000_000, "<r>" + "<a/>" * 1_000_000 + "</r>"):
        refused(port, body)
    refused(port, right(port).replace("host-a", "<a>" * 1_000_000 + "</a>" * 1_000_000))
    refused(port, "<a" + "".join(f' a{n}=""' for n in range(100_000)) + "/>")
    refused(port, "<a xmlns:p='" + "x" * 100_000 + "'>" + "<p:b/>" * 100_000 + "</a>")


def too_large(port):
    wanted = 500 if port in WSMAN else 413
    assert declared(port, LIMIT + 1) == wanted
    assert chunked(port, LIMIT // 65536 + 2) in (wanted, None)
    for length in ("18446744073709551615", "99999999999999999999999", "-1", "x"):
        reply = raw(port, head(port, f"Content-Length: {length}") + b"xx")
        assert re.match(rb"HTTP/1.1 (400|413|431|500)", reply), (length, reply[:200])
    # Neither a length nor chunks: there is no body then.
    reply = raw(port, head(port))
    assert re.match(rb"HTTP/1.1 (400|411|500)", reply), reply[:200]


def head(port, *lines):
    path = "/wsman" if port in WSMAN else "/cimom"
    return "\r\n".join(
        [f"POST {path} HTTP/1.1", f"Host: {HOST}", f"Authorization: {basic()}", "CIMOperation: MethodCall",
         "CIMMethod: GetInstance", "CIMObject: root/virtualization/v2", "Connection: close", *lines, "", ""]
    ).encode()


def plug(port, source=None, encrypted=None):
    """A connection without HTTP, with TLS where the port has it."""
    plain = socket.create_connection((HOST, port), timeout=PATIENCE, source_address=(source, 0) if source else None)
    wrap = port in ENCRYPTED if encrypted is None else encrypted
    return TLS.wrap_socket(plain, server_hostname=HOST) if wrap else plain


def raw(port, data):
    """Everything that comes back for some bytes."""
    with plug(port) as one:
        one.sendall(data)
        return rest(one)


def rest(one):
    got = b""
    try:
        while part := one.recv(65536):
            got += part
    except (ConnectionError, ssl.SSLError):
        pass
    return got


def declared(port, length):
    reply = raw(port, head(port, f"Content-Length: {length}"))
    return int(reply[9:12])


def chunked(port, count):
    with plug(port) as one:
        one.sendall(head(port, "Transfer-Encoding: chunked"))
        try:
            for _ in range(count):
                one.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")
            one.sendall(b"0\r\n\r\n")
        except (ConnectionError, ssl.SSLError):
            pass  # it may close as soon as it is too much
        reply = rest(one)
        return int(reply[9:12]) if reply else None


def halves(port):
    whole = head(port, f"Content-Length: {len(right(port))}") + right(port).encode()
    for cut in list(range(1, len(whole), max(1, len(whole) // 40))) + [len(whole)]:
        with plug(port) as one:
            one.sendall(whole[:cut])
    broken = head(port, "Transfer-Encoding: chunked")
    for chunk in (b"zz\r\nxx\r\n", b"ffffffffffffffffff\r\nx", b"5\r\nabc", b"\r\n\r\n"):
        with plug(port) as one:
            one.sendall(broken + chunk)
    for line in (b"GET", b"POST  HTTP/1.1\r\n\r\n", b"\0" * 4096, b"POST /wsman HTTP/9.9\r\n\r\n", b"\r\n" * 5000):
        with plug(port) as one:
            one.sendall(line)
    for method in ("GET", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "M-POST"):
        client = open_to(port)
        client.request(method, "/wsman" if port in WSMAN else "/cimom", headers={"Authorization": basic()})
        # CIM-XML answers OPTIONS with what it can do, and M-POST without its own headers with 510.
        assert client.getresponse().status in (200 if method == "OPTIONS" else 400, 404, 405, 501, 510), method
        client.close()


def encodings(port):
    text = re.sub(r"^<\?xml[^>]*>", "", right(port)).replace("host-a", "h\u00f6st")
    for data in (
        text.encode("utf-16-be")[1:],
        text.encode("latin-1"),
        text.encode() + b"\xff\xfe\xfd",
        b"\xff\xfe" + text.encode(),
        b"\xff\xfe" + text.encode("utf-16-le")[:-1],
        b"\xff\xfe" + b"\x00\xd8" * 40,
        b"\x00" * 1000,
        bytes(range(256)) * 10,
        b'<?xml version="1.0" encoding="EBCDIC-CP-US"?>' + text.encode(),
        b"",
    ):
        refused(port, data)
    for kind in ("text/xml;charset=utf-7", "application/json", "x" * 4000, "multipart/encrypted;boundary=x"):
        status, _, _ = ask(port, right(port), Content_Type=kind)
        assert status in (200, 400, 415, 500), (kind, status)
    # Without a mark of its order, UTF-16 is either understood or refused.
    status, _, _ = ask(port, text.encode("utf-16-le"))
    assert status in (200, 400, 500), status


def soap_names(port):
    system, get = WMI + "Msvm_ComputerSystem", TRANSFER + "/Get"
    service = WMI + "Msvm_ReplicationService"
    name = [("Name", "host-a")]
    key = [("Name", "replicasvc")]
    unreachable = "a:DestinationUnreachable"
    fault(port, soap(WMI + "Msvm_No", get, selectors=name), unreachable)
    fault(port, soap(WMI.replace("v2", "v9") + "Msvm_ComputerSystem", get, selectors=name), unreachable)
    fault(port, soap(system, get, selectors=[("Name", "none")]), unreachable)
    fault(port, soap(system, get, selectors=[("NoKey", "x")]), "w:InvalidSelectors")
    fault(port, soap(system, get), "w:")
    fault(port, soap(service, service + "/NoMethod", selectors=key), "a:ActionNotSupported")
    fault(port, soap(service, "urn:nothing", selectors=key), "a:ActionNotSupported")
    fault(port, soap(service, "", selectors=key), "a:")
    unknown = f'<p:InitiateFailover_INPUT xmlns:p="{service}"><p:NoSuch>1</p:NoSuch></p:InitiateFailover_INPUT>'
    fault(port, soap(service, service + "/InitiateFailover", unknown, key), "w:InvalidParameter")
    put = f'<p:Msvm_ComputerSystem xmlns:p="{system}"><p:NoSuch>1</p:NoSuch></p:Msvm_ComputerSystem>'
    fault(port, soap(system, TRANSFER + "/Put", put, name), "w:")
    for text in ("SELECT * FROM", "SELEC", "", "x" * 100_000, "SELECT * FROM Msvm_ComputerSystem WHERE " + "(" * 50_000):
        ask_for = f'<n:Enumerate><w:Filter Dialect="{WQL}">{text}</w:Filter></n:Enumerate>'
        fault(port, soap(WMI + "*", ENUMERATION + "/Enumerate", ask_for), "")
    other = f'<n:Enumerate><w:Filter Dialect="urn:x">x</w:Filter></n:Enumerate>'
    fault(port, soap(WMI + "*", ENUMERATION + "/Enumerate", other), "n:FilterDialectRequestedUnavailable")
    space = WMI.replace("virtualization/v2", "cimv2")
    codes = {
        "": "32773",
        reference(system, "none"): None,
        reference(space + "Msvm_ComputerSystem", "x"): "32773",
    }
    for argument, code in codes.items():
        call = f'<p:InitiateFailover_INPUT xmlns:p="{service}">{argument}</p:InitiateFailover_INPUT>'
        status, _, text = ask(port, soap(service, service + "/InitiateFailover", call, key))
        found = re.search(r"ReturnValue>(\d+)<", text)
        assert status == 200 and found and (found[1] == code or code is None and found[1] != "0"), (argument, text)
    call = f'<p:StartReplication_INPUT xmlns:p="{service}"><p:InitialReplicationType>x</p:InitialReplicationType></p:StartReplication_INPUT>'
    status, _, text = ask(port, soap(service, service + "/StartReplication", call, key))
    assert "ReturnValue>32776<" in text, text
    # An enumeration is its user's.
    begun = ask(port, soap(system, ENUMERATION + "/Enumerate", "<n:Enumerate/>"))[2]
    context = re.search(r"EnumerationContext>([^<]+)<", begun)[1]
    pull = f"<n:Pull><n:EnumerationContext>{context}</n:EnumerationContext></n:Pull>"
    fault(port, soap(system, ENUMERATION + "/Pull", pull), "n:InvalidEnumerationContext", user="looker")
    fault(port, soap(system, ENUMERATION + "/Pull", pull.replace(context, "x" * 10_000)), "n:InvalidEnumerationContext")
    status, _, text = ask(port, soap(system, ENUMERATION + "/Pull", pull))
    assert status == 200 and "EndOfSequence" in text or "Items" in text, text


def reference(uri, name):
    return (
        f"<p:ComputerSystem><a:Address>x</a:Address><a:ReferenceParameters><w:ResourceURI>{uri}</w:ResourceURI>"
        f'<w:SelectorSet><w:Selector Name="Name">{name}</w:Selector></w:SelectorSet></a:ReferenceParameters></p:ComputerSystem>'
    )


def cim_names(port):
    error(port, cim("EnumerateInstances", class_name("Msvm_No")), 5)
    error(port, cim("EnumerateInstances", class_name("Msvm_ComputerSystem"), "root/no"), 3)
    error(port, cim("EnumerateInstances"), 4)
    error(port, cim("NoSuchOperation"), 7)
    error(port, cim("GetInstance", instance_name("Msvm_ComputerSystem", "NoKey", "x")), 4)
    error(port, cim("GetInstance", instance_name("Msvm_ComputerSystem", "Name", "none")), 6)
    error(port, cim("GetInstance", instance_name("Msvm_ComputerSystem", "Name", "x" * 100_000)), 6)
    error(port, extrinsic("NoSuchMethod"), 17)
    error(port, extrinsic("InitiateFailover", '<PARAMVALUE NAME="NoSuch"><VALUE>1</VALUE></PARAMVALUE>'), 4)
    for text in ("SELECT * FROM", "SELEC", "", "x" * 100_000, "SELECT * FROM Msvm_ComputerSystem WHERE " + "(" * 50_000):
        error(port, cim("ExecQuery", value("QueryLanguage", "WQL") + value("Query", text)), 15)
    error(port, cim("ExecQuery", value("QueryLanguage", "WQL") + value("Query", "SELECT * FROM Msvm_ComputerSystem WHERE Nope = 1")), 12)
    error(port, cim("PullInstancesWithPath", value("EnumerationContext", "x") + value("MaxObjectCount", "1")), 21)
    elsewhere = (
        '<PARAMVALUE NAME="ComputerSystem" PARAMTYPE="reference"><VALUE.REFERENCE><LOCALINSTANCEPATH><LOCALNAMESPACEPATH>'
        '<NAMESPACE NAME="root"/><NAMESPACE NAME="cimv2"/></LOCALNAMESPACEPATH><INSTANCENAME CLASSNAME="Msvm_ComputerSystem">'
        '<KEYBINDING NAME="Name"><KEYVALUE VALUETYPE="string">x</KEYVALUE></KEYBINDING></INSTANCENAME></LOCALINSTANCEPATH>'
        "</VALUE.REFERENCE></PARAMVALUE>"
    )
    wrong = '<PARAMVALUE NAME="InitialReplicationType" PARAMTYPE="string"><VALUE>x</VALUE></PARAMVALUE>'
    calls = (("InitiateFailover", "", 32773), ("InitiateFailover", elsewhere, 32773), ("StartReplication", wrong, 32776))
    for method, inner, code in calls:
        status, _, text = ask(port, extrinsic(method, inner))
        found = re.search(r"<RETURNVALUE[^>]*><VALUE>(\d+)<", text)
        assert status == 200 and found and int(found[1]) == code, (method, code, text)
    opened = ask(port, cim("OpenEnumerateInstances", class_name("Msvm_ComputerSystem") + value("MaxObjectCount", "1")))[2]
    context = re.search(r'NAME="EnumerationContext"[^>]*><VALUE>([^<]+)<', opened)[1]
    pull = cim("PullInstancesWithPath", value("EnumerationContext", context) + value("MaxObjectCount", "9"))
    error(port, pull, 21, user="looker")
    status, _, text = ask(port, pull)
    assert status == 200 and "Msvm_ComputerSystem" in text, text


def many_enumerations(port):
    """Thousands are opened and never ended, as by shells that take the first object: the daemon forgets the oldest."""
    client = open_to(port)
    if port in WSMAN:
        body = soap(WMI + "Msvm_ComputerSystem", ENUMERATION + "/Enumerate", "<n:Enumerate/>")
    else:
        body = cim("OpenEnumerateInstances", class_name("Msvm_ComputerSystem") + value("MaxObjectCount", "0"))
    for count in range(2500):
        status, _, text = ask(port, body, connection=client, user="looker")
        assert status == 200 and "EnumerationContext" in text and "<ERROR " not in text, (count, status, text[:500])
    client.close()


def tls_rubbish(port):
    chance = random.Random(SEED)
    hello = bytes.fromhex("16030100c8010000c40303") + chance.randbytes(200)
    for data in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"x" * 70_000, hello, b"\x80" * 500, b"\0", b""):
        for _ in range(10):
            with plug(port, encrypted=False) as one:
                try:
                    one.sendall(data)
                    one.shutdown(socket.SHUT_WR)
                except OSError:
                    pass
                assert b"HTTP/1.1 200" not in rest(one)


def tokens(port):
    """Log-ins that are none, from addresses that are slowed down for it. Nobody else is."""
    chance = random.Random(SEED + port)
    negotiate = b"NTLMSSP\0" + struct.pack("<II", 1, 0xE20882B7) + b"\0" * 24
    spnego = bytes.fromhex("604806062b0601050502a03e303ca00e300c060a2b06010401823702020aa22a0428") + negotiate
    authenticate = b"NTLMSSP\0" + struct.pack("<I", 3)
    rubbish = [
        b"", b"NTLMSSP\0", negotiate[:15], authenticate, authenticate + b"\xff" * 60,
        authenticate + struct.pack("<HHI", 0xFFFF, 0xFFFF, 0xFFFFFFF0) * 8, b"NTLMSSP\0\2\0\0\0" + b"\0" * 50,
        b"\x60\x84\xff\xff\xff\xff", b"\x60\x80" * 500, b"\xa1\x82\xff\xff" + b"\xa2" * 100, spnego[:20],
        chance.randbytes(3000),
    ]
    rubbish += [chance.randbytes(chance.randrange(1, 300)) for _ in range(6)]
    for index, token in enumerate(rubbish):
        client = open_to(port, source=f"127.77.{port % 250}.{index + 1}")
        for header in ("Negotiate ", "NTLM "):
            for _ in range(2):
                coded = header + base64.b64encode(token).decode()
                status, got, _ = ask(port, b"", connection=client, Authorization=coded)
                assert status in (400, 401, 429, 503), (status, token)
        client.close()
    for name, header in enumerate(("Negotiate ====", "Negotiate", "Basic !!!", "Basic", "Basic " + "A" * 20_000, "Bearer x", "\x7f" * 9)):
        client = open_to(port, source=f"127.77.{port % 250}.{200 + name}")
        assert ask(port, b"", connection=client, Authorization=header)[0] in (400, 401, 431), header
        client.close()


def mutations(port):
    """Right messages with something done to them. Whatever it is, there is an answer."""
    chance = random.Random(SEED * 7919 + port)
    service = WMI + "Msvm_ReplicationService"
    seeds = [right(port)]
    if port in WSMAN:
        seeds.append(soap(WMI + "*", ENUMERATION + "/Enumerate", f'<n:Enumerate><w:Filter Dialect="{WQL}">SELECT Name FROM Msvm_ComputerSystem WHERE Name LIKE "h%" AND NOT EnabledState = 3</w:Filter></n:Enumerate>'))
        seeds.append(soap(service, service + "/GetReplicationStatisticsEx", reference(WMI + "Msvm_ComputerSystem", "x"), [("Name", "replicasvc")]))
    else:
        seeds.append(cim("ExecQuery", value("QueryLanguage", "WQL") + value("Query", "SELECT Name FROM Msvm_ComputerSystem WHERE Name LIKE 'h%'")))
        seeds.append(extrinsic("GetReplicationStatisticsEx", '<PARAMVALUE NAME="ComputerSystem"><VALUE>x</VALUE></PARAMVALUE>'))
    client = open_to(port)
    for _ in range(150):
        seed = chance.choice(seeds)
        data = bytearray(seed.encode())
        for _ in range(chance.randrange(1, 6)):
            at = chance.randrange(len(data))
            what = chance.randrange(5)
            if what == 0:
                data[at] = chance.randrange(256)
            elif what == 1:
                del data[at : at + chance.randrange(1, 40)]
            elif what == 2:
                data[at:at] = data[at : at + chance.randrange(1, 400)]
            elif what == 3:
                data[at:at] = chance.choice((b"<", b">", b"&#0;", b"'", b'"', b"\xef\xbf\xbf", b"]]>", b"<!--", b"<![CDATA[", b"-1"))
            else:
                other = chance.choice(seeds).encode()
                data[at:] = other[chance.randrange(len(other)) :]
        said = announced(seed) if port in CIMXML else {}
        status, _, _ = ask(port, bytes(data), connection=client, **said)
        assert status in (200, 400, 415, 500, 501), status
    client.close()


class Slow(threading.Thread):
    """Many clients that give a byte a second, for ever."""

    def __init__(self, count):
        super().__init__(daemon=True)
        self.count, self.ended, self.over = count, 0, threading.Event()

    def run(self):
        clients = []
        for index in range(self.count):
            port = PORTS[index % 4]
            one = plug(port, source=f"127.78.{index % 4}.1")
            one.settimeout(0.01)
            if index % 2:
                # One half sends its head at once and is slow with the body.
                one.sendall(head(port, "Content-Length: 100000"))
            clients.append(one)
        while clients and not self.over.wait(1):
            for one in list(clients):
                try:
                    one.sendall(b"P")
                    if one.recv(1) == b"":
                        raise ConnectionResetError
                except TimeoutError:
                    pass
                except OSError:
                    clients.remove(one)
                    one.close()
                    self.ended += 1


def campaign():
    everywhere = (entities, nesting, too_large, halves, encodings, mutations, tokens)
    for part in everywhere:
        for port in PORTS:
            timed(part, port)
    for port in ENCRYPTED:
        timed(tls_rubbish, port)
    for port in WSMAN:
        timed(soap_names, port)
    for port in CIMXML:
        timed(cim_names, port)
    for port in (5985, 5988):
        timed(many_enumerations, port)


def timed(part, port):
    start = time.monotonic()
    part(port)
    status, _, text = ask(port, right(port))
    assert status == 200 and "host-a" in text, (part.__name__, port, status, text[:300])
    print(f"{part.__name__} on {port}: {time.monotonic() - start:.1f} s, {memory()} MiB", flush=True)


def main():
    for port in PORTS:
        assert ask(port, right(port))[0] == 200
    first, levels = memory(), []
    beside, slow = Beside(), Slow(100)
    beside.start()
    slow.start()
    for number in range(int(ROUNDS)):
        campaign()
        levels.append(memory())
    slow.join(timeout=45)
    assert slow.ended == slow.count, f"{slow.ended} of {slow.count} slow clients were sent away"
    beside.over.set()
    beside.join(timeout=PATIENCE)
    assert not beside.failed, beside.failed[:3]
    peak = memory("VmHWM")
    print(f"{beside.asked} right requests beside, the longest {beside.longest:.2f} s; memory {first} -> {levels} MiB, peak {peak}")
    assert beside.longest < PATIENCE / 2, beside.longest
    assert levels[-1] - first < 96 and peak - first < 256, "memory grows"
    assert levels[-1] - levels[0] < 24, "memory grows from round to round"
    print("campaign done")


main()
