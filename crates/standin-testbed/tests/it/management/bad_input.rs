//! What clients do wrong, to a daemon that runs: `tests/clients/bad_input.py` says what and checks each answer, the
//! daemon's memory, and that others are served all the time.

use super::{client, peopled_with, well};

#[test]
fn whatever_clients_send_there_is_an_answer_and_the_daemon_goes_on() {
    let rig = peopled_with("allow_basic_over_http = true\nmax_request_kib = 8192\n");
    let (pid, points) = (rig.a.pid().unwrap(), rig.newest_epoch("web-1"));
    let said = well(&client(&rig, "bad_input.py", &[&pid.to_string(), "2"]));
    eprintln!("{said}");
    assert!(said.ends_with("campaign done\n"), "{said}");
    assert_eq!(rig.a.pid().unwrap(), pid);
    // It did its work meanwhile, and nothing of it was so bad that somebody has to act.
    rig.wait_point_beyond("web-1", points);
    let log = rig.a.log();
    let bad: Vec<_> =
        log.lines().filter(|line| line.contains("panicked") || line.contains(" ERROR ")).collect();
    assert!(bad.is_empty(), "{bad:#?}");
    assert!(!log.contains(super::PASSWORD) && !log.contains("root:x:0"), "a secret in the log");
}
