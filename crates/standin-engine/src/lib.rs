//! One task per relationship: cycles, receiving, failover flows, jobs, health and statistics.
