//! `banger vm cp`: files and folders between this host and guests, in every direction.
//!
//! ```text
//! place ─► plan: what is read under which name, and below which folder it is written ─► carry: one archive, streamed
//! ```
//! Each file arrives under a name of its own and takes its place once it is whole, so a copy that is cut off can just be made
//! again. What comes from a guest gets no rights here (`files::Trust::Foreign`).

mod carry;
mod place;

use super::{Context, complete};
use crate::failure::{Failure, Outcome};
use crate::interrupt::{Interrupt, cancelled};
use crate::render::json;
use crate::render::progress::Board;
use carry::Carried;
use clap::Args;
use clap_complete::ArgValueCompleter;
use place::{Place, Source, Target};
use serde::Serialize;
use wire::FaultKind;

/// Copy files and folders between this host and sandboxes.
///
/// A place in a sandbox is written NAME:PATH; a path that does not begin with `/` starts at /root. Into a folder that is there
/// a source goes under its own name; else it gets the name you say. `FOLDER/.` is what is in a folder without the folder
/// itself. `-` is a tar archive on stdin or stdout. Modes, times, links, holes and extended attributes are kept; files belong to
/// root in the sandbox and to you here, unless `--archive` says otherwise. Each file takes its place once it is whole, so that a
/// copy which broke off can be made again.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  banger vm cp ./app web:/srv\n  banger vm cp web:/var/log/syslog .\n  banger vm cp web:data db:\n  tar -c . | banger vm cp - web:/srv/app"
)]
pub struct CopyArgs {
    /// What to copy, and where to, last: a path here, NAME:PATH, or `-`
    #[arg(value_name = "PLACE", num_args = 2.., required = true, add = ArgValueCompleter::new(complete::places))]
    pub places: Vec<Place>,
    /// Copy what a link leads to instead of the link, if the source is one
    #[arg(short = 'L', long)]
    pub follow_link: bool,
    /// Keep the owners' numbers, where you may
    #[arg(short, long)]
    pub archive: bool,
}

/// What was copied, for programs.
#[derive(Debug, Serialize)]
struct Copied {
    source: String,
    destination: String,
    /// Of the archive that was sent.
    bytes: u64,
}

pub async fn run(context: &Context, args: CopyArgs) -> Outcome {
    let CopyArgs { mut places, follow_link, archive } = args;
    let target = places.pop().unwrap_or(Place::Stream);
    if places.len() > 1 && matches!(target, Place::Stream) {
        return Err(Failure::new(FaultKind::Invalid, "several sources make several archives: stdout takes one"));
    }
    let several = places.len() > 1;
    let mut copied = Vec::new();
    for place in places {
        let named = (place.to_string(), target.to_string());
        let bytes = one(context, place, &target, Wishes { follow_link, archive, several }).await?;
        copied.push(Copied { source: named.0, destination: named.1, bytes });
    }
    if context.output.json && !matches!(target, Place::Stream) { json::document(&copied) } else { Ok(()) }
}

#[derive(Debug, Clone, Copy)]
struct Wishes {
    follow_link: bool,
    archive: bool,
    /// The target must be a folder.
    several: bool,
}

async fn one(context: &Context, source: Place, target: &Place, wishes: Wishes) -> Outcome<u64> {
    let mut interrupt = Interrupt::listen()?;
    let board = Board::new(context.output.progress());
    let line = board.line(None);
    let plan = async {
        let source = Source::look(context, source, wishes.follow_link).await?;
        let target = Target::look(context, target, &source, wishes.several).await?;
        Outcome::Ok((source, target))
    };
    let (source, target) = match interrupt.or(plan).await {
        Ok(planned) => planned?,
        Err(_) => return Err(cancelled("cancelled before anything was copied")),
    };
    let mut carried = Carried::begin(context, &source, &target, wishes.archive)?;
    let ended = interrupt.or(carried.run(context, &line)).await;
    // Whatever was begun here is put away before we say how it went.
    let local = carried.finish().await;
    match ended {
        Ok(ended) => carry::verdict(ended, local),
        Err(_) => Err(cancelled("cancelled; what was copied so far is there, each file whole")
            .with_hint("the same command copies all of it again")),
    }
}
