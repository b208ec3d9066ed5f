//! The queries of the WebSockets, as `kubectl` writes them where it has a word for it. Refuses a word that it does not know, and one
//! that is given twice.

use cc_common::api::fault::Fault;
use cc_common::api::v1;
use tonic::Code;

/// Of a terminal whose client has not said how large it is.
const ROWS: u32 = 24;
const COLUMNS: u32 = 80;

/// The words of a query, in order, each to be taken once.
struct Words(Vec<(String, String)>);

impl Words {
    fn of(query: &str) -> Self {
        Words(form_urlencoded::parse(query.as_bytes()).into_owned().collect())
    }

    fn all(&mut self, name: &str) -> Vec<String> {
        let (taken, rest) = std::mem::take(&mut self.0).into_iter().partition(|(key, _)| key == name);
        self.0 = rest;
        let taken: Vec<(String, String)> = taken;
        taken.into_iter().map(|(_, value)| value).collect()
    }

    fn one(&mut self, name: &str) -> Result<Option<String>, Fault> {
        let mut all = self.all(name);
        match all.len() {
            0 | 1 => Ok(all.pop()),
            _ => Err(bad(format!("it has {name} more than once"))),
        }
    }

    fn flag(&mut self, name: &str, default: bool) -> Result<bool, Fault> {
        match self.one(name)?.as_deref() {
            None => Ok(default),
            Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(other) => Err(bad(format!("{name} is {other:?}, neither true nor false"))),
        }
    }

    fn number<T: std::str::FromStr>(&mut self, name: &str, default: T) -> Result<T, Fault> {
        let Some(text) = self.one(name)? else { return Ok(default) };
        text.parse().map_err(|_| bad(format!("{name} is {text:?}, which is no number that can be meant")))
    }

    fn end(self) -> Result<(), Fault> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => Err(bad(format!("it has {name:?}, which means nothing here"))),
        }
    }

    fn terminal(&mut self, wanted: bool) -> Result<Option<v1::WindowSize>, Fault> {
        let size = v1::WindowSize { rows: self.number("rows", ROWS)?, columns: self.number("columns", COLUMNS)? };
        Ok(wanted.then_some(size))
    }
}

fn bad(why: String) -> Fault {
    Fault::new(Code::InvalidArgument, "web.bad_query", "cannot read the request's query", why)
        .next("see docs/http.md for what may be in it")
}

/// The ticket, and the query without it.
pub fn ticket(query: &str) -> Result<Option<String>, Fault> {
    Words::of(query).one("ticket")
}

pub fn exec(container: &str, query: &str) -> Result<v1::ExecStart, Fault> {
    let mut words = Words::of(query);
    words.all("ticket");
    let terminal = words.flag("tty", false)?;
    let start = v1::ExecStart {
        container: container.to_owned(),
        command: words.all("command"),
        env: words.all("env"),
        dir: words.one("dir")?.unwrap_or_default(),
        user: words.one("user")?.unwrap_or_default(),
        attach_stdin: words.flag("stdin", false)?,
        terminal: words.terminal(terminal)?,
        detach: false,
    };
    // Clients of Kubernetes say which they want; here they get what there is.
    words.flag("stdout", true)?;
    words.flag("stderr", true)?;
    words.end().map(|()| start)
}

pub fn attach(container: &str, query: &str) -> Result<v1::AttachStart, Fault> {
    let mut words = Words::of(query);
    words.all("ticket");
    let terminal = words.flag("tty", false)?;
    let start = v1::AttachStart {
        container: container.to_owned(),
        stdin: words.flag("stdin", false)?,
        terminal: words.terminal(terminal)?,
    };
    words.flag("stdout", true)?;
    words.flag("stderr", true)?;
    words.end().map(|()| start)
}

/// What of the log, and whether each line has its time before it.
pub fn logs(container: &str, query: &str) -> Result<(v1::LogsRequest, bool), Fault> {
    let mut words = Words::of(query);
    words.all("ticket");
    let wanted = v1::LogsRequest {
        id: container.to_owned(),
        follow: words.flag("follow", false)?,
        tail: words.number("tail", -1)?,
        since_ms: words.number("since_ms", 0)?,
    };
    let timestamps = words.flag("timestamps", false)?;
    words.end().map(|()| (wanted, timestamps))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_words_in_order() {
        let start =
            exec("web", "command=sh&command=-c&command=echo+%26%20a&stdin=true&tty=1&rows=50&ticket=x").unwrap();
        assert_eq!(start.command, ["sh", "-c", "echo & a"]);
        assert!(start.attach_stdin);
        assert_eq!(start.terminal, Some(v1::WindowSize { rows: 50, columns: 80 }));
        assert_eq!(exec("web", "command=true").unwrap().terminal, None);
    }

    #[test]
    fn what_is_unknown_or_twofold_is_named() {
        let why = |query: &str| exec("web", query).unwrap_err().why;
        assert!(why("command=a&cmd=b").contains("\"cmd\""));
        assert!(why("user=a&user=b").contains("user more than once"));
        assert!(why("tty=yes").contains("\"yes\""));
        assert!(why("tty=1&rows=-1").contains("rows"));
        assert!(logs("web", "tail=x").unwrap_err().why.contains("tail"));
        assert!(attach("web", "command=x").unwrap_err().why.contains("\"command\""));
    }

    #[test]
    fn all_of_a_log_unless_it_is_said() {
        let (wanted, timestamps) = logs("web", "").unwrap();
        assert_eq!((wanted.tail, wanted.since_ms, wanted.follow, timestamps), (-1, 0, false, false));
    }
}
