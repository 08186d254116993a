//! What stands in one place only: the arguments of `info`, and `fill` behind an operator.

use super::{Parser, show};
use crate::Error;
use crate::ast::{BinaryOp, Expr, Matching, Node, Selector, When};
use crate::lex::Token;

impl Parser {
    /// Of `info`: the second is no selector of series, but conditions on labels, any or none.
    pub(super) fn info_args(&mut self) -> Result<Vec<Node>, Error> {
        let place = "function call";
        self.expect("(", place)?;
        let mut args = vec![self.expr(1)?];
        if self.takes(",") {
            let from = self.span();
            if !matches!(self.peek(), Token::Sign("{")) {
                return self.fail("expected label selectors only");
            }
            let selector = Selector { matchers: self.matchers(None)?, time: When::default() };
            args.push(Node { expr: Expr::Vector(selector), span: from.start..self.end() });
        }
        self.expect(")", place)?;
        self.grow(2)?;
        Ok(args)
    }

    /// `fill(0)`, `fill_left(0)` and `fill_right(0)`: what counts where a side has nothing.
    pub(super) fn fills(&mut self, op: BinaryOp, matching: &mut Matching) -> Result<(), Error> {
        while let Some(which) = self.fill_word() {
            if op.of_sets() {
                return self.fail("filling in missing series not allowed for set operators");
            }
            self.next();
            let (left, right) = (which != "fill_right", which != "fill_left");
            let twice =
                left && matching.fill_left.is_some() || right && matching.fill_right.is_some();
            if twice {
                return self.fail(format!("unexpected <{which}>"));
            }
            self.expect("(", "fill modifier")?;
            let minus = self.takes("-");
            if !minus {
                self.takes("+");
            }
            let value = match self.next() {
                Token::Number(value) => value,
                Token::Duration(ms) => ms as f64 / 1_000.0,
                other => {
                    let found = show(&other);
                    return self
                        .fail(format!("unexpected {found} in fill modifier, expected number"));
                }
            };
            self.expect(")", "fill modifier")?;
            let value = Some(if minus { -value } else { value });
            matching.fill_left = if left { value } else { matching.fill_left };
            matching.fill_right = if right { value } else { matching.fill_right };
        }
        Ok(())
    }

    /// Which of them comes next. A series may be named like one.
    fn fill_word(&self) -> Option<String> {
        let Token::Name(name) = self.peek() else { return None };
        let word = name.to_ascii_lowercase();
        let opens = matches!(self.tokens.get(self.at + 1), Some((Token::Sign("("), _)));
        (opens && matches!(&*word, "fill" | "fill_left" | "fill_right")).then_some(word)
    }
}
