//! Running a template.

use super::parse::{Branch, Node, Operand, Pipeline, Tree};
use super::{Context, Data, TemplateError, Value, functions};
use std::rc::Rc;

/// Nodes, operands and calls of one expansion, at most.
const STEPS_MAX: usize = 100_000;
/// How deep blocks, parentheses and templates may nest while they run.
const DEPTH_MAX: usize = 150;
/// Bytes of what it gives and of any text on the way, at most.
pub(crate) const OUTPUT_MAX: usize = 256 << 10;

/// Why running stops.
enum Stop {
    Break,
    Continue,
    Failed(TemplateError),
}

impl From<TemplateError> for Stop {
    fn from(e: TemplateError) -> Stop {
        Stop::Failed(e)
    }
}

struct Exec<'a> {
    tree: &'a Tree,
    context: &'a Context<'a>,
    variables: Vec<(String, Value)>,
    out: String,
    steps: usize,
    depth: usize,
    line: usize,
}

/// The text that a template gives.
pub(crate) fn expand(tree: &Tree, context: &Context<'_>) -> Result<String, TemplateError> {
    let root = Value::Data(Rc::new(Data {
        labels: context.labels.clone(),
        external_labels: context.external_labels.clone(),
        external_url: context.external_url.to_owned(),
        value: context.value,
    }));
    let variables = vec![
        (String::new(), root.clone()),
        ("labels".to_owned(), Value::Labels(context.labels.clone())),
        ("externalLabels".to_owned(), Value::Labels(context.external_labels.clone())),
        ("externalURL".to_owned(), Value::Text(context.external_url.to_owned())),
        ("value".to_owned(), Value::Float(context.value)),
    ];
    let mut exec =
        Exec { tree, context, variables, out: String::new(), steps: 0, depth: 0, line: 1 };
    match exec.list(&tree.body, &root) {
        Ok(()) | Err(Stop::Break | Stop::Continue) => Ok(exec.out),
        Err(Stop::Failed(e)) => Err(e),
    }
}

