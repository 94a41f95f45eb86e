<#
.SYNOPSIS
The whole story of a replicated VM by the management API, with the CIM cmdlets (WS-Management).

.DESCRIPTION
Enables the replication of a VM, waits for its initial replication, lists its recovery points, fails over to the second
newest one, starts the VM there, takes that back, fails over to the latest point and commits.

The primary's VM runs meanwhile, and a replica refuses to start over it. For this story the replica's configuration
says that it may be paused: start_over_running_primary = "pause" in the table [fence].

.EXAMPLE
$login = Get-Credential admin
./Invoke-FailoverStory.ps1 -VM web-1 -Primary host-a -Replica host-b -Credential $login -UseSsl -Interval 30
#>
[CmdletBinding()]
param(
    [Parameter(Mandatory)] [string] $VM,
    [Parameter(Mandatory)] [string] $Primary,
    [Parameter(Mandatory)] [string] $Replica,
    [Parameter(Mandatory)] [pscredential] $Credential,
    [string] $RecoveryHost = $Replica,
    [uint16] $RecoveryPort = 0,
    [uint16] $Interval = 300,
    [uint16] $History = 24,
    [ValidateSet('Basic', 'Negotiate', 'Kerberos')] [string] $Authentication = 'Negotiate',
    [switch] $UseSsl,
    [switch] $SkipCertificateCheck
)

Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'

$namespace = 'root/virtualization/v2'
$completed, $jobStarted = 0, 4096
$replicating, $recovered, $committed = 3, 5, 6
$running, $overTheNetwork = 2, 1

function Connect-Standin([string] $HostName) {
    # Without any of the options of WS-Management the cmdlet would ask for a protocol.
    $sessionOption = if ($UseSsl) {
        New-CimSessionOption -UseSsl -SkipCACheck:$SkipCertificateCheck -SkipCNCheck:$SkipCertificateCheck
    } else {
        New-CimSessionOption -Protocol Wsman
    }
    New-CimSession -ComputerName $HostName -Credential $Credential -Authentication $Authentication -SessionOption $sessionOption
}

function Get-Machine([CimSession] $Session) {
    $query = "SELECT * FROM Msvm_ComputerSystem WHERE ElementName = '$VM' AND Name != __SERVER"
    $found = Get-CimInstance -CimSession $Session -Namespace $namespace -Query $query
    if (-not $found) { throw "$($Session.ComputerName) has no VM $VM" }
    $found
}

function Wait-CimJob([CimSession] $Session, [string] $Method, [ciminstance] $Job) {
    do {
        Start-Sleep -Milliseconds 500
        $now = Get-CimInstance -CimSession $Session -InputObject $Job
        Write-Progress -Activity $Method -PercentComplete $now.PercentComplete
    } until ($now.JobState -in 7, 8, 9, 10)
    Write-Progress -Activity $Method -Completed
    if ($now.JobState -ne 7) { throw "$Method failed with $($now.ErrorCode): $($now.ErrorDescription)" }
}

function Invoke-Checked([CimSession] $Session, [ciminstance] $Target, [string] $Method, [hashtable] $Arguments) {
    $answer = Invoke-CimMethod -CimSession $Session -InputObject $Target -MethodName $Method -Arguments $Arguments
    switch ($answer.ReturnValue) {
        $completed { }
        $jobStarted { Wait-CimJob $Session $Method $answer.Job }
        default { throw "$Method was refused with $_" }
    }
}

function Get-ReplicationService([CimSession] $Session) {
    Get-CimInstance -CimSession $Session -Namespace $namespace -ClassName Msvm_ReplicationService
}

