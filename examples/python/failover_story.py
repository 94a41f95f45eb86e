#!/usr/bin/env python3
"""The whole story of a replicated VM by the management API, with pywbem (CIM-XML).

Enables the replication of a VM, waits for its initial replication, lists its recovery points, fails over to the
second newest one, starts the VM there, takes that back, fails over to the latest point and commits.

    failover_story.py --vm web-1 \\
        --primary https://host-a.example.com:5989 --replica https://host-b.example.com:5989 \\
        --recovery-host host-b.example.com --user admin --ca ca.crt --interval 30

The primary's VM runs meanwhile, and a replica refuses to start over it. For this story the replica's configuration
says that it may be paused: start_over_running_primary = "pause" in the table [fence].

The password is read from the environment variable STANDIN_PASSWORD, or asked for. Ends with status 0 when the whole
story was told, with 1 and a sentence when something refused or failed.
"""

import argparse
import getpass
import os
import sys
import time

import pywbem

NAMESPACE = "root/virtualization/v2"
COMPLETED, JOB_STARTED = 0, 4096
JOB_DONE, JOB_ENDED = 7, {7, 8, 9, 10}
REPLICATING, RECOVERED, COMMITTED = 3, 5, 6
RUNNING, OFF = 2, 3
OVER_THE_NETWORK = 1
RECOVERY_POINT = "Microsoft:Hyper-V:Snapshot:Replica:"


class Refused(Exception):
    """A method or a job that did not do what it was asked to."""


class Host:
    """One host's objects and services."""

    def __init__(self, url, user, password, ca):
        verification = {"no_verification": True} if ca == "none" else {"ca_certs": ca}
        self.connection = pywbem.WBEMConnection(url, (user, password), default_namespace=NAMESPACE, **verification)
        self.replication = self.only("Msvm_ReplicationService").path

    def only(self, class_name):
        """The one instance of a class."""
        return self.connection.EnumerateInstances(class_name)[0]

    def query(self, text):
        """The instances that a WQL query finds. They come without paths of their own."""
        return self.connection.ExecQuery("WQL", text)

    def vm(self, name):
        """A VM's Msvm_ComputerSystem by its name."""
        found = self.query(f"SELECT * FROM Msvm_ComputerSystem WHERE ElementName = '{name}' AND Name != __SERVER")
        if not found:
            raise Refused(f"{self.connection.url} has no VM {name}")
        return found[0]

    def call(self, method, target=None, **arguments):
        """Calls a method and waits for its job, if it has one."""
        code, out = self.connection.InvokeMethod(method, target or self.replication, **arguments)
        if code == JOB_STARTED:
            self.wait(method, out["Job"])
        elif code != COMPLETED:
            raise Refused(f"{method} was refused with {code}")
        return out

    def wait(self, method, job_path):
        """Follows a job to its end."""
        shown = None
        while True:
            job = self.connection.GetInstance(job_path)
            if job["PercentComplete"] != shown:
                shown = job["PercentComplete"]
                print(f"  {method}: {shown} %", flush=True)
            if job["JobState"] in JOB_ENDED:
                break
            time.sleep(0.5)
        if job["JobState"] != JOB_DONE:
            raise Refused(f"{method} failed with {job['ErrorCode']}: {job['ErrorDescription']}")

    def points(self, vm):
        """The recovery points of a VM, newest first."""
        settings = self.connection.Associators(
            vm.path, AssocClass="Msvm_SnapshotOfVirtualSystem", ResultClass="Msvm_VirtualSystemSettingData"
        )
        points = [one for one in settings if one["VirtualSystemType"].startswith(RECOVERY_POINT)]
        return sorted(points, key=lambda one: one["CreationTime"].datetime, reverse=True)