impl Exec<'_> {
    fn fail(&self, why: impl Into<String>) -> TemplateError {
        TemplateError { line: self.line, why: why.into() }
    }

    fn step(&mut self) -> Result<(), TemplateError> {
        self.steps += 1;
        if self.steps > STEPS_MAX {
            return Err(self.fail(format!("takes more than {STEPS_MAX} steps")));
        }
        Ok(())
    }

    fn deeper(&mut self) -> Result<(), TemplateError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(self.fail(format!("nested deeper than {DEPTH_MAX}")));
        }
        Ok(())
    }

    fn write(&mut self, text: &str) -> Result<(), TemplateError> {
        if self.out.len() + text.len() > OUTPUT_MAX {
            return Err(self.fail(format!("gives more than {OUTPUT_MAX} bytes")));
        }
        self.out.push_str(text);
        Ok(())
    }

    fn list(&mut self, nodes: &[Node], dot: &Value) -> Result<(), Stop> {
        self.deeper()?;
        for node in nodes {
            self.step()?;
            match node {
                Node::Text(text) => self.write(text)?,
                Node::Action(pipeline) => {
                    let value = self.pipeline(pipeline, dot)?;
                    if pipeline.variables.is_empty() {
                        self.write(&value.printed())?;
                    }
                }
                Node::If(branch) => self.branch(branch, dot, false)?,
                Node::With(branch) => self.branch(branch, dot, true)?,
                Node::Range(branch) => self.range(branch, dot)?,
                Node::Template(name, pipeline) => self.template(name, pipeline.as_ref(), dot)?,
                Node::Break => return Err(Stop::Break),
                Node::Continue => return Err(Stop::Continue),
            }
        }
        self.depth -= 1;
        Ok(())
    }

    /// As [`Exec::list`], without what it declares.
    fn scoped(&mut self, nodes: &[Node], dot: &Value) -> Result<(), Stop> {
        let (scope, depth) = (self.variables.len(), self.depth);
        let done = self.list(nodes, dot);
        self.variables.truncate(scope);
        self.depth = depth;
        done
    }

    fn branch(&mut self, branch: &Branch, dot: &Value, with: bool) -> Result<(), Stop> {
        let scope = self.variables.len();
        let value = self.pipeline(&branch.pipeline, dot)?;
        let done = if value.holds() {
            self.scoped(&branch.then, if with { &value } else { dot })
        } else {
            self.scoped(&branch.otherwise, dot)
        };
        self.variables.truncate(scope);
        done
    }

    fn range(&mut self, branch: &Branch, dot: &Value) -> Result<(), Stop> {
        let scope = self.variables.len();
        let over = self.commands(&branch.pipeline, dot)?;
        let items: Vec<(Value, Value)> = match &over {
            Value::Nil => Vec::new(),
            Value::List(all) => {
                let all = all.iter().cloned().enumerate();
                all.map(|(i, v)| (Value::Int(i as i64), v)).collect()
            }
            Value::Labels(all) => {
                let text = |t: &str| Value::Text(t.to_owned());
                all.iter().map(|(n, v)| (text(n), text(v))).collect()
            }
            Value::Map(all) => {
                all.iter().map(|(n, v)| (Value::Text(n.clone()), v.clone())).collect()
            }
            Value::Int(n) => {
                if *n > STEPS_MAX as i64 {
                    return Err(self.fail(format!("takes more than {STEPS_MAX} steps")).into());
                }
                (0..*n).map(|i| (Value::Int(i), Value::Int(i))).collect()
            }
            other => {
                let why = format!("range can't iterate over {}", other.printed());
                return Err(self.fail(why).into());
            }
        };
        if items.is_empty() {
            return self.scoped(&branch.otherwise, dot);
        }
        for (key, value) in items {
            self.step()?;
            let mut given = vec![value.clone()];
            if branch.pipeline.variables.len() == 2 {
                given.insert(0, key);
            }
            for (name, value) in branch.pipeline.variables.iter().zip(given) {
                self.set(name, value, branch.pipeline.assigns)?;
            }
            let done = self.scoped(&branch.then, &value);
            self.variables.truncate(scope);
            match done {
                Err(Stop::Break) => break,
                Err(Stop::Continue) | Ok(()) => {}
                failed => return failed,
            }
        }
        Ok(())
    }

    fn template(
        &mut self,
        name: &str,
        pipeline: Option<&Pipeline>,
        dot: &Value,
    ) -> Result<(), Stop> {
        let tree = self.tree;
        let Some(body) = tree.named.get(name) else {
            return Err(self.fail(format!("template {name:?} not defined")).into());
        };
        let dot = match pipeline {
            Some(pipeline) => self.pipeline(pipeline, dot)?,
            None => Value::Nil,
        };
        let outer = std::mem::take(&mut self.variables);
        self.variables.push((String::new(), dot.clone()));
        let depth = self.depth;
        let done = self.list(body, &dot);
        self.variables = outer;
        self.depth = depth;
        done
    }

    fn set(&mut self, name: &str, value: Value, assigns: bool) -> Result<(), TemplateError> {
        if !assigns {
            self.variables.push((name.to_owned(), value));
            return Ok(());
        }
        match self.variables.iter_mut().rev().find(|(n, _)| n == name) {
            Some(known) => known.1 = value,
            None => return Err(self.fail(format!("undefined variable \"${name}\""))),
        }
        Ok(())
    }

    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, TemplateError> {
        let value = self.commands(pipeline, dot)?;
        for name in &pipeline.variables {
            self.set(name, value.clone(), pipeline.assigns)?;
        }
        Ok(value)
    }

    fn commands(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, TemplateError> {
        self.deeper()?;
        self.line = pipeline.line;
        let mut last = None;
        for command in &pipeline.commands {
            let value = self.command(command, last.take(), dot)?;
            if matches!(&value, Value::Text(t) if t.len() > OUTPUT_MAX) {
                return Err(self.fail(format!("gives more than {OUTPUT_MAX} bytes")));
            }
            last = Some(value);
        }
        self.depth -= 1;
        Ok(last.unwrap_or(Value::Nil))
    }

    fn command(
        &mut self,
        operands: &[Operand],
        last: Option<Value>,
        dot: &Value,
    ) -> Result<Value, TemplateError> {
        self.step()?;
        let (first, rest) = operands.split_first().ok_or_else(|| self.fail("empty command"))?;
        if let Operand::Function(name) = first {
            return self.function(name, rest, last, dot);
        }
        if !rest.is_empty() || last.is_some() {
            return Err(self.fail("can't give argument to non-function"));
        }
        match first {
            Operand::Nil => Err(self.fail("nil is not a command")),
            operand => self.operand(operand, dot),
        }
    }

    fn function(
        &mut self,
        name: &str,
        operands: &[Operand],
        last: Option<Value>,
        dot: &Value,
    ) -> Result<Value, TemplateError> {
        let count = operands.len() + usize::from(last.is_some());
        if name == "and" || name == "or" {
            if count == 0 {
                return Err(self.fail(format!("wrong number of args for {name}: want at least 1")));
            }
            // The first that decides is the result; those behind it are not looked at.
            let mut value = Value::Nil;
            for operand in operands {
                value = self.operand(operand, dot)?;
                if value.holds() == (name == "or") {
                    return Ok(value);
                }
            }
            return Ok(last.unwrap_or(value));
        }
        let mut args = Vec::with_capacity(count);
        for operand in operands {
            args.push(self.operand(operand, dot)?);
        }
        args.extend(last);
        functions::call(name, args, self.context)
            .map_err(|why| self.fail(format!("error calling {name}: {why}")))
    }

    fn operand(&mut self, operand: &Operand, dot: &Value) -> Result<Value, TemplateError> {
        self.step()?;
        Ok(match operand {
            Operand::Nil => Value::Nil,
            Operand::Bool(b) => Value::Bool(*b),
            Operand::Int(n) => Value::Int(*n),
            Operand::Float(n) => Value::Float(*n),
            Operand::Text(text) => Value::Text(text.clone()),
            Operand::Dot => dot.clone(),
            Operand::Variable(name) => {
                let known = self.variables.iter().rev().find(|(n, _)| n == name);
                let undefined = || self.fail(format!("undefined variable \"${name}\""));
                known.map(|(_, v)| v.clone()).ok_or_else(undefined)?
            }
            Operand::Function(name) => self.function(name, &[], None, dot)?,
            Operand::Inner(pipeline) => self.pipeline(pipeline, dot)?,
            Operand::Field(of, name) => {
                let of = self.operand(of, dot)?;
                field(&of, name).map_err(|why| self.fail(why))?
            }
        })
    }
}

/// A field, a key, or a method without arguments.
fn field(of: &Value, name: &str) -> Result<Value, String> {
    let found = match of {
        Value::Labels(labels) => Some(Value::Text(labels.get(name).to_owned())),
        Value::Map(map) => Some(map.get(name).cloned().unwrap_or(Value::Nil)),
        Value::Sample(labels, value) => match name {
            "Labels" => Some(Value::Labels(labels.clone())),
            "Value" => Some(Value::Float(*value)),
            _ => None,
        },
        Value::Data(data) => match name {
            "Labels" => Some(Value::Labels(data.labels.clone())),
            "ExternalLabels" => Some(Value::Labels(data.external_labels.clone())),
            "ExternalURL" => Some(Value::Text(data.external_url.clone())),
            "Value" => Some(Value::Float(data.value)),
            _ => None,
        },
        Value::Time(ms) => functions::time_part(*ms, name),
        Value::Nil => return Err(format!("nil data; no entry for key {name:?}")),
        _ => None,
    };
    found.ok_or_else(|| format!("can't evaluate field {name} in type {}", of.type_name()))
}