# Newest first.
function Get-RecoveryPoint([CimSession] $Session, [ciminstance] $Machine) {
    Get-CimAssociatedInstance -CimSession $Session -InputObject $Machine -Association Msvm_SnapshotOfVirtualSystem `
        -ResultClassName Msvm_VirtualSystemSettingData |
        Where-Object VirtualSystemType -like 'Microsoft:Hyper-V:Snapshot:Replica:*' |
        Sort-Object CreationTime -Descending
}

# An instance as the text that methods take.
function ConvertTo-EmbeddedText([ciminstance] $Instance) {
    $serializer = [Microsoft.Management.Infrastructure.Serialization.CimSerializer]::Create()
    $bytes = $serializer.Serialize($Instance, [Microsoft.Management.Infrastructure.Serialization.InstanceSerializationOptions]::None)
    [System.Text.Encoding]::Unicode.GetString($bytes)
}

function Wait-Until([string] $What, [int] $Seconds, [scriptblock] $Condition) {
    $end = (Get-Date).AddSeconds($Seconds)
    while ((Get-Date) -lt $end) {
        $result = & $Condition
        if ($result) { return $result }
        Start-Sleep -Seconds 1
    }
    throw "$What did not come about within $Seconds s"
}

function Start-Failover([CimSession] $Session, [ciminstance] $Point) {
    $arguments = @{ ComputerSystem = [ref](Get-Machine $Session) }
    if ($Point) { $arguments.SnapshotSettingData = [ref]$Point }
    Invoke-Checked $Session (Get-ReplicationService $Session) InitiateFailover $arguments
    $state = (Get-Machine $Session).ReplicationState
    if ($state -ne $recovered) { throw "after the failover the VM is in state $state" }
}

$primarySession = Connect-Standin $Primary
$replicaSession = Connect-Standin $Replica
try {
    $machine = Get-Machine $primarySession
    $settings = Get-CimAssociatedInstance -CimSession $primarySession -InputObject $machine -ResultClassName Msvm_ReplicationSettingData |
        Select-Object -First 1
    $settings.RecoveryConnectionPoint = $RecoveryHost
    $settings.RecoveryHostSystem = $RecoveryHost
    $settings.RecoveryServerPortNumber = $RecoveryPort
    $settings.ReplicationInterval = $Interval
    $settings.RecoveryHistory = $History

    "enable the replication of $VM to $RecoveryHost"
    $service = Get-ReplicationService $primarySession
    Invoke-Checked $primarySession $service CreateReplicationRelationship @{
        ComputerSystem         = [ref]$machine
        ReplicationSettingData = ConvertTo-EmbeddedText $settings
    }
    Invoke-Checked $primarySession $service StartReplication @{
        ComputerSystem         = [ref]$machine
        InitialReplicationType = [uint16]$overTheNetwork
    }
    Wait-Until 'state 3 (replicating)' 120 { (Get-Machine $primarySession).ReplicationState -eq $replicating } | Out-Null

    $points = Wait-Until 'a third recovery point' 600 {
        $found = @(Get-RecoveryPoint $replicaSession (Get-Machine $replicaSession))
        if ($found.Count -ge 3) { , $found }
    }
    "$($points.Count) recovery points"
    $points | Format-Table CreationTime, VirtualSystemType

    "fail over to the second newest"
    Start-Failover $replicaSession $points[1]
    'start it'
    $machine = Get-Machine $replicaSession
    Invoke-Checked $replicaSession $machine RequestStateChange @{ RequestedState = [uint16]$running }
    Wait-Until 'a running VM' 60 { (Get-Machine $replicaSession).EnabledState -eq $running } | Out-Null

    'take the failover back'
    $service = Get-ReplicationService $replicaSession
    Invoke-Checked $replicaSession $service RevertFailover @{ ComputerSystem = [ref](Get-Machine $replicaSession) }

    'fail over to the latest recovery point'
    Start-Failover $replicaSession $null
    'commit'
    Invoke-Checked $replicaSession $service CommitFailover @{ ComputerSystem = [ref](Get-Machine $replicaSession) }
    $machine = Get-Machine $replicaSession
    if ($machine.ReplicationState -ne $committed) { throw "after the commit the VM is in state $($machine.ReplicationState)" }
    Invoke-Checked $replicaSession $machine RequestStateChange @{ RequestedState = [uint16]$running }
    "$VM runs on $Replica"
} finally {
    $primarySession, $replicaSession | Remove-CimSession
}
