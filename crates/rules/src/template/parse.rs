//! The pieces of a template to a tree.

use super::TemplateError;
use super::functions::is_function;
use super::lex::{Piece, Token, Word, pieces};
use std::collections::BTreeMap;

/// How deep blocks and parentheses may nest.
const DEPTH_MAX: usize = 50;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Node {
    Text(String),
    Action(Pipeline),
    If(Branch),
    Range(Branch),
    With(Branch),
    /// The template of that name, with that as its dot.
    Template(String, Option<Pipeline>),
    Break,
    Continue,
}

/// A condition and its two sides.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Branch {
    pub pipeline: Pipeline,
    pub then: Vec<Node>,
    pub otherwise: Vec<Node>,
}

/// Commands, each with what the one before it gave as its last argument.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Pipeline {
    /// Variables that get the result.
    pub variables: Vec<String>,
    /// They are there already.
    pub assigns: bool,
    pub commands: Vec<Vec<Operand>>,
    pub line: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operand {
    Nil,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    Dot,
    Variable(String),
    Function(String),
    Inner(Pipeline),
    /// A field of another operand.
    Field(Box<Operand>, String),
}

/// A template and those that it defines.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tree {
    pub body: Vec<Node>,
    pub named: BTreeMap<String, Vec<Node>>,
}

struct Parser {
    pieces: std::vec::IntoIter<Piece>,
    named: BTreeMap<String, Vec<Node>>,
    /// Variables in scope.
    variables: Vec<String>,
    /// Loops around.
    loops: usize,
    depth: usize,
    line: usize,
}

/// How a list of nodes ends.
enum End {
    Closed,
    Else(Vec<Word>),
    Text,
}

/// Reads a template; `variables` are there from the beginning.
pub(crate) fn parse(text: &str, variables: &[&str]) -> Result<Tree, TemplateError> {
    let pieces = pieces(text)?.into_iter();
    let variables = variables.iter().map(|v| (*v).to_owned()).collect();
    let mut parser =
        Parser { pieces, named: BTreeMap::new(), variables, loops: 0, depth: 0, line: 1 };
    let (body, end) = parser.list()?;
    match end {
        End::Text => Ok(Tree { body, named: parser.named }),
        End::Closed => Err(parser.fail("unexpected {{end}}")),
        End::Else(_) => Err(parser.fail("unexpected {{else}}")),
    }
}

impl Parser {
    fn fail(&self, why: impl Into<String>) -> TemplateError {
        TemplateError { line: self.line, why: why.into() }
    }

