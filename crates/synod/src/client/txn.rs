//! `synod txn`: conditions and operations as words.

use super::{Connect, Fence, kv_json, show};
use crate::Outcome;
use clap::Args;
use synod_etcd_proto::etcdserverpb as pb;
use synod_etcd_proto::etcdserverpb::kv_client::KvClient;

/// Arguments of `synod txn`.
///
/// A condition is `value(KEY)=X`, `version(KEY)>N`, `create(KEY)=N`, `mod(KEY)<N` or
/// `lease(KEY)!=N`; an operation is `put KEY VALUE`, `get KEY` or `del KEY`.
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct TxnArgs {
    /// A condition, such as 'mod(KEY)=0'; all must hold
    #[arg(long = "if", value_name = "CONDITION")]
    conditions: Vec<String>,
    /// Done when all conditions hold, such as 'put KEY VALUE'
    #[arg(long = "then", value_name = "OPERATION")]
    success: Vec<String>,
    /// Done otherwise
    #[arg(long = "else", value_name = "OPERATION")]
    failure: Vec<String>,
    #[command(flatten)]
    fence: Fence,
    #[command(flatten)]
    connect: Connect,
}

impl TxnArgs {
    pub async fn run(self) -> Outcome {
        let ops = |list: &[String]| list.iter().map(|t| operation(t)).collect::<Outcome<Vec<_>>>();
        let request = pb::TxnRequest {
            compare: self.conditions.iter().map(|t| condition(t)).collect::<Outcome<_>>()?,
            success: ops(&self.success)?,
            failure: ops(&self.failure)?,
        };
        let channel = self.connect.open().await?;
        let request = self.fence.around(&self.connect, &channel, request).await?;
        let answer = self.connect.call(KvClient::new(channel).txn(request)).await?;
        let branch = if answer.succeeded { "then" } else { "else" };
        let mut read = Vec::new();
        for op in answer.responses {
            if let Some(pb::response_op::Response::ResponseRange(r)) = op.response {
                read.extend(r.kvs);
            }
        }
        if self.connect.json() {
            let kvs: Vec<_> = read.iter().map(kv_json).collect();
            println!("{}", serde_json::json!({ "branch": branch, "kvs": kvs }));
        } else {
            println!("{branch}");
            read.iter().for_each(|kv| println!("{}\t{}", show(&kv.key), show(&kv.value)));
        }
        Ok(())
    }
}

fn condition(text: &str) -> Outcome<pb::Compare> {
    use pb::compare::{CompareResult, CompareTarget, TargetUnion};
    let bad = || format!("{text:?} is not a condition such as mod(KEY)=0 or value(KEY)!=x");
    let (target, rest) = text.split_once('(').ok_or_else(bad)?;
    let (key, rest) = rest.split_once(')').ok_or_else(bad)?;
    let rest = rest.trim();
    let (result, operand) = [
        ("!=", CompareResult::NotEqual),
        ("=", CompareResult::Equal),
        (">", CompareResult::Greater),
        ("<", CompareResult::Less),
    ]
    .into_iter()
    .find_map(|(sign, result)| Some((result, rest.strip_prefix(sign)?.trim())))
    .ok_or_else(bad)?;
    let number = || operand.parse::<i64>().map_err(|_| bad());
    let (target, union) = match target.trim() {
        "value" => (CompareTarget::Value, TargetUnion::Value(operand.to_owned().into())),
        "version" => (CompareTarget::Version, TargetUnion::Version(number()?)),
        "create" => (CompareTarget::Create, TargetUnion::CreateRevision(number()?)),
        "mod" => (CompareTarget::Mod, TargetUnion::ModRevision(number()?)),
        "lease" => (CompareTarget::Lease, TargetUnion::Lease(number()?)),
        _ => return Err(bad()),
    };
    Ok(pb::Compare {
        result: result.into(),
        target: target.into(),
        key: key.to_owned().into(),
        target_union: Some(union),
        ..Default::default()
    })
}

fn operation(text: &str) -> Outcome<pb::RequestOp> {
    use pb::request_op::Request;
    let mut words = text.splitn(3, ' ');
    let key = |w: Option<&str>| w.map(|k| k.to_owned().into());
    let request = match (words.next(), key(words.next()), words.next()) {
        (Some("put"), Some(key), Some(value)) => Request::RequestPut(pb::PutRequest {
            key,
            value: value.to_owned().into(),
            ..Default::default()
        }),
        (Some("get"), Some(key), None) => {
            Request::RequestRange(pb::RangeRequest { key, ..Default::default() })
        }
        (Some("del"), Some(key), None) => {
            Request::RequestDeleteRange(pb::DeleteRangeRequest { key, ..Default::default() })
        }
        _ => {
            return Err(format!("{text:?} is not an operation: put KEY VALUE, get KEY or del KEY"));
        }
    };
    Ok(pb::RequestOp { request: Some(request) })
}
