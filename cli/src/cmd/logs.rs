//! `cc logs`: what a container wrote, each stream to the same stream here. With `-f` it outlives a restart of the daemon, as the
//! container does, and goes on where it was. Refuses to mix the streams.

mod place;

use std::io::{self, Write};
use std::time::{Duration, Instant};

use cc_common::api::fault::Fault;
use cc_common::api::v1::{LogRecord, LogsRequest};
use clap::Args;
use serde::Serialize;

use self::place::Place;
use super::Context;
use crate::error::{Failure, is_lost, usage};
use crate::time;

/// A daemon that is upgraded is back in less; whoever waits longer is told that there is none.
const BACK_WITHIN: Duration = Duration::from_secs(60);
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cc logs -f web\n  cc logs --tail 20 --since 10m --timestamps web")]
pub struct LogsArgs {
    /// Go on as the container writes
    #[arg(short, long)]
    follow: bool,
    /// Only so many of the last lines, or `all`
    #[arg(short = 'n', long, value_name = "N", default_value = "all", value_parser = parse_tail)]
    tail: i64,
    /// Only later ones: a duration back from now, RFC 3339, or Unix seconds
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Put the time before each line
    #[arg(short, long)]
    timestamps: bool,
    /// A name or an id
    #[arg(value_name = "ID")]
    id: String,
}

fn parse_tail(text: &str) -> Result<i64, String> {
    match (text, text.parse::<u32>()) {
        ("all", _) => Ok(-1),
        (_, Ok(lines)) => Ok(i64::from(lines)),
        _ => Err("give a number of lines, or `all`".to_owned()),
    }
}

#[derive(Serialize)]
struct Line<'a> {
    at: String,
    stream: &'a str,
    /// Bytes that are not UTF-8 are replaced: a program that needs them reads the plain output.
    text: std::borrow::Cow<'a, str>,
}

pub async fn run(context: &Context, args: LogsArgs) -> Result<i32, Failure> {
    let since = args.since.map(|text| time::parse_moment(&text, time::now_ms())).transpose();
    let since_ms = since.map_err(|source| usage("cannot read --since", source))?.unwrap_or(0);
    let request = LogsRequest { id: args.id, follow: args.follow, tail: args.tail, since_ms };
    let mut out = Printer { json: context.ui.json, timestamps: args.timestamps, inside_line: [false; 2] };
    let mut place = Place::new(request, time::now_ms());
    let mut heard = None;
    loop {
        let fault = match read(context, &mut place, &mut heard, &mut out).await {
            Ok(()) => return Ok(0),
            Err(Failure::Fault(fault)) => fault,
            Err(other) => return Err(other),
        };
        // A daemon that was never heard, this call failed to reach like any other.
        let heard_of_late = heard.is_some_and(|heard: Instant| heard.elapsed() < BACK_WITHIN);
        if !(args.follow && heard_of_late && may_come_back(&fault)) {
            return Err(Failure::Fault(fault));
        }
        tokio::time::sleep(ASK_AGAIN_AFTER).await;
    }
}

/// From where it was to the container's end, or to the daemon's.
async fn read(
    context: &Context,
    place: &mut Place,
    heard: &mut Option<Instant>,
    out: &mut Printer,
) -> Result<(), Failure> {
    let mut records = context.containers().await?.logs(place.request()).await?.into_inner();
    *heard = Some(Instant::now());
    loop {
        let record = records.message().await;
        *heard = Some(Instant::now());
        match record? {
            Some(record) if place.is_new(&record) => out.print(context, &record)?,
            Some(_) => {}
            None => return Ok(()),
        }
    }
}

/// A daemon that restarts hangs up, and for a moment nobody listens.
fn may_come_back(fault: &Fault) -> bool {
    is_lost(fault) || ["endpoint.no_daemon", "endpoint.unreachable"].contains(&fault.code.as_str())
}

struct Printer {
    json: bool,
    timestamps: bool,
    /// A record may be part of a line; only the first part gets a time.
    inside_line: [bool; 2],
}

impl Printer {
    fn print(&mut self, context: &Context, record: &LogRecord) -> io::Result<()> {
        if self.json {
            let text = String::from_utf8_lossy(&record.data);
            context.ui.line(&Line { at: time::rfc3339_ns(record.at_ns), stream: &record.stream, text }, "")
        } else if record.stream == "stderr" {
            self.print_into(&mut io::stderr().lock(), record, 1)
        } else {
            self.print_into(&mut io::stdout().lock(), record, 0)
        }
    }

    fn print_into(&mut self, out: &mut impl Write, record: &LogRecord, stream: usize) -> io::Result<()> {
        if self.timestamps && !self.inside_line[stream] {
            write!(out, "{} ", time::rfc3339_ns(record.at_ns))?;
        }
        out.write_all(&record.data)?;
        self.inside_line[stream] = record.data.last() != Some(&b'\n');
        out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_in_parts_has_one_time() {
        let mut printer = Printer { json: false, timestamps: true, inside_line: [false; 2] };
        let mut out = Vec::new();
        for data in ["par", "tial\n", "next\n"] {
            let record = LogRecord { at_ns: 1, stream: "stdout".into(), data: data.into() };
            printer.print_into(&mut out, &record, 0).unwrap();
        }
        let time = "1970-01-01T00:00:00.000000001Z";
        assert_eq!(String::from_utf8(out).unwrap(), format!("{time} partial\n{time} next\n"));
    }

    #[test]
    fn tail_counts_or_is_all() {
        assert_eq!((parse_tail("all"), parse_tail("0"), parse_tail("20")), (Ok(-1), Ok(0), Ok(20)));
        assert!(parse_tail("-1").is_err());
    }
}
