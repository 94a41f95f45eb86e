# Gives one network card of a Windows guest its addresses; Windows keeps them over a reboot. Run by the guest agent
# with the settings as variables before it: $mac, $addresses ("ADDRESS/PREFIX"), $gateways, $dns, $dhcp4, $dhcp6.
# Says "interface NAME" and "by Windows".
$ErrorActionPreference = 'Stop'
$adapter = Get-NetAdapter | Where-Object { $_.MacAddress -eq $mac.Replace(':', '-').ToUpper() } | Select-Object -First 1
if (-not $adapter) { throw "no network card of this guest has the address $mac" }
$index = $adapter.ifIndex
foreach ($family in 'IPv4', 'IPv6') {
    $own = @($addresses | Where-Object { ($_ -match ':') -eq ($family -eq 'IPv6') })
    $dhcp = if ($family -eq 'IPv4') { $dhcp4 } else { $dhcp6 }
    if (-not $own -and -not $dhcp) { continue }
    $zero = if ($family -eq 'IPv4') { '0.0.0.0/0' } else { '::/0' }
    Get-NetRoute -InterfaceIndex $index -DestinationPrefix $zero -ErrorAction SilentlyContinue |
        Remove-NetRoute -Confirm:$false
    Get-NetIPAddress -InterfaceIndex $index -AddressFamily $family -ErrorAction SilentlyContinue |
        Where-Object { $_.PrefixOrigin -in 'Manual', 'Dhcp' } | Remove-NetIPAddress -Confirm:$false
    $state = if ($dhcp) { 'Enabled' } else { 'Disabled' }
    Set-NetIPInterface -InterfaceIndex $index -AddressFamily $family -Dhcp $state
    foreach ($entry in $own) {
        $address, $prefix = $entry -split '/'
        New-NetIPAddress -InterfaceIndex $index -IPAddress $address -PrefixLength $prefix | Out-Null
    }
    $metric = 0
    foreach ($gateway in @($gateways | Where-Object { ($_ -match ':') -eq ($family -eq 'IPv6') })) {
        $metric += 100
        New-NetRoute -InterfaceIndex $index -DestinationPrefix $zero -NextHop $gateway -RouteMetric $metric | Out-Null
    }
}
if ($dns) { Set-DnsClientServerAddress -InterfaceIndex $index -ServerAddresses $dns }
elseif ($dhcp4 -or $dhcp6) { Set-DnsClientServerAddress -InterfaceIndex $index -ResetServerAddresses }
Write-Output "interface $($adapter.Name)"
Write-Output 'by Windows'
