//! Text into tokens. Total: whatever is no token is an error with its place.

use std::ops::Range;

use super::{
    error::ExprError,
    value::{Value, parse_number},
};

/// A token and where it stands, in bytes.
#[derive(Debug, Clone)]
pub(super) struct Token {
    pub kind: TokenKind,
    pub span: Range<usize>,
}

/// What a token is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum TokenKind {
    /// `null`, `true`, `1.5`, `'text'`, `NaN`: never after a dot.
    Literal(Value),
    /// A word: a context, a function or a property.
    Word,
    Operator(Operator),
    Not,
    OpenParen,
    CloseParen,
    OpenBracket,
    CloseBracket,
    Comma,
    Dot,
    Star,
    End,
}

/// A binary operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Or,
    And,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// All tokens of `source`; the last one is [`TokenKind::End`].
pub(super) fn tokens(source: &str) -> Result<Vec<Token>, ExprError> {
    let mut lexer = Lexer { source, position: 0 };
    let mut tokens: Vec<Token> = Vec::new();
    loop {
        let token = lexer.next(tokens.last().map(|token| &token.kind))?;
        let end = token.kind == TokenKind::End;
        tokens.push(token);
        if end {
            return Ok(tokens);
        }
    }
}

struct Lexer<'s> {
    source: &'s str,
    position: usize,
}

impl Lexer<'_> {
    fn next(&mut self, last: Option<&TokenKind>) -> Result<Token, ExprError> {
        self.position = self.source.len() - self.rest().trim_start().len();
        let start = self.position;
        let Some(first) = self.rest().chars().next() else {
            return Ok(Token { kind: TokenKind::End, span: start..start });
        };
        let kind = match first {
            '(' => self.take(1, TokenKind::OpenParen),
            ')' => self.take(1, TokenKind::CloseParen),
            '[' => self.take(1, TokenKind::OpenBracket),
            ']' => self.take(1, TokenKind::CloseBracket),
            ',' => self.take(1, TokenKind::Comma),
            '*' => self.take(1, TokenKind::Star),
            '\'' => self.string()?,
            '!' | '<' | '>' | '=' | '&' | '|' => self.operator()?,
            '.' if follows_a_value(last) => self.take(1, TokenKind::Dot),
            '.' | '+' | '-' | '0'..='9' => self.number()?,
            _ => self.word(last)?,
        };
        Ok(Token { kind, span: start..self.position })
    }

    fn rest(&self) -> &str {
        &self.source[self.position..]
    }

    fn take(&mut self, bytes: usize, kind: TokenKind) -> TokenKind {
        self.position += bytes;
        kind
    }

    fn string(&mut self) -> Result<TokenKind, ExprError> {
        let start = self.position;
        let mut text = String::new();
        let mut rest = &self.rest()[1..];
        while let Some(quote) = rest.find('\'') {
            text.push_str(&rest[..quote]);
            rest = &rest[quote + 1..];
            if !rest.starts_with('\'') {
                self.position = self.source.len() - rest.len();
                return Ok(TokenKind::Literal(Value::string(text)));
            }
            text.push('\'');
            rest = &rest[1..];
        }
        Err(ExprError::syntax(start..self.source.len(), "this string is not closed")
            .help("end it with `'`; a quote within it is written twice: `'it''s'`"))
    }

    fn operator(&mut self) -> Result<TokenKind, ExprError> {
        let two = self.rest().as_bytes().get(..2).unwrap_or_default();
        let operator = match two {
            b"||" => Some((2, Operator::Or)),
            b"&&" => Some((2, Operator::And)),
            b"==" => Some((2, Operator::Equal)),
            b"!=" => Some((2, Operator::NotEqual)),
            b"<=" => Some((2, Operator::LessOrEqual)),
            b">=" => Some((2, Operator::GreaterOrEqual)),
            _ => match self.rest().as_bytes()[0] {
                b'<' => Some((1, Operator::Less)),
                b'>' => Some((1, Operator::Greater)),
                _ => None,
            },
        };
        if let Some((bytes, operator)) = operator {
            return Ok(self.take(bytes, TokenKind::Operator(operator)));
        }
        if self.rest().starts_with('!') {
            return Ok(self.take(1, TokenKind::Not));
        }
        let sign = &self.rest()[..1];
        let span = self.position..self.position + 1;
        Err(ExprError::syntax(span, format!("`{sign}` is no operator")).help(format!("write `{sign}{sign}`")))
    }

    fn number(&mut self) -> Result<TokenKind, ExprError> {
        let rest = self.rest();
        let length = 1 + rest[1..].find(|c| c != '.' && is_boundary(c)).unwrap_or(rest.len() - 1);
        let text = &rest[..length];
        let number = parse_number(text);
        if number.is_nan() {
            let span = self.position..self.position + length;
            let error = ExprError::syntax(span, format!("`{}` is no number", excerpt(text)));
            return Err(if text.starts_with(['+', '-']) {
                error.help("there is no arithmetic in expressions; a sign may only begin a number: `-1`")
            } else {
                error
                    .help("write a number as `12`, `-0.5`, `1e3`, `0xff` or `0o17`; a name begins with a letter or `_`")
            });
        }
        Ok(self.take(length, TokenKind::Literal(Value::Number(number))))
    }

    fn word(&mut self, last: Option<&TokenKind>) -> Result<TokenKind, ExprError> {
        let rest = self.rest();
        let word = &rest[..rest.find(is_boundary).unwrap_or(rest.len())];
        if let Some(stranger) = word.char_indices().find(|(i, c)| !(is_word(*c) || (*i > 0 && is_inner(*c)))) {
            return Err(self.stranger(stranger));
        }
        let length = word.len();
        let literal = match word {
            _ if last == Some(&TokenKind::Dot) => None,
            "null" => Some(Value::Null),
            "true" => Some(Value::Bool(true)),
            "false" => Some(Value::Bool(false)),
            "NaN" => Some(Value::Number(f64::NAN)),
            "Infinity" => Some(Value::Number(f64::INFINITY)),
            _ => None,
        };
        Ok(self.take(length, literal.map_or(TokenKind::Word, TokenKind::Literal)))
    }

    fn stranger(&self, (at, stranger): (usize, char)) -> ExprError {
        let start = self.position + at;
        let error = ExprError::syntax(start..start + stranger.len_utf8(), format!("`{stranger}` has no place here"));
        match stranger {
            '"' => error.help("a string stands in single quotes: `'text'`"),
            '$' if self.source[start..].starts_with("${{") => {
                error.help("this is an expression already; leave `${{` and `}}` out within it")
            }
            '+' | '/' | '%' => error.help("there is no arithmetic in expressions"),
            _ => error,
        }
    }
}

/// A dot after these reads a property; anywhere else it begins a number such as `.5`.
fn follows_a_value(last: Option<&TokenKind>) -> bool {
    matches!(
        last,
        Some(
            TokenKind::Word
                | TokenKind::Literal(_)
                | TokenKind::CloseParen
                | TokenKind::CloseBracket
                | TokenKind::Star
                | TokenKind::Dot
        )
    )
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_'
}

fn is_inner(c: char) -> bool {
    c.is_ascii_digit() || c == '-'
}

fn is_boundary(c: char) -> bool {
    c.is_whitespace() || matches!(c, '(' | ')' | '[' | ']' | ',' | '.' | '!' | '<' | '>' | '=' | '&' | '|')
}

/// The beginning of a text, for a message.
pub(super) fn excerpt(text: &str) -> String {
    const SHOWN: usize = 40;
    let mut shown: String = text.chars().take(SHOWN).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}
