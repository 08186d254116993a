//! etcd's errors: the codes and words that clients match on.

use synod_cell::Failure;
use synod_consensus::Refusal;
use synod_host::RequestError;
use synod_mvcc::{Error, StoreError, TxnProblem};
use tonic::{Code, Status};

macro_rules! etcd_errors {
    ($($(#[$doc:meta])* $name:ident: $code:ident $text:literal;)*) => {
        $($(#[$doc])* pub(crate) fn $name() -> Status { Status::new(Code::$code, $text) })*
    };
}

etcd_errors! {
    key_not_provided: InvalidArgument "etcdserver: key is not provided";
    key_too_long: InvalidArgument "etcdserver: key is too long: Synod keeps keys of up to 32000 bytes";
    key_not_found: InvalidArgument "etcdserver: key not found";
    value_provided: InvalidArgument "etcdserver: value is provided";
    lease_provided: InvalidArgument "etcdserver: lease is provided";
    too_many_ops: InvalidArgument "etcdserver: too many operations in txn request";
    duplicate_key: InvalidArgument "etcdserver: duplicate key given in txn request";
    bad_sort: InvalidArgument "etcdserver: invalid sort option";
    request_too_large: InvalidArgument "etcdserver: request is too large";
    compacted: OutOfRange "etcdserver: mvcc: required revision has been compacted";
    future_revision: OutOfRange "etcdserver: mvcc: required revision is a future revision";
    no_space: ResourceExhausted "etcdserver: mvcc: database space exceeded";
    too_many_requests: ResourceExhausted "etcdserver: too many requests";
    lease_not_found: NotFound "etcdserver: requested lease not found";
    lease_exists: FailedPrecondition "etcdserver: lease already exists";
    lease_ttl_too_large: OutOfRange "etcdserver: too large lease TTL";
    member_not_found: NotFound "etcdserver: member not found";
    peer_urls_exist: FailedPrecondition "etcdserver: Peer URLs already exists";
    bad_member_urls: InvalidArgument "etcdserver: given member URLs are invalid";
    not_enough_started: FailedPrecondition "etcdserver: re-configuration failed due to not enough started members";
    not_learner: FailedPrecondition "etcdserver: can only promote a learner member";
    learner_not_ready: FailedPrecondition "etcdserver: can only promote a learner member which is in sync with leader";
    too_many_learners: FailedPrecondition "etcdserver: too many learner members in cluster";
    not_for_learner: FailedPrecondition "etcdserver: rpc not supported for learner";
    not_leader: FailedPrecondition "etcdserver: not leader";
    bad_transferee: FailedPrecondition "etcdserver: bad leader transferee";
    auth_not_enabled: FailedPrecondition "etcdserver: authentication is not enabled";
    no_leader: Unavailable "etcdserver: no leader";
    leader_changed: Unavailable "etcdserver: leader changed";
    stopped: Unavailable "etcdserver: server stopped";
    unhealthy: Unavailable "etcdserver: unhealthy cluster";
    timed_out: Unavailable "etcdserver: request timed out";
    timed_out_unknown: Unavailable "etcdserver: request timed out, possibly due to previous leader failure";
    corrupt: DataLoss "etcdserver: corrupt cluster";
    bad_version_format: InvalidArgument "etcdserver: wrong downgrade target version format";
    bad_downgrade_target: InvalidArgument "etcdserver: invalid downgrade target version";
    no_downgrade: FailedPrecondition "etcdserver: no inflight downgrade job";
}

/// Why the cell did not answer, in etcd's words.
pub(crate) fn of_request(e: RequestError) -> Status {
    match e {
        RequestError::Stopped => stopped(),
        RequestError::Failed(Failure::State(e)) => of_state(e),
        RequestError::Failed(Failure::TimedOut) => timed_out(),
        RequestError::Failed(Failure::Unknown) => timed_out_unknown(),
        RequestError::Failed(Failure::Refused(why)) => of_refusal(why),
    }
}

fn of_refusal(why: Refusal) -> Status {
    match why {
        Refusal::NotLeader => not_leader(),
        Refusal::NoLeader => no_leader(),
        Refusal::LeaderChanged | Refusal::Transferring => leader_changed(),
        Refusal::Overloaded => too_many_requests(),
        Refusal::ChangeInProgress | Refusal::NotReady => unhealthy(),
        Refusal::UnknownMember => member_not_found(),
        Refusal::LearnerBehind => learner_not_ready(),
        Refusal::NotLearner => not_learner(),
        Refusal::BadChange => not_enough_started(),
        Refusal::TransferTimedOut => timed_out(),
    }
}

/// Why the state refused.
pub(crate) fn of_state(e: Error) -> Status {
    match e {
        Error::Compacted => compacted(),
        Error::FutureRevision => future_revision(),
        Error::KeyNotFound => key_not_found(),
        Error::LeaseNotFound => lease_not_found(),
        Error::LeaseExists => lease_exists(),
        Error::LeaseTtlTooLarge => lease_ttl_too_large(),
        Error::KeyTooLong => key_too_long(),
        Error::NoSpace => no_space(),
        Error::Corrupt => corrupt(),
    }
}

/// The store failed: the node is about to stop.
pub(crate) fn of_store(e: StoreError) -> Status {
    Status::new(Code::DataLoss, e.to_string())
}

/// What is wrong with a request, whatever the state.
pub(crate) fn of_problem(p: TxnProblem) -> Status {
    match p {
        TxnProblem::EmptyKey => key_not_provided(),
        TxnProblem::KeyTooLong => key_too_long(),
        TxnProblem::ValueProvided => value_provided(),
        TxnProblem::LeaseProvided => lease_provided(),
        TxnProblem::TooManyOps => too_many_ops(),
        TxnProblem::DuplicateKey => duplicate_key(),
        TxnProblem::InvalidSortOption => bad_sort(),
    }
}
