//! Tokens into a tree: a Pratt parser. Binding powers from loose to tight: `||`, `&&`, `== !=`, `< <= > >=`, `!`, access.

use std::ops::Range;

use super::{
    error::{ErrorKind, ExprError},
    functions::Function,
    lexer::{Operator, Token, TokenKind, excerpt, tokens},
    syntax::{Accessor, Node, NodeKind},
};
use crate::nearest::did_you_mean;

/// The longest expression, in bytes. GitHub's limit.
pub const MAX_LENGTH_BYTES: usize = 21_000;
/// The deepest nesting. GitHub's limit.
pub const MAX_DEPTH: usize = 50;

const NOT_POWER: u8 = 5;

/// The tree of one expression.
pub(super) fn parse(source: &str) -> Result<Node, ExprError> {
    if source.len() > MAX_LENGTH_BYTES {
        let message = format!("this expression has {} bytes, and {MAX_LENGTH_BYTES} are the limit", source.len());
        return Err(ExprError::new(ErrorKind::Limit, 0..source.len(), message));
    }
    let mut parser = Parser { source, tokens: tokens(source)?, position: 0 };
    if parser.peek().kind == TokenKind::End {
        return Err(ExprError::syntax(0..source.len(), "the expression is empty"));
    }
    let node = parser.expression(0, 1)?;
    match parser.peek() {
        Token { kind: TokenKind::End, .. } => Ok(node),
        token => Err(parser.unexpected(token, "an operator, or the end of the expression")),
    }
}

struct Parser<'s> {
    source: &'s str,
    tokens: Vec<Token>,
    position: usize,
}

