//! What hosts say of a VM, themselves and of each other.

use super::Place;
use crate::ids::HostId;

/// What one host said just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// Which host.
    pub host: HostId,
    /// Its word.
    pub place: Place,
}

/// One word of each host. `own` is what hosts said themselves, each at most once; `told` is what was said of them, by any
/// number of others, and before that.
///
/// The own word of a host counts, and no other. Of one that is silent, "it runs there" and "it lives there" count from
/// anybody, and nothing else does. Of one that was not asked itself, the word counts that most keeps a VM from starting.
#[must_use]
pub fn one_word_each(own: Vec<Heard>, told: Vec<Heard>) -> Vec<Heard> {
    let mut words = own;
    let asked = words.len();
    for told in told {
        let known = words.iter().position(|word| word.host == told.host);
        match known {
            None => words.push(told),
            Some(at) if at < asked && words[at].place != Place::Silent => {}
            Some(at) if keeping(told.place) < keeping(words[at].place) => words[at] = told,
            Some(_) => {}
        }
    }
    words
}

/// The less, the more it keeps the VM from starting elsewhere.
fn keeping(place: Place) -> u8 {
    match place {
        Place::Runs => 0,
        Place::Lives => 1,
        Place::Silent => 2,
        Place::NotHere => 3,
        Place::Unknown => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    const PLACES: [Place; 5] = [Place::Runs, Place::Lives, Place::Silent, Place::NotHere, Place::Unknown];

    fn says(host: u128, place: Place) -> Heard {
        Heard { host: HostId(Uuid::from_u128(host)), place }
    }

    #[test]
    fn what_a_host_says_itself_counts_whatever_others_say_of_it() {
        for own in PLACES.into_iter().filter(|own| *own != Place::Silent) {
            for told in PLACES {
                assert_eq!(one_word_each(vec![says(1, own)], vec![says(1, told)]), [says(1, own)]);
            }
        }
    }

    #[test]
    fn others_can_only_say_of_a_silent_host_that_the_vm_is_there() {
        for (told, then) in [
            (Place::Runs, Place::Runs),
            (Place::Lives, Place::Lives),
            (Place::Silent, Place::Silent),
            (Place::NotHere, Place::Silent),
            (Place::Unknown, Place::Silent),
        ] {
            assert_eq!(one_word_each(vec![says(1, Place::Silent)], vec![says(1, told)]), [says(1, then)]);
        }
    }

    #[test]
    fn of_a_host_that_was_not_asked_the_strictest_word_counts_in_any_order() {
        for (at, one) in PLACES.into_iter().enumerate() {
            for other in PLACES.into_iter().skip(at) {
                assert_eq!(one_word_each(Vec::new(), vec![says(1, one), says(1, other)]), [says(1, one)]);
                assert_eq!(one_word_each(Vec::new(), vec![says(1, other), says(1, one)]), [says(1, one)]);
            }
        }
    }
}
