//! `banger events`.

use super::Context;
use crate::client::{Lines, Path};
use crate::failure::Outcome;
use crate::interrupt::{Interrupt, or_cancel};
use crate::render::{self, json, time};
use clap::Args;
use serde::Deserialize;
use wire::control::{Event, StateChange};

/// Follow what happens to sandboxes.
///
/// One line for each change of a state, as it happens, until Ctrl-C.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  banger events --json")]
pub struct EventsArgs {}

pub async fn run(context: &Context, _args: EventsArgs) -> Outcome {
    let events = or_cancel(async { Ok(context.client.open(Path::new("/v1/events")).await?) }).await?;
    // Ctrl-C is how one ends it.
    Interrupt::listen()?.or(follow(context, events)).await.unwrap_or(Ok(()))
}

/// A change as it is, or in the envelope of a stream.
#[derive(Deserialize)]
#[serde(untagged)]
enum Word {
    Envelope(Event<StateChange>),
    Change(StateChange),
}

async fn follow(context: &Context, mut events: Lines) -> Outcome {
    while let Some(word) = events.next::<Word>().await? {
        let change = match word {
            Word::Change(change) | Word::Envelope(Event::Result { value: change }) => change,
            Word::Envelope(Event::Fault { fault }) => return Err(fault.into()),
            Word::Envelope(_) => continue,
        };
        if context.output.json { json::line(&change)? } else { render::data(&text(&change))? }
    }
    Ok(())
}

fn text(change: &StateChange) -> String {
    let way = match (&change.from, &change.to) {
        (None, None) => "gone".to_owned(),
        (None, Some(to)) => to.clone(),
        (Some(from), Some(to)) => format!("{from} -> {to}"),
        (Some(from), None) => format!("{from} -> gone"),
    };
    format!("{}  {}  {way}\n", time::moment(change.at_ns), change.vm_name)
}
