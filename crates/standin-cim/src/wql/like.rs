//! The patterns of `LIKE`: `%` any text, `_` one character, `[a-f]` one of these, `[^a-f]` one that is not.

/// A pattern, ready to compare. Compares without case.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pattern(Vec<Piece>);

#[derive(Debug, Clone, PartialEq)]
enum Piece {
    Anything,
    AnyOne,
    Set { ranges: Vec<(char, char)>, without: bool },
    One(char),
}

impl Pattern {
    /// Reads a pattern. A `[` without its `]` stands for itself.
    pub(super) fn new(text: &str) -> Self {
        let text: Vec<char> = text.chars().map(lower).collect();
        let mut pieces = Vec::new();
        let mut at = 0;
        while let Some(&next) = text.get(at) {
            at += 1;
            match next {
                '%' if pieces.last() == Some(&Piece::Anything) => {}
                '%' => pieces.push(Piece::Anything),
                '_' => pieces.push(Piece::AnyOne),
                '[' => match set(&text[at..]) {
                    Some((piece, length)) => {
                        pieces.push(piece);
                        at += length;
                    }
                    None => pieces.push(Piece::One('[')),
                },
                other => pieces.push(Piece::One(other)),
            }
        }
        Self(pieces)
    }

    /// Whether the whole of a text fits. Takes at most length times length steps: only the last `%` is ever
    /// tried again.
    pub(super) fn fits(&self, text: &str) -> bool {
        let text: Vec<char> = text.chars().map(lower).collect();
        let (mut at, mut piece) = (0, 0);
        let mut again: Option<(usize, usize)> = None;
        while at < text.len() {
            match self.0.get(piece) {
                Some(Piece::Anything) => {
                    again = Some((piece, at));
                    piece += 1;
                }
                Some(other) if other.takes(text[at]) => {
                    at += 1;
                    piece += 1;
                }
                _ => {
                    let Some((from, reached)) = again else { return false };
                    again = Some((from, reached + 1));
                    piece = from + 1;
                    at = reached + 1;
                }
            }
        }
        self.0[piece..].iter().all(|rest| *rest == Piece::Anything)
    }
}

impl Piece {
    fn takes(&self, letter: char) -> bool {
        match self {
            Self::Anything => false,
            Self::AnyOne => true,
            Self::One(one) => *one == letter,
            Self::Set { ranges, without } => {
                ranges.iter().any(|(from, to)| (*from..=*to).contains(&letter)) != *without
            }
        }
    }
}

/// The set that begins after a `[`, and its length with the `]`. A `]` that comes first is a member.
fn set(text: &[char]) -> Option<(Piece, usize)> {
    let without = text.first() == Some(&'^');
    let begin = usize::from(without);
    let end = begin + 1 + text.get(begin + 1..)?.iter().position(|letter| *letter == ']')?;
    let members = &text[begin..end];
    let mut ranges = Vec::new();
    let mut at = 0;
    while let Some(&from) = members.get(at) {
        match members.get(at + 1..at + 3) {
            Some(&[between, to]) if between == '-' || between == '=' => {
                ranges.push((from, to));
                at += 3;
            }
            _ => {
                ranges.push((from, from));
                at += 1;
            }
        }
    }
    Some((Piece::Set { ranges, without }, end + 1))
}

fn lower(letter: char) -> char {
    letter.to_lowercase().next().unwrap_or(letter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patterns_fit_what_they_say() {
        for (pattern, text, fits) in [
            ("%", "", true),
            ("a%c", "abbbc", true),
            ("a%c", "abbbcd", false),
            ("A_C", "abc", true),
            ("a_c", "ac", false),
            ("%Recovery%Point%", "x recovery y point", true),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[^a-c]x", "dx", true),
            ("100[%]", "100%", true),
            ("100[%]", "1000", false),
            ("a[]]b", "a]b", true),
            ("a[b", "a[b", true),
            ("%%%%", "anything", true),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(Pattern::new(pattern).fits(text), fits, "{pattern} on {text}");
        }
    }

    #[test]
    fn a_pattern_made_to_backtrack_ends_soon() {
        let text = "a".repeat(20_000);
        let pattern = Pattern::new(&format!("{}b", "%a".repeat(500)));
        let before = std::time::Instant::now();
        assert!(!pattern.fits(&text));
        assert!(before.elapsed() < std::time::Duration::from_secs(5));
    }

    proptest! {
        #[test]
        fn a_text_without_signs_fits_itself_and_between_percents(text in "[a-zA-Z0-9 .:\\\\-]{0,20}", more in "[a-z%_]{0,8}") {
            prop_assert!(Pattern::new(&text).fits(&text.to_uppercase()));
            let longer = format!("{}{}{}", more, text, more);
            let pattern = format!("%{text}%");
            prop_assert!(Pattern::new(&pattern).fits(&longer));
        }

        #[test]
        fn no_pattern_panics(pattern in ".{0,30}", text in ".{0,30}") {
            let _ = Pattern::new(&pattern).fits(&text);
        }
    }
}