impl Parser<'_> {
    fn expression(&mut self, loosest: u8, depth: usize) -> Result<Node, ExprError> {
        if depth > MAX_DEPTH {
            return Err(too_deep(self.peek().span.clone()));
        }
        let mut left = self.operand(depth)?;
        while let TokenKind::Operator(operator) = self.peek().kind {
            let power = power(operator);
            if power <= loosest {
                break;
            }
            self.advance();
            let right = self.expression(power, depth + 1)?;
            left = binary(operator, left, right);
            if left.height > MAX_DEPTH {
                return Err(too_deep(left.span));
            }
        }
        Ok(left)
    }

    fn operand(&mut self, depth: usize) -> Result<Node, ExprError> {
        let token = self.advance();
        let start = token.span.start;
        match token.kind {
            TokenKind::Literal(value) => Ok(Node::new(NodeKind::Literal(value), token.span)),
            TokenKind::Not => {
                let operand = self.expression(NOT_POWER, depth + 1)?;
                let span = start..operand.span.end;
                Ok(Node::new(NodeKind::Not(Box::new(operand)), span))
            }
            TokenKind::OpenParen => {
                let inner = self.expression(0, depth + 1)?;
                self.expect(&TokenKind::CloseParen, "`)`")?;
                self.access(inner, depth)
            }
            TokenKind::Word if self.peek().kind == TokenKind::OpenParen => {
                let call = self.call(token.span, depth)?;
                self.access(call, depth)
            }
            TokenKind::Word => {
                let name = self.source[token.span.clone()].to_owned();
                self.access(Node::new(NodeKind::Context(name), token.span), depth)
            }
            _ => Err(self.unexpected(&token, "a value")),
        }
    }

    fn call(&mut self, name_span: Range<usize>, depth: usize) -> Result<Node, ExprError> {
        let name = &self.source[name_span.clone()];
        let function = Function::named(name).ok_or_else(|| {
            let message = format!("there is no function `{name}`");
            let error = ExprError::new(ErrorKind::UnknownFunction, name_span.clone(), message);
            error.help(did_you_mean(name, Function::names()).unwrap_or_else(|| {
                let names: Vec<&str> = Function::names().collect();
                format!("the functions are {}", names.join(", "))
            }))
        })?;
        self.advance();
        let mut arguments = Vec::new();
        if self.peek().kind != TokenKind::CloseParen {
            loop {
                arguments.push(self.expression(0, depth + 1)?);
                if self.peek().kind != TokenKind::Comma {
                    break;
                }
                self.advance();
            }
        }
        let end = self.expect(&TokenKind::CloseParen, "`,` or `)`")?.span.end;
        let span = name_span.start..end;
        function.check_arguments(arguments.len(), span.clone())?;
        Ok(Node::new(NodeKind::Call { function, arguments }, span))
    }

    /// Whatever is read from `base` by `.name`, `[index]` and `*`.
    fn access(&mut self, base: Node, depth: usize) -> Result<Node, ExprError> {
        let mut path = Vec::new();
        let mut end = base.span.end;
        loop {
            match self.peek().kind {
                TokenKind::Dot => {
                    self.advance();
                    let token = self.advance();
                    path.push(match token.kind {
                        TokenKind::Star => Accessor::Wildcard,
                        TokenKind::Word => Accessor::Property(self.source[token.span.clone()].to_owned()),
                        _ => return Err(self.unexpected(&token, "a property's name or `*`")),
                    });
                    end = token.span.end;
                }
                TokenKind::OpenBracket => {
                    self.advance();
                    if self.peek().kind == TokenKind::Star {
                        self.advance();
                        path.push(Accessor::Wildcard);
                    } else {
                        path.push(Accessor::Index(self.expression(0, depth + 1)?));
                    }
                    end = self.expect(&TokenKind::CloseBracket, "`]`")?.span.end;
                }
                _ if path.is_empty() => return Ok(base),
                _ => break,
            }
        }
        let span = base.span.start..end;
        // `(a.*).b` reads like `a.*.b`: grouping does not end a filter
        let kind = match base {
            Node { kind: NodeKind::Access { base, path: mut first }, .. } => {
                first.append(&mut path);
                NodeKind::Access { base, path: first }
            }
            base => NodeKind::Access { base: Box::new(base), path },
        };
        Ok(Node::new(kind, span))
    }

    fn peek(&self) -> &Token {
        &self.tokens[self.position]
    }

    /// The token, and on to the next; the last one, the end, stays.
    fn advance(&mut self) -> Token {
        let token = self.tokens[self.position].clone();
        self.position = (self.position + 1).min(self.tokens.len() - 1);
        token
    }

    fn expect(&mut self, kind: &TokenKind, wanted: &str) -> Result<Token, ExprError> {
        let token = self.advance();
        if token.kind == *kind { Ok(token) } else { Err(self.unexpected(&token, wanted)) }
    }

    fn unexpected(&self, token: &Token, wanted: &str) -> ExprError {
        let found = match token.kind {
            TokenKind::End => "the expression ends here".into(),
            _ => format!("`{}` has no place here", excerpt(&self.source[token.span.clone()])),
        };
        ExprError::syntax(token.span.clone(), format!("{found}, where {wanted} is expected"))
    }
}

const fn power(operator: Operator) -> u8 {
    match operator {
        Operator::Or => 1,
        Operator::And => 2,
        Operator::Equal | Operator::NotEqual => 3,
        Operator::Less | Operator::LessOrEqual | Operator::Greater | Operator::GreaterOrEqual => 4,
    }
}

fn binary(operator: Operator, left: Node, right: Node) -> Node {
    let span = left.span.start..right.span.end;
    let height = left.height.max(right.height + 1);
    match (operator, left) {
        // long chains stay flat, so that they cost no depth
        (Operator::Or, Node { kind: NodeKind::Or(mut operands), .. }) => {
            operands.push(right);
            Node { kind: NodeKind::Or(operands), span, height }
        }
        (Operator::And, Node { kind: NodeKind::And(mut operands), .. }) => {
            operands.push(right);
            Node { kind: NodeKind::And(operands), span, height }
        }
        (Operator::Or, left) => Node::new(NodeKind::Or(vec![left, right]), span),
        (Operator::And, left) => Node::new(NodeKind::And(vec![left, right]), span),
        (operator, left) => {
            Node::new(NodeKind::Compare { operator, left: Box::new(left), right: Box::new(right) }, span)
        }
    }
}

fn too_deep(span: Range<usize>) -> ExprError {
    ExprError::new(ErrorKind::Limit, span, format!("this expression is nested more than {MAX_DEPTH} levels deep"))
        .help("split it: compute a part in a step and hand it on as an output")
}
