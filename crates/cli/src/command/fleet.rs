//! One verb for many sandboxes: references that mean the same one count once, the work runs concurrently, the report
//! keeps the order in which they were named, and one that fails stops none of the others.

use super::Context;
use super::complete;
use crate::client::{ClientError, Path};
use crate::failure::{Failure, Outcome};
use crate::interrupt;
use crate::render::progress::{Board, Line};
use crate::render::{self, json};
use clap::Args;
use clap_complete::ArgValueCandidates;
use futures_util::{StreamExt, stream};
use hyper::Method;
use serde::Serialize;
use std::collections::BTreeSet;
use std::future::Future;
use wire::Fault;
use wire::control::{PlanFacts, Sandbox, SandboxList, exit};

/// 16 at a time: the daemon's host is the bottleneck, not our patience.
const AT_ONCE: usize = 16;

/// Which sandboxes.
#[derive(Debug, Clone, Args)]
pub struct Which {
    /// Names, ids or beginnings of ids
    #[arg(value_name = "VM", required_unless_present = "all", add = ArgValueCandidates::new(complete::vms))]
    pub vms: Vec<String>,
    /// Take every sandbox there is
    #[arg(long, conflicts_with = "vms")]
    pub all: bool,
}

impl Which {
    pub async fn resolve(self, context: &Context) -> Outcome<Vec<String>> {
        match self.all {
            true => Ok(all(context).await?.into_iter().map(|vm| vm.name).collect()),
            false if self.vms.len() > 1 => Ok(distinct(self.vms, &all(context).await?)),
            false => Ok(self.vms),
        }
    }
}

pub async fn all(context: &Context) -> Outcome<Vec<Sandbox>> {
    let list: SandboxList = context.client.get(Path::new("/v1/vms")).await?;
    Ok(list.vms)
}

/// Every sandbox once, under the reference that named it first; what names none stays, so that the daemon says why.
fn distinct(references: Vec<String>, vms: &[Sandbox]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let identity = |reference: &String| named(reference, vms).map_or(reference.clone(), |vm| vm.id.clone());
    references.into_iter().filter(|reference| seen.insert(identity(reference))).collect()
}

fn named<'a>(reference: &str, vms: &'a [Sandbox]) -> Option<&'a Sandbox> {
    let by_name = vms.iter().find(|vm| vm.name == reference);
    by_name.or_else(|| {
        let mut begun = vms.iter().filter(|vm| !reference.is_empty() && vm.id.starts_with(reference));
        begun.next().filter(|_| begun.next().is_none())
    })
}

/// What a stream of a sandbox's work ends with.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Answer {
    Done(Box<Sandbox>),
    Planned(PlanFacts),
}

/// A verb as the control API knows it.
#[derive(Debug, Clone)]
pub struct Deed<B> {
    pub method: Method,
    /// The segment after the reference; empty for the sandbox itself.
    pub verb: &'static str,
    pub query: Vec<(&'static str, &'static str)>,
    pub body: B,
    pub dry_run: bool,
}

impl<B: Serialize> Deed<B> {
    pub fn post(verb: &'static str, body: B) -> Self {
        Deed { method: Method::POST, verb, query: Vec::new(), body, dry_run: false }
    }

    pub async fn carry_out(&self, context: &Context, vm: &str, line: &Line) -> Result<Answer, ClientError> {
        let mut path = Path::vm(vm);
        if !self.verb.is_empty() {
            path = path.then(self.verb);
        }
        for (key, value) in &self.query {
            path = path.query(key, value);
        }
        let method = self.method.clone();
        if self.dry_run {
            context.client.work(method, path, &self.body, |event| line.event(event)).await.map(Answer::Planned)
        } else {
            context.client.work(method, path, &self.body, |event| line.event(event)).await.map(Answer::Done)
        }
    }

    /// For each of them; `done` says how it went.
    pub async fn for_each(&self, context: &Context, vms: Vec<String>, done: impl Fn(&Sandbox) -> String) -> Outcome {
        let deed = |vm: String, line: Line| async move { self.carry_out(context, &vm, &line).await };
        let outcomes = each(context, vms, deed).await;
        if self.dry_run {
            return report_plans(context, outcomes);
        }
        report(context, outcomes, |answer| match answer {
            Answer::Done(vm) => done(vm),
            Answer::Planned(plan) => plan.vm_name.clone(),
        })
    }
}

pub type Outcomes<T> = Vec<(String, Result<T, ClientError>)>;

