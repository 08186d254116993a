//! `query_exemplars`: the exemplars of the series that a query names.

use crate::form::Form;
use crate::json::{Failure, labels, list, number, time};
use crate::store::{Monitor, held};
use synod_promql::parse;

impl Monitor {
    pub(crate) fn exemplars_api(&self, form: &Form) -> Result<String, Failure> {
        let (from, to) = form.span().map_err(Failure::bad_data)?;
        if to < from {
            return Err(Failure::bad_data(
                "invalid parameter \"end\": end timestamp must not be before start timestamp",
            ));
        }
        let text = form.get("query").unwrap_or_default();
        let query = parse(text).map_err(|e| Failure::of_query(&e, text))?;
        let mut sets = Vec::new();
        query.selectors(&mut |selector| sets.push(selector.matchers.clone()));
        let found = held(&self.0.kept.exemplars).select(&sets, from, to);
        let mut out = String::new();
        list(&mut out, found.iter(), |out, (series, exemplars)| {
            out.push_str("{\"seriesLabels\":");
            labels(out, series);
            out.push_str(",\"exemplars\":");
            list(out, exemplars.iter(), |out, exemplar| {
                out.push_str("{\"labels\":");
                labels(out, &exemplar.labels);
                out.push_str(",\"value\":");
                number(out, exemplar.value);
                out.push_str(",\"timestamp\":");
                time(out, exemplar.at);
                out.push('}');
            });
            out.push('}');
        });
        Ok(out)
    }
}
