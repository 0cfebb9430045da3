//! The events of long work on stderr: a moving line where a person looks, one plain line per stage elsewhere.

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::time::Duration;
use wire::control::Event;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    Animated,
    Lines,
    Silent,
}

/// All lines of one command; each piece of work has its own.
pub struct Board {
    style: Style,
    bars: MultiProgress,
}

impl Board {
    pub fn new(style: Style) -> Self {
        let target = match style {
            Style::Animated => ProgressDrawTarget::stderr(),
            Style::Lines | Style::Silent => ProgressDrawTarget::hidden(),
        };
        Board { style, bars: MultiProgress::with_draw_target(target) }
    }

    /// A line for one piece of work; `subject` is put before it where there are several.
    pub fn line(&self, subject: Option<&str>) -> Line {
        let prefix = subject.map(|subject| format!("{subject}: ")).unwrap_or_default();
        let bar = (self.style == Style::Animated).then(|| {
            let bar = self.bars.add(ProgressBar::no_length());
            bar.set_prefix(prefix.clone());
            bar.set_style(stage_style());
            bar
        });
        Line { style: self.style, bars: self.bars.clone(), bar, prefix }
    }
}

pub struct Line {
    style: Style,
    bars: MultiProgress,
    bar: Option<ProgressBar>,
    prefix: String,
}

/// 100 ms: smooth enough, and no burden on a slow link.
const TICK: Duration = Duration::from_millis(100);

impl Line {
    pub fn event<T>(&self, event: &Event<T>) {
        match event {
            Event::Stage { text } => self.stage(&super::plain(text)),
            Event::Progress { done, total, unit } => self.progress(*done, *total, unit),
            Event::Note { text } => self.note(&super::plain(text)),
            Event::Began { .. } | Event::Result { .. } | Event::Fault { .. } | Event::Unknown => {}
        }
    }

    fn stage(&self, text: &str) {
        match &self.bar {
            Some(bar) => {
                bar.set_style(stage_style());
                bar.set_message(text.to_owned());
                bar.enable_steady_tick(TICK);
            }
            None if self.style == Style::Lines => super::note(&format!("{}{text}", self.prefix)),
            None => {}
        }
    }

    fn progress(&self, done: u64, total: Option<u64>, unit: &str) {
        let Some(bar) = &self.bar else { return };
        bar.set_style(progress_style(unit, total.is_some()));
        if let Some(total) = total {
            bar.set_length(total);
        }
        bar.set_position(done);
    }

    /// Notes stay on the screen; they are worth it even where progress is not wanted.
    fn note(&self, text: &str) {
        let line = format!("{}{text}", self.prefix);
        match self.style {
            Style::Animated => {
                // A lost stderr is nobody's loss.
                let _ = self.bars.println(line);
            }
            Style::Lines | Style::Silent => super::note(&line),
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
            self.bars.remove(bar);
        }
    }
}

fn stage_style() -> ProgressStyle {
    template("{spinner} {prefix}{msg} {elapsed:.dim}")
}

fn progress_style(unit: &str, bounded: bool) -> ProgressStyle {
    template(match (unit, bounded) {
        ("bytes", true) => {
            "{spinner} {prefix}{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec:.dim}"
        }
        ("bytes", false) => "{spinner} {prefix}{msg} {binary_bytes} {binary_bytes_per_sec:.dim}",
        (_, true) => "{spinner} {prefix}{msg} {wide_bar} {pos}/{len}",
        (_, false) => "{spinner} {prefix}{msg} {pos}",
    })
}

fn template(text: &str) -> ProgressStyle {
    ProgressStyle::with_template(text).expect("templates are constants, each shown by a test")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_is_one() {
        stage_style();
        for unit in ["bytes", "items"] {
            progress_style(unit, true);
            progress_style(unit, false);
        }
    }
}
