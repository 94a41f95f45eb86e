//! Schema files: qualifier declarations and classes. Instances and pragmas have no place in them.

use crate::lexer::{Kind, Token, tokens};
use std::path::Path;

/// A constant. Texts of numbers stay as they are written.
#[derive(Debug, Clone, PartialEq)]
pub enum Literal {
    Null,
    Boolean(bool),
    Number(String),
    Text(String),
    Array(Vec<Literal>),
}

#[derive(Debug, Clone)]
pub struct Qualifier {
    pub name: String,
    pub value: Literal,
    pub line: usize,
}

#[derive(Debug, Clone)]
pub struct QualifierDeclaration {
    pub name: String,
    pub cim_type: String,
    pub array: bool,
    pub default: Literal,
    pub scopes: Vec<String>,
    pub flavors: Vec<String>,
}

/// A property or a parameter.
#[derive(Debug, Clone)]
pub struct Element {
    pub name: String,
    /// An intrinsic type, or the class that is referred to.
    pub cim_type: String,
    pub reference: bool,
    pub array: bool,
    pub default: Literal,
    pub qualifiers: Vec<Qualifier>,
    pub line: usize,
}

#[derive(Debug, Clone)]
pub struct Method {
    pub name: String,
    pub returns: String,
    pub parameters: Vec<Element>,
    pub qualifiers: Vec<Qualifier>,
    pub line: usize,
}

#[derive(Debug, Clone)]
pub struct Class {
    pub name: String,
    pub superclass: Option<String>,
    pub qualifiers: Vec<Qualifier>,
    pub properties: Vec<Element>,
    pub methods: Vec<Method>,
    /// `file:line`.
    pub place: String,
}

#[derive(Debug, Default)]
pub struct File {
    pub qualifiers: Vec<QualifierDeclaration>,
    pub classes: Vec<Class>,
}

