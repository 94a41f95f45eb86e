//! The words of a query.

use super::{Problem, QueryError};

/// A word with its place.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token {
    pub(super) kind: TokenKind,
    /// In characters from the beginning.
    pub(super) at: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum TokenKind {
    /// A name or a keyword.
    Word(String),
    /// Text between quotes, unescaped.
    Text(String),
    /// A number, as it is written.
    Number(String),
    /// What stands between braces, as it is written.
    Braces(String),
    /// One of `( ) , . [ ] * = != < > <= >=`; `<>` is `!=`.
    Sign(&'static str),
    End,
}

impl TokenKind {
    /// As an error names it.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Word(word) | Self::Number(word) => word.chars().take(60).collect(),
            Self::Text(text) => format!("'{}'", text.chars().take(60).collect::<String>()),
            Self::Braces(_) => "{...}".to_owned(),
            Self::Sign(sign) => (*sign).to_owned(),
            Self::End => "the end".to_owned(),
        }
    }
}

/// The words of a text; the last one is the end.
pub(super) fn tokens(text: &str) -> Result<Vec<Token>, QueryError> {
    let mut lexer = Lexer { text: text.chars().collect(), at: 0 };
    let mut found = Vec::new();
    loop {
        let token = lexer.next()?;
        let last = token.kind == TokenKind::End;
        found.push(token);
        if last {
            return Ok(found);
        }
    }
}

struct Lexer {
    text: Vec<char>,
    at: usize,
}

impl Lexer {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.text.get(self.at + ahead).copied()
    }

    fn next(&mut self) -> Result<Token, QueryError> {
        while self.peek(0).is_some_and(char::is_whitespace) {
            self.at += 1;
        }
        let at = self.at;
        let Some(first) = self.peek(0) else { return Ok(Token { kind: TokenKind::End, at }) };
        let kind = match first {
            '\'' | '"' => TokenKind::Text(self.quoted(first)?),
            '{' => TokenKind::Braces(self.braces()?),
            '0'..='9' => TokenKind::Number(self.number()),
            '-' | '+' if self.peek(1).is_some_and(|next| next.is_ascii_digit()) => {
                TokenKind::Number(self.number())
            }
            letter if is_word(letter) => TokenKind::Word(self.while_(is_word)),
            _ => TokenKind::Sign(self.sign()?),
        };
        Ok(Token { kind, at })
    }

    fn while_(&mut self, holds: impl Fn(char) -> bool) -> String {
        let from = self.at;
        while self.peek(0).is_some_and(&holds) {
            self.at += 1;
        }
        self.text[from..self.at].iter().collect()
    }

    /// A backslash takes the meaning of a quote or a backslash away; before anything else it stands for itself,
    /// because people do write single backslashes into names.
    fn quoted(&mut self, quote: char) -> Result<String, QueryError> {
        let from = self.at;
        self.at += 1;
        let mut found = String::new();
        while let Some(next) = self.peek(0) {
            self.at += 1;
            match (next, self.peek(0)) {
                ('\\', Some(escaped @ ('\\' | '\'' | '"'))) => {
                    self.at += 1;
                    found.push(escaped);
                }
                (next, _) if next == quote => return Ok(found),
                (next, _) => found.push(next),
            }
        }
        Err(QueryError { position: from, problem: Problem::Unended { what: "text in quotes" } })
    }

    /// A path: a brace within its quotes does not end it.
    fn braces(&mut self) -> Result<String, QueryError> {
        let from = self.at;
        self.at += 1;
        let mut within: Option<char> = None;
        while let Some(next) = self.peek(0) {
            self.at += 1;
            match (within, next) {
                (Some(_), '\\') => self.at += 1,
                (Some(quote), next) if next == quote => within = None,
                (None, '\'' | '"') => within = Some(next),
                (None, '}') => return Ok(self.text[from + 1..self.at - 1].iter().collect()),
                _ => {}
            }
        }
        Err(QueryError { position: from, problem: Problem::Unended { what: "path in braces" } })
    }

    /// Digits, `0x..`, a fraction, an exponent; what it is worth is the parser's.
    fn number(&mut self) -> String {
        let from = self.at;
        self.at += 1;
        let hexadecimal =
            |lexer: &Self| lexer.text[from..lexer.at].iter().any(|digit| matches!(digit, 'x' | 'X'));
        while let Some(next) = self.peek(0) {
            let sign_of_exponent = matches!(next, '-' | '+')
                && matches!(self.text.get(self.at - 1), Some('e' | 'E'))
                && !hexadecimal(self);
            if !(next.is_ascii_alphanumeric() || next == '.' || sign_of_exponent) {
                break;
            }
            self.at += 1;
        }
        self.text[from..self.at].iter().collect()
    }

    fn sign(&mut self) -> Result<&'static str, QueryError> {
        const SIGNS: [(&str, &str); 16] = [
            ("<>", "!="),
            ("!=", "!="),
            ("<=", "<="),
            (">=", ">="),
            ("==", "="),
            ("=", "="),
            ("<", "<"),
            (">", ">"),
            ("(", "("),
            (")", ")"),
            (",", ","),
            (".", "."),
            ("[", "["),
            ("]", "]"),
            ("*", "*"),
            (";", ";"),
        ];
        for (written, meant) in SIGNS {
            if written.chars().enumerate().all(|(ahead, sign)| self.peek(ahead) == Some(sign)) {
                self.at += written.len();
                return Ok(meant);
            }
        }
        let found = self.peek(0).map(String::from).unwrap_or_default();
        let expected = "a name, a value or an operator".to_owned();
        Err(QueryError { position: self.at, problem: Problem::Unexpected { expected, found } })
    }
}

fn is_word(letter: char) -> bool {
    letter == '_' || letter.is_alphanumeric()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<TokenKind> {
        tokens(text).unwrap().into_iter().map(|token| token.kind).collect()
    }

    #[test]
    fn escapes_quotes_and_braces_are_read_as_written() {
        assert_eq!(
            kinds(r#"'a\\b\'c\d' "it's" {C.K="}\"}"}"#),
            [
                TokenKind::Text(r"a\b'c\d".into()),
                TokenKind::Text("it's".into()),
                TokenKind::Braces(r#"C.K="}\"}""#.into()),
                TokenKind::End
            ]
        );
    }

    #[test]
    fn numbers_keep_their_signs_fractions_and_exponents() {
        assert_eq!(
            kinds("-12 0xFF 1.5e-3,7"),
            [
                TokenKind::Number("-12".into()),
                TokenKind::Number("0xFF".into()),
                TokenKind::Number("1.5e-3".into()),
                TokenKind::Sign(","),
                TokenKind::Number("7".into()),
                TokenKind::End
            ]
        );
    }

    #[test]
    fn what_does_not_end_is_named_with_its_place() {
        for (text, position) in [("a = 'x", 4), ("{C.K='}", 0), (r"x '\'", 2), ("a ~ b", 2)] {
            assert_eq!(tokens(text).unwrap_err().position, position, "{text}");
        }
    }
}
