//! From words to a query. Recursion goes as deep as [`DEEPEST`] says and no deeper.

use super::compare::{Comparison, path_of};
use super::condition::{Condition, Name, Operand};
use super::lexer::{Token, TokenKind};
use super::like::Pattern;
use super::{DEEPEST, Kind, Problem, Query, QueryError, Walk};
use crate::{AssociationFilter, Value};

pub(super) struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
}

type Parsed<T> = Result<T, QueryError>;

impl Parser {
    /// Takes words that end with the end.
    pub(super) fn new(tokens: Vec<Token>) -> Self {
        Self { tokens, at: 0, depth: 0 }
    }

    pub(super) fn query(mut self) -> Parsed<Query> {
        let query = if self.take_word("SELECT") {
            self.select()?
        } else if self.take_word("ASSOCIATORS") {
            self.walk(Kind::Associators)?
        } else if self.take_word("REFERENCES") {
            self.walk(Kind::References)?
        } else {
            return Err(self.unexpected("SELECT, ASSOCIATORS OF or REFERENCES OF"));
        };
        self.take_sign(";");
        match self.kind() {
            TokenKind::End => Ok(query),
            _ => Err(self.unexpected("the end of the query")),
        }
    }

    fn select(&mut self) -> Parsed<Query> {
        let mut selects = Vec::new();
        let mut everything = false;
        loop {
            if self.take_sign("*") {
                everything = true;
            } else {
                let name = self.name()?;
                if self.take_sign(".") {
                    // `Class.*` of CQL.
                    self.expect_sign("*")?;
                    everything = true;
                } else {
                    selects.push(name);
                }
            }
            if !self.take_sign(",") {
                break;
            }
        }
        self.expect_word("FROM")?;
        let class_at = self.here();
        let class = self.word("a class")?;
        let condition = if self.take_word("WHERE") { Some(self.any()?) } else { None };
        let selects = if everything { None } else { Some(selects) };
        Ok(Query::select(class, class_at, selects, condition))
    }

    /// `a OR b OR c`.
    fn any(&mut self) -> Parsed<Condition> {
        let mut conditions = vec![self.all()?];
        while self.take_word("OR") {
            conditions.push(self.all()?);
        }
        Ok(one_or(conditions, Condition::Any))
    }

    /// `a AND b AND c`.
    fn all(&mut self) -> Parsed<Condition> {
        let mut conditions = vec![self.not()?];
        while self.take_word("AND") {
            conditions.push(self.not()?);
        }
        Ok(one_or(conditions, Condition::All))
    }