/// Reads a file.
pub fn file(path: &Path) -> Result<File, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let placed = |problem: String| format!("schema/{name}:{problem}");
    let mut parser = Parser { tokens: tokens(&text).map_err(placed)?, at: 0 };
    let mut file = File::default();
    while *parser.peek() != Kind::End {
        if parser.take_word("Qualifier") {
            file.qualifiers.push(parser.declaration().map_err(placed)?);
        } else {
            file.classes.push(parser.class(&name).map_err(placed)?);
        }
    }
    Ok(file)
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn peek(&self) -> &Kind {
        &self.tokens[self.at.min(self.tokens.len() - 1)].kind
    }

    fn line(&self) -> usize {
        self.tokens[self.at.min(self.tokens.len() - 1)].line
    }

    fn next(&mut self) -> Kind {
        let kind = self.peek().clone();
        self.at += 1;
        kind
    }

    fn take_word(&mut self, word: &str) -> bool {
        let taken = matches!(self.peek(), Kind::Word(found) if found.eq_ignore_ascii_case(word));
        self.at += usize::from(taken);
        taken
    }

    fn take(&mut self, sign: char) -> bool {
        let taken = *self.peek() == Kind::Sign(sign);
        self.at += usize::from(taken);
        taken
    }

    fn expect(&mut self, sign: char) -> Result<(), String> {
        if self.take(sign) { Ok(()) } else { Err(self.unexpected(&format!("{sign:?}"))) }
    }

    fn word(&mut self) -> Result<String, String> {
        match self.next() {
            Kind::Word(word) => Ok(word),
            _ => {
                self.at -= 1;
                Err(self.unexpected("a name"))
            }
        }
    }

    fn unexpected(&self, wanted: &str) -> String {
        format!("{}: expected {wanted}, found {:?}", self.line(), self.peek())
    }

    fn declaration(&mut self) -> Result<QualifierDeclaration, String> {
        let name = self.word()?;
        self.expect(':')?;
        let cim_type = self.word()?;
        let array = self.brackets()?;
        let default = if self.take('=') { self.literal()? } else { Literal::Null };
        let mut lists = [Vec::new(), Vec::new()];
        for (at, keyword) in ["Scope", "Flavor"].into_iter().enumerate() {
            self.expect(',')?;
            if !self.take_word(keyword) {
                return Err(self.unexpected(keyword));
            }
            self.expect('(')?;
            loop {
                lists[at].push(self.word()?);
                if !self.take(',') {
                    break;
                }
            }
            self.expect(')')?;
        }
        self.expect(';')?;
        let [scopes, flavors] = lists;
        Ok(QualifierDeclaration { name, cim_type, array, default, scopes, flavors })
    }

    fn class(&mut self, file: &str) -> Result<Class, String> {
        let qualifiers = self.qualifiers()?;
        if !self.take_word("class") {
            return Err(self.unexpected("class"));
        }
        let place = format!("schema/{file}:{}", self.line());
        let name = self.word()?;
        let superclass = if self.take(':') { Some(self.word()?) } else { None };
        let mut class = Class { name, superclass, qualifiers, properties: vec![], methods: vec![], place };
        self.expect('{')?;
        while !self.take('}') {
            let qualifiers = self.qualifiers()?;
            let line = self.line();
            let cim_type = self.word()?;
            let reference = self.take_word("REF");
            let name = self.word()?;
            if self.take('(') {
                let parameters = self.parameters()?;
                class.methods.push(Method { name, returns: cim_type, parameters, qualifiers, line });
            } else {
                let array = self.brackets()?;
                let default = if self.take('=') { self.literal()? } else { Literal::Null };
                class.properties.push(Element {
                    name,
                    cim_type,
                    reference,
                    array,
                    default,
                    qualifiers,
                    line,
                });
            }
            self.expect(';')?;
        }
        self.expect(';')?;
        Ok(class)
    }

    fn parameters(&mut self) -> Result<Vec<Element>, String> {
        let mut parameters = Vec::new();
        while !self.take(')') {
            let qualifiers = self.qualifiers()?;
            let line = self.line();
            let cim_type = self.word()?;
            let reference = self.take_word("REF");
            let name = self.word()?;
            let array = self.brackets()?;
            let default = Literal::Null;
            parameters.push(Element { name, cim_type, reference, array, default, qualifiers, line });
            if !self.take(',') && *self.peek() != Kind::Sign(')') {
                return Err(self.unexpected("',' or ')'"));
            }
        }
        Ok(parameters)
    }

    fn brackets(&mut self) -> Result<bool, String> {
        let array = self.take('[');
        if array {
            self.expect(']')?;
        }
        Ok(array)
    }

    fn qualifiers(&mut self) -> Result<Vec<Qualifier>, String> {
        let mut found = Vec::new();
        if !self.take('[') {
            return Ok(found);
        }
        loop {
            let line = self.line();
            let name = self.word()?;
            let value = if *self.peek() == Kind::Sign('{') {
                self.literal()?
            } else if self.take('(') {
                let value = self.literal()?;
                self.expect(')')?;
                value
            } else {
                Literal::Boolean(true)
            };
            found.push(Qualifier { name, value, line });
            if !self.take(',') {
                break;
            }
        }
        self.expect(']')?;
        Ok(found)
    }

    fn literal(&mut self) -> Result<Literal, String> {
        match self.next() {
            Kind::Text(text) => Ok(Literal::Text(text)),
            Kind::Number(number) => Ok(Literal::Number(number)),
            Kind::Word(word) if word.eq_ignore_ascii_case("true") => Ok(Literal::Boolean(true)),
            Kind::Word(word) if word.eq_ignore_ascii_case("false") => Ok(Literal::Boolean(false)),
            Kind::Word(word) if word.eq_ignore_ascii_case("null") => Ok(Literal::Null),
            Kind::Sign('{') => {
                let mut elements = Vec::new();
                while !self.take('}') {
                    elements.push(self.literal()?);
                    self.take(',');
                }
                Ok(Literal::Array(elements))
            }
            _ => {
                self.at -= 1;
                Err(self.unexpected("a value"))
            }
        }
    }
}
