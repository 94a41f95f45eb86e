//! The words of a MOF file (DSP0004, annex A).

/// A word with its line.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    pub kind: Kind,
    pub line: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    Word(String),
    Text(String),
    Number(String),
    Sign(char),
    End,
}

/// The words of a text; comments are left out and adjacent texts joined.
pub fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let letters: Vec<char> = text.chars().collect();
    let mut found: Vec<Token> = Vec::new();
    let (mut at, mut line) = (0, 1);
    while let Some(&first) = letters.get(at) {
        let begin = at;
        match first {
            '\n' => {
                line += 1;
                at += 1;
            }
            space if space.is_whitespace() => at += 1,
            '/' if letters.get(at + 1) == Some(&'/') => {
                while letters.get(at).is_some_and(|next| *next != '\n') {
                    at += 1;
                }
            }
            '"' => {
                let text = quoted(&letters, &mut at).ok_or_else(|| format!("{line}: a text does not end"))?;
                match found.last_mut() {
                    Some(Token { kind: Kind::Text(before), .. }) => before.push_str(&text),
                    _ => found.push(Token { kind: Kind::Text(text), line }),
                }
            }
            first if first.is_ascii_digit() || first == '-' => {
                at += 1;
                while letters.get(at).is_some_and(|next| next.is_ascii_alphanumeric() || *next == '.') {
                    at += 1;
                }
                found.push(Token { kind: Kind::Number(letters[begin..at].iter().collect()), line });
            }
            first if first.is_ascii_alphabetic() || first == '_' => {
                while letters.get(at).is_some_and(|next| next.is_ascii_alphanumeric() || *next == '_') {
                    at += 1;
                }
                found.push(Token { kind: Kind::Word(letters[begin..at].iter().collect()), line });
            }
            sign @ ('[' | ']' | '{' | '}' | '(' | ')' | ',' | ';' | ':' | '=' | '#') => {
                found.push(Token { kind: Kind::Sign(sign), line });
                at += 1;
            }
            other => return Err(format!("{line}: {other:?} has no meaning here")),
        }
    }
    found.push(Token { kind: Kind::End, line });
    Ok(found)
}

fn quoted(letters: &[char], at: &mut usize) -> Option<String> {
    let mut text = String::new();
    *at += 1;
    loop {
        let next = *letters.get(*at)?;
        *at += 1;
        match next {
            '"' => return Some(text),
            '\n' => return None,
            '\\' => {
                let escaped = *letters.get(*at)?;
                *at += 1;
                text.push(match escaped {
                    'n' => '\n',
                    't' => '\t',
                    other => other,
                });
            }
            other => text.push(other),
        }
    }
}