def until(what, seconds, condition):
    """Asks again and again until a condition holds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        result = condition()
        if result:
            return result
        time.sleep(1)
    raise Refused(f"{what} did not come about within {seconds} s")


def embedded(instance):
    """An instance as the text that methods take."""
    return instance.tocimxml().toxml()


def enable(primary, arguments):
    """Makes the relationship with the settings that the VM suggests, and copies its disks."""
    vm = primary.vm(arguments.vm)
    settings = primary.connection.Associators(vm.path, ResultClass="Msvm_ReplicationSettingData")[0]
    settings["RecoveryConnectionPoint"] = arguments.recovery_host
    settings["RecoveryHostSystem"] = arguments.recovery_host
    settings["RecoveryServerPortNumber"] = pywbem.Uint16(arguments.recovery_port)
    settings["ReplicationInterval"] = pywbem.Uint16(arguments.interval)
    settings["RecoveryHistory"] = pywbem.Uint16(arguments.history)
    print(f"enable the replication of {arguments.vm} to {arguments.recovery_host}")
    primary.call(
        "CreateReplicationRelationship", ComputerSystem=vm.path, ReplicationSettingData=embedded(settings)
    )
    primary.call(
        "StartReplication", ComputerSystem=vm.path, InitialReplicationType=pywbem.Uint16(OVER_THE_NETWORK)
    )
    until("state 3 (replicating)", 120, lambda: primary.vm(arguments.vm)["ReplicationState"] == REPLICATING)


def state_of(host, name):
    """The numbers of a VM's replication and power."""
    vm = host.vm(name)
    return vm["ReplicationState"], vm["EnabledState"]


def fail_over(replica, name, point=None):
    """Fails over to a recovery point, or to the latest."""
    vm = replica.vm(name)
    print(f"fail over {name} to {point['CreationTime'] if point else 'the latest recovery point'}")
    replica.call("InitiateFailover", ComputerSystem=vm.path, SnapshotSettingData=point.path if point else None)
    if state_of(replica, name) != (RECOVERED, OFF):
        raise Refused(f"after the failover the VM is in state {state_of(replica, name)}")


def story(primary, replica, arguments):
    """From a VM that runs here to a VM that runs there."""
    enable(primary, arguments)
    name = arguments.vm
    points = until("a third recovery point", 600, lambda: enough(replica.points(replica.vm(name))))
    print(f"{len(points)} recovery points")
    for point in points:
        print(f"  {point['CreationTime']}  {point['VirtualSystemType'].removeprefix(RECOVERY_POINT)}")

    fail_over(replica, name, points[1])
    print("start it")
    start(replica, name)
    print("take the failover back")
    replica.call("RevertFailover", ComputerSystem=replica.vm(name).path)
    fail_over(replica, name)
    print("commit")
    replica.call("CommitFailover", ComputerSystem=replica.vm(name).path)
    if state_of(replica, name)[0] != COMMITTED:
        raise Refused(f"after the commit the VM is in state {state_of(replica, name)}")
    start(replica, name)
    print(f"{name} runs on {arguments.recovery_host}")


def enough(points):
    """Three points: the second newest has one before and one after it."""
    return points if len(points) >= 3 else None


def start(host, name):
    """Starts a VM; InitiateFailover does not."""
    host.call("RequestStateChange", host.vm(name).path, RequestedState=pywbem.Uint16(RUNNING))
    until("a running VM", 60, lambda: state_of(host, name)[1] == RUNNING)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vm", required=True, help="name of the VM")
    parser.add_argument("--primary", required=True, help="https://HOST:5989 of the host that runs it")
    parser.add_argument("--replica", required=True, help="https://HOST:5989 of the host that is to receive it")
    parser.add_argument("--recovery-host", required=True, help="the replica host, as its certificate names it")
    parser.add_argument("--recovery-port", type=int, default=0, help="its replication port; 0 for the usual one")
    parser.add_argument("--user", required=True)
    parser.add_argument("--ca", required=True, help="file of the certificate authority, or 'none' to check nothing")
    parser.add_argument("--interval", type=int, default=300, help="seconds from recovery point to recovery point")
    parser.add_argument("--history", type=int, default=24, help="hourly recovery points to keep, 0 to 24")
    arguments = parser.parse_args()
    password = os.environ.get("STANDIN_PASSWORD") or getpass.getpass()
    try:
        hosts = [Host(url, arguments.user, password, arguments.ca) for url in (arguments.primary, arguments.replica)]
        story(*hosts, arguments)
    except (Refused, pywbem.Error) as error:
        print(f"failover_story: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