pub async fn each<T, F, W>(context: &Context, vms: Vec<String>, deed: F) -> Outcomes<T>
where
    F: Fn(String, Line) -> W,
    W: Future<Output = Result<T, ClientError>>,
{
    let board = Board::new(context.output.progress());
    let many = vms.len() > 1;
    let work = vms.into_iter().map(|vm| {
        let line = board.line(many.then_some(vm.as_str()));
        let work = deed(vm.clone(), line);
        async move { (vm, work.await) }
    });
    stream::iter(work).buffered(AT_ONCE).collect().await
}

/// One line per sandbox, in order; fails if any of them did.
pub fn report<T: Serialize>(context: &Context, outcomes: Outcomes<T>, done: impl Fn(&T) -> String) -> Outcome {
    if context.output.json {
        return report_json(outcomes);
    }
    let alone = outcomes.len() == 1;
    let mut failed = false;
    for (vm, outcome) in outcomes {
        match outcome {
            Ok(_) if context.output.quiet => {}
            Ok(answer) => render::data(&format!("{}\n", done(&answer)))?,
            Err(error) if alone => return Err(error.into()),
            Err(error) => {
                failed = true;
                render::error::say(&naming(&vm, error.into_fault()));
            }
        }
    }
    if failed { Err(Failure::Status(exit::FAILED)) } else { Ok(()) }
}

fn report_plans(context: &Context, outcomes: Outcomes<Answer>) -> Outcome {
    if context.output.json {
        return report_json(outcomes);
    }
    let mut failed = false;
    for (vm, outcome) in outcomes {
        match outcome {
            Ok(Answer::Planned(plan)) => render::plan::show(context.output, &plan)?,
            Ok(Answer::Done(_)) => {}
            Err(error) => {
                failed = true;
                render::error::say(&naming(&vm, error.into_fault()));
            }
        }
    }
    if failed { Err(Failure::Status(exit::FAILED)) } else { Ok(()) }
}

/// What became of one of many, for programs.
#[derive(Serialize)]
struct VmOutcome<T> {
    vm: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<Fault>,
}

fn report_json<T: Serialize>(outcomes: Outcomes<T>) -> Outcome {
    let failed = outcomes.iter().any(|(_, outcome)| outcome.is_err());
    let rows: Vec<_> = outcomes
        .into_iter()
        .map(|(vm, outcome)| match outcome {
            Ok(result) => VmOutcome { vm, result: Some(result), fault: None },
            Err(error) => VmOutcome { vm, result: None, fault: Some(error.into_fault()) },
        })
        .collect();
    json::document(&rows)?;
    if failed { Err(Failure::Status(exit::FAILED)) } else { Ok(()) }
}

/// Among several, a sentence must say whom it is about.
fn naming(vm: &str, mut fault: Fault) -> Fault {
    if !fault.message.contains(vm) {
        fault.message = format!("{vm}: {}", fault.message);
    }
    fault
}

/// Images or kernels by name, in order.
pub async fn delete_artifacts(context: &Context, folder: &'static str, names: Vec<String>) -> Outcome {
    let deed = |name: String, _line| async move {
        context.client.order(Method::DELETE, Path::new(folder).then(&name)).await?;
        Ok(Deleted { deleted: name })
    };
    let outcomes = each(context, names, deed).await;
    report(context, outcomes, |done| format!("{}: deleted", done.deleted))
}

#[derive(Serialize)]
struct Deleted {
    deleted: String,
}

/// One sandbox, one answer, Ctrl-C included: for verbs that make or mend a single one.
pub async fn one<T>(work: impl Future<Output = Result<T, ClientError>>) -> Outcome<T> {
    interrupt::or_cancel(async { work.await.map_err(Failure::from) }).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(name: &str, id: &str) -> Sandbox {
        Sandbox { name: name.into(), id: id.into(), ..Sandbox::default() }
    }

    #[test]
    fn a_sandbox_named_twice_counts_once() {
        let vms = [vm("web", "aa11"), vm("db", "aa22")];
        let check = |given: &[&str], expected: &[&str]| {
            let given = given.iter().map(|given| given.to_string()).collect();
            assert_eq!(distinct(given, &vms), expected);
        };
        check(&["web", "web"], &["web"]);
        check(&["aa1", "web", "db"], &["aa1", "db"]);
        check(&["aa", "missing", "db", "missing"], &["aa", "missing", "db"]);
        check(&["", "web"], &["", "web"]);
    }
}
