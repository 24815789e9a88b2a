//! Query strings, strictly: an unknown parameter is a mistake that somebody wants to hear of.

use std::{fmt::Display, ops::RangeBounds, str::FromStr};

use axum::extract::FromRequestParts;
use http::request::Parts;

use http::{HeaderName, HeaderValue};

use crate::problem::{Code, Problem};

/// What credentials may be called in a query; see [`crate::auth::credentials`].
const CREDENTIALS: [&str; 3] = ["ticket", "access_token", "token"];

/// How many entries a page of a list has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PageSize {
    /// Unless a number is asked for.
    pub(crate) usual: usize,
    /// At most.
    pub(crate) max: usize,
}

impl PageSize {
    /// Of lists of small entries.
    pub(crate) const LIST: Self = Self { usual: 100, max: 1000 };

    /// Of inboxes, whose entries may be kilobytes long.
    pub(crate) const INBOX: Self = Self { usual: 50, max: 100 };
}

/// Leaves a page of what was found, of which one more was asked for than the page has. Answers the name of the
/// page's last entry when there are more.
pub(crate) fn cut<T>(found: &mut Vec<T>, limit: usize, name: impl Fn(&T) -> String) -> Option<String> {
    let has_more = found.len() > limit;
    found.truncate(limit);
    found.last().filter(|_| has_more).map(name)
}

/// Requests of calls that have no query parameters have none.
pub struct NoParameters;

impl<S: Send + Sync> FromRequestParts<S> for NoParameters {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Query::parse(parts.uri.query(), &[]).map(|_| Self)
    }
}

/// Query parameters in their order, each of a known name.
#[derive(Debug)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query (`application/x-www-form-urlencoded`) of parameters with the known names, and those
    /// that carry credentials, which have been read before.
    pub(crate) fn parse(query: Option<&str>, known: &[&str]) -> Result<Self, Problem> {
        let query = Self::any(query);
        match query.0.iter().find(|(name, _)| !known.contains(&name.as_str()) && !CREDENTIALS.contains(&name.as_str()))
        {
            None => Ok(query),
            Some((name, _)) => {
                let name: String = name.chars().take(64).collect();
                let accepted = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                Err(invalid(format!("{name:?} is not a parameter here; accepted are {accepted}")))
            }
        }
    }

    /// Reads a query whatever its parameters are called, for who looks for a few of them only.
    pub(crate) fn any(query: Option<&str>) -> Self {
        Self(form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned().collect())
    }

    /// The value of a parameter that may be given once.
    pub(crate) fn one(&self, name: &str) -> Result<Option<&str>, Problem> {
        let mut values = self.0.iter().filter(|(n, _)| n == name).map(|(_, value)| value.as_str());
        let first = values.next();
        match values.next() {
            None => Ok(first),
            Some(_) => Err(invalid(format!("{name}: given more than once"))),
        }
    }

    /// What the value of a parameter means that may be given once. The error of `read` says what would be accepted.
    pub(crate) fn parsed<T, E: Display>(
        &self,
        name: &str,
        read: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<Option<T>, Problem> {
        self.one(name)?.map(read).transpose().map_err(|error| invalid(format!("{name}: {error}")))
    }

    /// How many entries of a list are asked for.
    pub(crate) fn limit(&self, size: PageSize) -> Result<usize, Problem> {
        Ok(self.number("limit", 1..=size.max)?.unwrap_or(size.usual))
    }

    /// The values of a parameter that may be given many times.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// A number within bounds.
    pub(crate) fn number<N, B>(&self, name: &str, accepted: B) -> Result<Option<N>, Problem>
    where
        N: FromStr + PartialOrd + Display,
        B: RangeBounds<N> + std::fmt::Debug,
    {
        let Some(text) = self.one(name)? else { return Ok(None) };
        match text.parse::<N>() {
            Ok(number) if accepted.contains(&number) => Ok(Some(number)),
            _ => Err(invalid(format!("{name}: accepted is a number in {accepted:?}"))),
        }
    }

    /// `1`, `true`, `0` or `false`.
    pub(crate) fn flag(&self, name: &str) -> Result<bool, Problem> {
        match self.one(name)? {
            None | Some("0" | "false") => Ok(false),
            Some("1" | "true") => Ok(true),
            Some(_) => Err(invalid(format!("{name}: accepted are 1, true, 0 and false"))),
        }
    }
}

/// The header in which a client says where it was (WHATWG HTML §9.2.4).
pub(crate) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// The cursor that the client came with: the header, or one of the names in the query. An empty one
/// is none, as in EventSource.
pub(crate) fn last_event_id(in_header: Option<&HeaderValue>, query: &Query) -> Result<Option<String>, Problem> {
    let in_header = in_header.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let mut text = in_header.filter(|text| !text.is_empty());
    for name in ["last_event_id", "lastEventId", "Last-Event-ID"] {
        let in_query = query.one(name)?.filter(|text| !text.is_empty());
        text = text.or(in_query.map(str::to_owned));
    }
    Ok(text)
}

fn invalid(detail: String) -> Problem {
    Problem::new(Code::InvalidQuery, detail)
}