    fn not(&mut self) -> Parsed<Condition> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(QueryError { position: self.here(), problem: Problem::TooDeep });
        }
        let condition = if self.take_word("NOT") {
            Condition::Not(Box::new(self.not()?))
        } else if self.take_sign("(") {
            let inner = self.any()?;
            self.expect_sign(")")?;
            inner
        } else {
            self.comparison()?
        };
        self.depth -= 1;
        Ok(condition)
    }

    fn comparison(&mut self) -> Parsed<Condition> {
        // FQL's quantifiers; `ANY` is what a comparison with an array means anyhow.
        let every = self.quantifier("EVERY");
        if !every {
            self.quantifier("ANY");
        }
        let Some(left) = self.operand()? else { return Err(self.unexpected("null on the right side")) };
        let at = self.here();
        if self.take_word("IS") {
            let negated = self.take_word("NOT");
            self.expect_word("NULL")?;
            return Ok(negate(Condition::IsNull(left), negated));
        }
        let negated = self.take_word("NOT");
        if self.take_word("LIKE") {
            let pattern = match self.next() {
                TokenKind::Text(text) => Pattern::new(&text),
                _ => return Err(self.unexpected_before("a pattern in quotes")),
            };
            return Ok(negate(Condition::Like { operand: left, pattern }, negated));
        }
        if negated {
            return Err(self.unexpected("LIKE"));
        }
        if self.take_word("ISA") {
            let at = self.here();
            let class = match self.next() {
                TokenKind::Text(class) | TokenKind::Word(class) => class,
                _ => return Err(self.unexpected_before("a class")),
            };
            return Ok(Condition::IsA { operand: left, class, at });
        }
        let comparison = self.comparison_sign()?;
        match self.operand()? {
            Some(right) => Ok(Condition::Compare { left, comparison, right, every, at }),
            // `= NULL` is what people write for `IS NULL`.
            None => match comparison {
                Comparison::Equal => Ok(Condition::IsNull(left)),
                Comparison::Unequal => Ok(negate(Condition::IsNull(left), true)),
                _ => Err(self.unexpected_before("a value: null has no order")),
            },
        }
    }

    fn comparison_sign(&mut self) -> Parsed<Comparison> {
        let comparison = match self.kind() {
            TokenKind::Sign("=") => Comparison::Equal,
            TokenKind::Sign("!=") => Comparison::Unequal,
            TokenKind::Sign("<") => Comparison::Less,
            TokenKind::Sign("<=") => Comparison::LessOrEqual,
            TokenKind::Sign(">") => Comparison::Greater,
            TokenKind::Sign(">=") => Comparison::GreaterOrEqual,
            _ => return Err(self.unexpected("a comparison")),
        };
        self.at += 1;
        Ok(comparison)
    }

    /// A property or a value; `None` is the word `NULL`.
    fn operand(&mut self) -> Parsed<Option<Operand>> {
        let at = self.here();
        let literal = match self.kind().clone() {
            TokenKind::Text(text) => Value::String(text),
            TokenKind::Number(text) => number(&text, at)?,
            TokenKind::Word(word) if word.eq_ignore_ascii_case("TRUE") => Value::Boolean(true),
            TokenKind::Word(word) if word.eq_ignore_ascii_case("FALSE") => Value::Boolean(false),
            TokenKind::Word(word) if word.eq_ignore_ascii_case("NULL") => {
                self.at += 1;
                return Ok(None);
            }
            TokenKind::Word(_) => return Ok(Some(Operand::Property(self.name()?))),
            _ => return Err(self.unexpected("a property or a value")),
        };
        self.at += 1;
        Ok(Some(Operand::Literal(literal)))
    }

    /// `Property`, `Embedded.Property`, `Property[2]`.
    fn name(&mut self) -> Parsed<Name> {
        let at = self.here();
        let mut parts = vec![self.word("a property")?];
        while matches!(self.kind(), TokenKind::Sign("."))
            && matches!(self.tokens.get(self.at + 1), Some(Token { kind: TokenKind::Word(_), .. }))
        {
            self.at += 1;
            parts.push(self.word("a property")?);
        }
        let mut element = None;
        if self.take_sign("[") {
            let position = self.here();
            element = match self.next() {
                TokenKind::Number(text) => Some(text.parse().map_err(|_| QueryError {
                    position,
                    problem: Problem::Number { text: text.chars().take(60).collect() },
                })?),
                _ => return Err(self.unexpected_before("the number of an element")),
            };
            self.expect_sign("]")?;
        }
        Ok(Name { parts, element, at })
    }

    /// The rest of `ASSOCIATORS OF` and `REFERENCES OF`.
    fn walk(&mut self, kind: impl Fn(Walk) -> Kind) -> Parsed<Query> {
        self.expect_word("OF")?;
        let at = self.here();
        let source = match self.next() {
            TokenKind::Braces(text) => path_of(text.trim()).ok_or_else(|| QueryError {
                position: at,
                problem: Problem::Path { text: text.chars().take(200).collect() },
            })?,
            _ => return Err(self.unexpected_before("a path in braces")),
        };
        let mut walk = Walk {
            source,
            filter: AssociationFilter::default(),
            class_definitions_only: false,
            keys_only: false,
            association_qualifier: None,
            result_qualifier: None,
        };
        let associators = matches!(kind(walk.clone()), Kind::Associators(_));
        if self.take_word("WHERE") {
            self.clause(&mut walk, associators)?;
            while *self.kind() != TokenKind::End && !matches!(self.kind(), TokenKind::Sign(";")) {
                self.take_word("AND");
                self.clause(&mut walk, associators)?;
            }
        }
        let class = walk.source.class.to_string();
        Ok(Query::walk(kind(walk), class, at))
    }

    fn clause(&mut self, walk: &mut Walk, associators: bool) -> Parsed<()> {
        let word = self.word("a clause")?.to_ascii_lowercase();
        match word.as_str() {
            "classdefsonly" => {
                walk.class_definitions_only = true;
                return Ok(());
            }
            "keysonly" => {
                walk.keys_only = true;
                return Ok(());
            }
            _ => {}
        }
        let place = match (word.as_str(), associators) {
            ("resultclass", _) => &mut walk.filter.result_class,
            ("role", _) => &mut walk.filter.role,
            ("requiredqualifier", _) => &mut walk.result_qualifier,
            ("assocclass", true) => &mut walk.filter.association_class,
            ("resultrole", true) => &mut walk.filter.result_role,
            ("requiredassocqualifier", true) => &mut walk.association_qualifier,
            _ => return Err(self.unexpected_before("AssocClass, ResultClass, Role or another clause")),
        };
        self.expect_sign("=")?;
        *place = Some(match self.next() {
            TokenKind::Word(name) | TokenKind::Text(name) => name,
            _ => return Err(self.unexpected_before("a name")),
        });
        Ok(())
    }

    fn kind(&self) -> &TokenKind {
        self.tokens.get(self.at).map_or(&TokenKind::End, |token| &token.kind)
    }

    fn next(&mut self) -> TokenKind {
        let kind = self.kind().clone();
        self.at += 1;
        kind
    }

    fn here(&self) -> usize {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(0, |token| token.at)
    }

    fn take_word(&mut self, word: &str) -> bool {
        let taken = matches!(self.kind(), TokenKind::Word(found) if found.eq_ignore_ascii_case(word));
        self.at += usize::from(taken);
        taken
    }

    /// A word before an operand; alone it is a property of that name.
    fn quantifier(&mut self, word: &str) -> bool {
        let before_name = matches!(self.tokens.get(self.at + 1), Some(Token { kind: TokenKind::Word(next), .. })
                if !["IS", "NOT", "LIKE", "ISA"].iter().any(|keyword| next.eq_ignore_ascii_case(keyword)));
        before_name && self.take_word(word)
    }

    fn take_sign(&mut self, sign: &str) -> bool {
        let taken = matches!(self.kind(), TokenKind::Sign(found) if *found == sign);
        self.at += usize::from(taken);
        taken
    }

    fn expect_word(&mut self, word: &str) -> Parsed<()> {
        if self.take_word(word) { Ok(()) } else { Err(self.unexpected(word)) }
    }

    fn expect_sign(&mut self, sign: &str) -> Parsed<()> {
        if self.take_sign(sign) { Ok(()) } else { Err(self.unexpected(sign)) }
    }

    fn word(&mut self, what: &str) -> Parsed<String> {
        match self.next() {
            TokenKind::Word(word) => Ok(word),
            _ => Err(self.unexpected_before(what)),
        }
    }

    fn unexpected(&self, expected: &str) -> QueryError {
        let problem = Problem::Unexpected { expected: expected.to_owned(), found: self.kind().describe() };
        QueryError { position: self.here(), problem }
    }

    /// The word that was just taken is the wrong one.
    fn unexpected_before(&mut self, expected: &str) -> QueryError {
        self.at = self.at.saturating_sub(1);
        self.unexpected(expected)
    }
}

fn one_or(mut conditions: Vec<Condition>, many: impl Fn(Vec<Condition>) -> Condition) -> Condition {
    match (conditions.pop(), conditions.is_empty()) {
        (Some(only), true) => only,
        (last, _) => {
            conditions.extend(last);
            many(conditions)
        }
    }
}

fn negate(condition: Condition, negated: bool) -> Condition {
    if negated { Condition::Not(Box::new(condition)) } else { condition }
}

/// Unsigned where it can be, signed where it must be, real where neither holds it.
fn number(text: &str, position: usize) -> Parsed<Value> {
    let digits = text.strip_prefix('+').unwrap_or(text);
    let hexadecimal = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X"));
    let value = match hexadecimal {
        Some(digits) => u64::from_str_radix(digits, 16).ok().map(Value::Uint64),
        None => digits
            .parse()
            .ok()
            .map(Value::Uint64)
            .or_else(|| digits.parse().ok().map(Value::Sint64))
            .or_else(|| digits.parse().ok().filter(|real: &f64| real.is_finite()).map(Value::Real64)),
    };
    let problem = || Problem::Number { text: text.chars().take(60).collect() };
    value.ok_or_else(|| QueryError { position, problem: problem() })
}
