//! The testbed: real guests, hosts, faults and judges for tests, the demo and the benchmarks.
//!
//! ```text
//! record, judge   what the guest writes, and whether two disks are one instant of it   (std only)
//! oracle          the same judgement over image files
//! guest           the guests: building, defining, reading their serial logs
//! builds          which build of standin that is
//! daemon          `standin serve` processes and the command line, by --json
//! hosts           daemons that know each other, file systems that can be full
//! netns           hosts as network namespaces, links that can be cut and slowed
//! tcpproxy        a connection that can be cut, delayed and corrupted
//! faults          seeded campaigns of them: the plan
//! campaign        a plan carried out on real hosts, with its judges
//! process         processes by id: alive, killed, measured
//! timeline, interrupt  what the demo prints; work that Ctrl-C ends without leaving anything
//! images, measure disks for benchmarks, medians, results
//! ```
//!
//! Nothing here is part of the product and nothing of the product is used here beyond its command line: the
//! judge must not share the mistakes of the judged.

#![forbid(unsafe_code)]

pub mod builds;
pub mod campaign;
pub mod daemon;
pub mod faults;
pub mod guest;
pub mod hosts;
pub mod images;
pub mod interrupt;
pub mod judge;
pub mod measure;
pub mod netns;
pub mod oracle;
pub mod process;
pub mod record;
pub mod tcpproxy;
pub mod timeline;