    fn deeper(&mut self) -> Result<(), TemplateError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(self.fail(format!("nested deeper than {DEPTH_MAX}")));
        }
        Ok(())
    }

    fn list(&mut self) -> Result<(Vec<Node>, End), TemplateError> {
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.next() {
            let (words, line) = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Piece::Action { words, line } => (words, line),
            };
            self.line = line;
            let first = match words.first().map(|w| &w.token) {
                Some(Token::Word(word)) => word.clone(),
                _ => String::new(),
            };
            let rest = words.get(1..).unwrap_or_default();
            match first.as_str() {
                "end" => {
                    self.nothing(rest, "end")?;
                    return Ok((nodes, End::Closed));
                }
                "else" => return Ok((nodes, End::Else(rest.to_vec()))),
                "if" => nodes.push(Node::If(self.branch(rest, "if")?)),
                "with" => nodes.push(Node::With(self.branch(rest, "with")?)),
                "range" => nodes.push(Node::Range(self.branch(rest, "range")?)),
                "define" => self.define(rest)?,
                "block" => nodes.push(self.block(rest)?),
                "template" => nodes.push(self.template(rest)?),
                "break" | "continue" => {
                    self.nothing(rest, &first)?;
                    if self.loops == 0 {
                        return Err(self.fail(format!("{{{{{first}}}}} outside {{{{range}}}}")));
                    }
                    nodes.push(if first == "break" { Node::Break } else { Node::Continue });
                }
                _ => nodes.push(Node::Action(self.whole(&words, "command")?)),
            }
        }
        Ok((nodes, End::Text))
    }

    fn nothing(&self, rest: &[Word], what: &str) -> Result<(), TemplateError> {
        if rest.is_empty() { Ok(()) } else { Err(self.fail(format!("unexpected words in {what}"))) }
    }

    /// `if`, `with` and `range`, from behind the keyword to their end.
    fn branch(&mut self, words: &[Word], kind: &str) -> Result<Branch, TemplateError> {
        self.deeper()?;
        let scope = self.variables.len();
        let pipeline = self.whole(words, kind)?;
        self.loops += usize::from(kind == "range");
        let (then, end) = self.list()?;
        self.loops -= usize::from(kind == "range");
        let otherwise = match end {
            End::Text => return Err(self.fail("unexpected EOF")),
            End::Closed => Vec::new(),
            End::Else(rest) => match rest.first().map(|w| &w.token) {
                None => match self.list()? {
                    (nodes, End::Closed) => nodes,
                    (_, End::Else(_)) => return Err(self.fail("expected end; found {{else}}")),
                    (_, End::Text) => return Err(self.fail("unexpected EOF")),
                },
                // `else if` shares the end.
                Some(Token::Word(word)) if word == kind && kind != "range" => {
                    let inner = self.branch(&rest[1..], kind)?;
                    vec![if kind == "if" { Node::If(inner) } else { Node::With(inner) }]
                }
                Some(_) => return Err(self.fail("unexpected words in else")),
            },
        };
        self.variables.truncate(scope);
        self.depth -= 1;
        Ok(Branch { pipeline, then, otherwise })
    }

    fn name(&self, words: &[Word], what: &str) -> Result<String, TemplateError> {
        match words.first().map(|w| &w.token) {
            Some(Token::Text(name)) => Ok(name.clone()),
            _ => Err(self.fail(format!("a name in quotes is expected in {what}"))),
        }
    }

    /// What stands within `define` or `block`; only `$` is known there.
    fn body(&mut self) -> Result<Vec<Node>, TemplateError> {
        self.deeper()?;
        let outer = std::mem::take(&mut self.variables);
        let loops = std::mem::take(&mut self.loops);
        let (nodes, end) = self.list()?;
        self.variables = outer;
        self.loops = loops;
        self.depth -= 1;
        if matches!(end, End::Closed) { Ok(nodes) } else { Err(self.fail("expected {{end}}")) }
    }

    fn define(&mut self, words: &[Word]) -> Result<(), TemplateError> {
        let name = self.name(words, "define clause")?;
        self.nothing(&words[1..], "define clause")?;
        let body = self.body()?;
        self.add(name, body)
    }

    fn add(&mut self, name: String, body: Vec<Node>) -> Result<(), TemplateError> {
        if self.named.insert(name.clone(), body).is_some() {
            return Err(self.fail(format!("template: multiple definition of template {name:?}")));
        }
        Ok(())
    }

    fn block(&mut self, words: &[Word]) -> Result<Node, TemplateError> {
        let name = self.name(words, "block clause")?;
        let pipeline = self.whole(&words[1..], "block clause")?;
        let body = self.body()?;
        self.add(name.clone(), body)?;
        Ok(Node::Template(name, Some(pipeline)))
    }

    fn template(&mut self, words: &[Word]) -> Result<Node, TemplateError> {
        let name = self.name(words, "template clause")?;
        let pipeline = match &words[1..] {
            [] => None,
            rest => Some(self.whole(rest, "template clause")?),
        };
        Ok(Node::Template(name, pipeline))
    }

    /// A pipeline that takes all the words.
    fn whole(&mut self, words: &[Word], context: &str) -> Result<Pipeline, TemplateError> {
        let mut words: Words<'_> = words.iter().peekable();
        let pipeline = self.pipeline(&mut words, context)?;
        if words.next().is_some() {
            return Err(self.fail(format!("unexpected right paren in {context}")));
        }
        Ok(pipeline)
    }

    fn declared(&self, words: &mut Words<'_>, context: &str) -> (Vec<String>, bool) {
        let token = |words: &Words<'_>, at: usize| words.clone().nth(at).map(|w| w.token.clone());
        let Some(Token::Variable(first)) = token(words, 0) else { return (Vec::new(), false) };
        let (names, length, how) = match (token(words, 1), token(words, 2), token(words, 3)) {
            (Some(Token::Comma), Some(Token::Variable(second)), how) if context == "range" => {
                (vec![first, second], 4, how)
            }
            (how, ..) => (vec![first], 2, how),
        };
        if !matches!(how, Some(Token::Declare | Token::Assign)) {
            return (Vec::new(), false);
        }
        words.nth(length - 1);
        (names, how == Some(Token::Assign))
    }

    fn pipeline(
        &mut self,
        words: &mut Words<'_>,
        context: &str,
    ) -> Result<Pipeline, TemplateError> {
        self.deeper()?;
        let line = self.line;
        let (variables, assigns) = self.declared(words, context);
        let mut commands = Vec::new();
        loop {
            let command = self.command(words)?;
            if command.is_empty() {
                return Err(self.fail(format!("missing value for {context}")));
            }
            let constant = matches!(
                command[0],
                Operand::Nil
                    | Operand::Bool(_)
                    | Operand::Int(_)
                    | Operand::Float(_)
                    | Operand::Text(_)
                    | Operand::Dot
            );
            if constant && !commands.is_empty() {
                let stage = commands.len() + 1;
                return Err(self.fail(format!("non executable command in pipeline stage {stage}")));
            }
            commands.push(command);
            let more = words.next_if(|w| w.token == Token::Pipe).is_some();
            // Nothing behind a bar is taken, as in Go.
            if !more || words.peek().is_none_or(|w| w.token == Token::Close) {
                break;
            }
        }
        // One that is assigned to but not there fails when it runs, as in Go.
        self.variables.extend(variables.iter().cloned());
        self.depth -= 1;
        Ok(Pipeline { variables, assigns, commands, line })
    }

    fn knows(&self, variable: &str) -> bool {
        variable.is_empty() || self.variables.iter().any(|v| v == variable)
    }

    fn command(&mut self, words: &mut Words<'_>) -> Result<Vec<Operand>, TemplateError> {
        let mut operands: Vec<Operand> = Vec::new();
        while let Some(word) = words.next_if(|w| !matches!(w.token, Token::Pipe | Token::Close)) {
            let field = matches!(word.token, Token::Field(_));
            // `.a .b` are two, `.a.b` is one.
            let apart = !word.glued || field || operands.is_empty();
            if !apart && !matches!(word.token, Token::Open) {
                return Err(self.fail("space is missing between two operands"));
            }
            let mut operand = self.operand(word.token.clone(), words)?;
            while let Some(next) = words.next_if(|w| w.glued && matches!(w.token, Token::Field(_)))
            {
                if let Token::Field(name) = &next.token {
                    operand = self.field(operand, name.clone())?;
                }
            }
            operands.push(operand);
        }
        Ok(operands)
    }

    fn field(&mut self, of: Operand, name: String) -> Result<Operand, TemplateError> {
        let mut depth = 0;
        let mut inner = &of;
        while let Operand::Field(next, _) = inner {
            (inner, depth) = (next, depth + 1);
        }
        if depth > DEPTH_MAX {
            return Err(self.fail(format!("nested deeper than {DEPTH_MAX}")));
        }
        match inner {
            Operand::Nil | Operand::Bool(_) | Operand::Int(_) | Operand::Float(_) => {
                Err(self.fail(format!("unexpected . after term {name:?}")))
            }
            Operand::Text(_) => Err(self.fail("unexpected . after a string")),
            _ => Ok(Operand::Field(Box::new(of), name)),
        }
    }

    fn operand(&mut self, token: Token, words: &mut Words<'_>) -> Result<Operand, TemplateError> {
        Ok(match token {
            Token::Dot => Operand::Dot,
            Token::Field(name) => Operand::Field(Box::new(Operand::Dot), name),
            Token::Int(n) => Operand::Int(n),
            Token::Float(n) => Operand::Float(n),
            Token::Text(text) => Operand::Text(text),
            Token::Variable(name) => {
                if !self.knows(&name) {
                    return Err(self.fail(format!("undefined variable \"${name}\"")));
                }
                Operand::Variable(name)
            }
            Token::Word(word) => match word.as_str() {
                "true" => Operand::Bool(true),
                "false" => Operand::Bool(false),
                "nil" => Operand::Nil,
                name if is_function(name) => Operand::Function(word),
                _ => return Err(self.fail(format!("function {word:?} not defined"))),
            },
            Token::Open => {
                let inner = self.pipeline(words, "parenthesized pipeline")?;
                match words.next().map(|w| &w.token) {
                    Some(Token::Close) => Operand::Inner(inner),
                    _ => return Err(self.fail("unclosed left paren")),
                }
            }
            Token::Comma | Token::Declare | Token::Assign | Token::Pipe | Token::Close => {
                return Err(self.fail("unexpected punctuation in operand"));
            }
        })
    }
}

type Words<'a> = std::iter::Peekable<std::slice::Iter<'a, Word>>;
