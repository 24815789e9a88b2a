//! A value on its way from a file, a variable or a flag into the typed configuration.
//!
//! It has a deserializer of its own for three reasons: text from the environment takes the type
//! that the field wants, an error keeps the list of what would have been accepted, and no error
//! repeats a value that could be a secret.

use std::{collections::BTreeMap, fmt};

use serde::{
    de::{self, IntoDeserializer as _, Unexpected, Visitor, value::MapDeserializer, value::SeqDeserializer},
    forward_to_deserialize_any,
};

/// One value, or a table of them.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    /// From the environment or a flag: its type is the field's. Lists and tables are JSON.
    Text(String),
    String(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    /// TOML's dates and JSON's null: values that no key accepts.
    Other(&'static str),
    List(Vec<Node>),
    Table(BTreeMap<String, Node>),
}

impl Node {
    /// A table that holds nothing but this node, at this path.
    pub(super) fn nested_at(self, path: &[String]) -> Self {
        path.iter().rev().fold(self, |inner, segment| Self::Table(BTreeMap::from([(segment.clone(), inner)])))
    }

    /// Puts a node at a path, above what is there, and below nothing that is no table.
    pub(super) fn insert(&mut self, path: &[String], node: Node) {
        let Self::Table(table) = self else { return };
        match path {
            [] => {}
            [last] => match (table.get_mut(last), node) {
                // An empty table says that the table is there, and takes nothing away from it.
                (Some(Self::Table(_)), Self::Table(new)) if new.is_empty() => {}
                (_, node) => {
                    table.insert(last.clone(), node);
                }
            },
            [first, rest @ ..] => {
                let inner = table.entry(first.clone()).or_insert_with(|| Self::Table(BTreeMap::new()));
                inner.insert(rest, node);
            }
        }
    }

    fn what(&self) -> Unexpected<'_> {
        match self {
            Self::Text(text) | Self::String(text) => Unexpected::Str(text),
            Self::Integer(number) => Unexpected::Signed(*number),
            Self::Float(number) => Unexpected::Float(*number),
            Self::Boolean(value) => Unexpected::Bool(*value),
            Self::Other(what) => Unexpected::Other(what),
            Self::List(_) => Unexpected::Seq,
            Self::Table(_) => Unexpected::Map,
        }
    }
}

impl From<serde_json::Value> for Node {
    fn from(json: serde_json::Value) -> Self {
        use serde_json::Value;
        match json {
            Value::Null => Self::Other("null"),
            Value::Bool(value) => Self::Boolean(value),
            Value::Number(number) => match number.as_i64() {
                Some(integer) => Self::Integer(integer),
                None => Self::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(text) => Self::String(text),
            Value::Array(items) => Self::List(items.into_iter().map(Self::from).collect()),
            Value::Object(fields) => Self::Table(fields.into_iter().map(|(k, v)| (k, Self::from(v))).collect()),
        }
    }
}

/// Why a value is not accepted.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum NodeError {
    /// A key that its table does not have.
    UnknownKey {
        /// The key.
        key: String,
        /// The keys that it has.
        known: &'static [&'static str],
    },
    /// Anything else: what was found and what would be accepted.
    Refused(String),
}

impl fmt::Display for NodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownKey { key, .. } => write!(f, "there is no key `{key}`"),
            Self::Refused(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for NodeError {}

impl de::Error for NodeError {
    fn custom<T: fmt::Display>(text: T) -> Self {
        Self::Refused(text.to_string())
    }

    fn invalid_type(found: Unexpected<'_>, accepted: &dyn de::Expected) -> Self {
        Self::Refused(format!("found {}; accepted is {}", kind(found), in_words(accepted)))
    }

    fn invalid_value(found: Unexpected<'_>, accepted: &dyn de::Expected) -> Self {
        // A number cannot be a secret, and its size is what is wrong with it.
        let found = match found {
            Unexpected::Signed(number) => format!("{number}"),
            Unexpected::Unsigned(number) => format!("{number}"),
            Unexpected::Float(number) => format!("{number}"),
            other => kind(other).to_owned(),
        };
        Self::Refused(format!("found {found}; accepted is {}", in_words(accepted)))
    }

    fn invalid_length(length: usize, accepted: &dyn de::Expected) -> Self {
        Self::Refused(format!("found {length} values; accepted is {accepted}"))
    }

    fn unknown_variant(found: &str, accepted: &'static [&'static str]) -> Self {
        let accepted: Vec<_> = accepted.iter().map(|word| format!("\"{word}\"")).collect();
        Self::Refused(format!("found {found:?}; accepted are {}", accepted.join(", ")))
    }

    fn unknown_field(key: &str, known: &'static [&'static str]) -> Self {
        Self::UnknownKey { key: key.to_owned(), known }
    }
}

/// What serde says in Rust's words, in those of a configuration.
fn in_words(accepted: &dyn de::Expected) -> String {
    let said = accepted.to_string();
    match said.as_str() {
        "u8" => "a whole number from 0 to 255".to_owned(),
        "u16" => "a whole number from 0 to 65535".to_owned(),
        "u32" => "a whole number from 0 to 4294967295".to_owned(),
        "u64" | "usize" => "a whole number, 0 or more".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        "a boolean" => "`true` or `false`".to_owned(),
        "a string" => "text in quotes".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a map" => "a table".to_owned(),
        said if said.starts_with("struct ") => "a table".to_owned(),
        _ => said,
    }
}

/// The kind of a value, without the value.
fn kind(found: Unexpected<'_>) -> &'static str {
    match found {
        Unexpected::Bool(_) => "a boolean",
        Unexpected::Unsigned(_) | Unexpected::Signed(_) => "an integer",
        Unexpected::Float(_) => "a number with a fraction",
        Unexpected::Char(_) | Unexpected::Str(_) => "text",
        Unexpected::Seq => "a list",
        Unexpected::Map => "a table",
        Unexpected::Other("null") => "null",
        Unexpected::Other("a date or time") => "a date or time",
        _ => "something else",
    }
}

impl<'de> de::IntoDeserializer<'de, NodeError> for Node {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// Reads JSON from a variable, where the field wants a list or a table.
fn json(text: &str, accepted: &str) -> Result<Node, NodeError> {
    serde_json::from_str::<serde_json::Value>(text)
        .map(Node::from)
        .map_err(|_| NodeError::Refused(format!("found text that is not JSON; accepted is {accepted}")))
}

/// Deserializes a number from the environment, or hands the node on as it is.
macro_rules! number {
    ($($method:ident $type:ty, $accepted:literal, $visit:ident;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NodeError> {
            match self {
                Self::Text(text) => match text.trim().parse::<$type>() {
                    Ok(number) => visitor.$visit(number),
                    Err(_) => Err(NodeError::Refused(format!("found text; accepted is {}", $accepted))),
                },
                node => node.deserialize_any(visitor),
            }
        }
    )*};
}

impl<'de> de::Deserializer<'de> for Node {
    type Error = NodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NodeError> {
        match self {
            Self::Text(text) | Self::String(text) => visitor.visit_string(text),
            Self::Integer(number) => visitor.visit_i64(number),
            Self::Float(number) => visitor.visit_f64(number),
            Self::Boolean(value) => visitor.visit_bool(value),
            Self::Other(_) => Err(de::Error::invalid_type(self.what(), &visitor)),
            Self::List(items) => {
                let mut items = SeqDeserializer::new(items.into_iter());
                let value = visitor.visit_seq(&mut items)?;
                items.end()?;
                Ok(value)
            }
            Self::Table(fields) => visitor.visit_map(MapDeserializer::new(fields.into_iter())),
        }
    }

    number! {
        deserialize_i64 i64, "a whole number", visit_i64;
        deserialize_u8 u64, "a whole number, 0 or more", visit_u64;
        deserialize_u16 u64, "a whole number, 0 or more", visit_u64;
        deserialize_u32 u64, "a whole number, 0 or more", visit_u64;
        deserialize_u64 u64, "a whole number, 0 or more", visit_u64;
        deserialize_f64 f64, "a number", visit_f64;
        deserialize_bool bool, "`true` or `false`", visit_bool;
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NodeError> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, NodeError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NodeError> {
        match self {
            Self::Text(text) => json(&text, "a JSON list, as in [\"a\",\"b\"]")?.deserialize_any(visitor),
            node => node.deserialize_any(visitor),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, NodeError> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, NodeError> {
        match self {
            Self::Text(text) => json(&text, "a JSON object, as in {\"key\":\"value\"}")?.deserialize_any(visitor),
            node => node.deserialize_any(visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, NodeError> {
        match self {
            // serde would take the fields of a struct from a list too, by their order.
            Self::List(_) => Err(NodeError::Refused("found a list; accepted is a table".to_owned())),
            node => node.deserialize_map(visitor),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, NodeError> {
        match self {
            Self::Text(text) | Self::String(text) => visitor.visit_enum(text.into_deserializer()),
            node => Err(NodeError::Refused(format!("found {}; accepted is text", kind(node.what())))),
        }
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i128 u128 f32 char str string bytes byte_buf unit unit_struct tuple_struct identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    fn text<T: for<'de> Deserialize<'de>>(text: &str) -> Result<T, String> {
        T::deserialize(Node::Text(text.to_owned())).map_err(|e| e.to_string())
    }

    #[test]
    fn text_takes_the_type_of_the_field() {
        assert_eq!(text::<u32>("5"), Ok(5));
        assert_eq!(text::<String>("5"), Ok("5".to_owned()));
        assert_eq!(text::<Option<String>>("true"), Ok(Some("true".to_owned())));
        assert_eq!(text::<bool>("true"), Ok(true));
        assert_eq!(text::<f64>("0.5"), Ok(0.5));
        assert_eq!(text::<Vec<String>>(r#"["a"]"#), Ok(vec!["a".to_owned()]));
        assert_eq!(text::<u32>("-5"), Err("found text; accepted is a whole number, 0 or more".to_owned()));
        assert_eq!(
            text::<u32>("4294967296").unwrap_err(),
            "found 4294967296; accepted is a whole number from 0 to 4294967295"
        );
        assert!(text::<Vec<String>>("a").unwrap_err().contains("JSON list"));
    }

    #[test]
    fn an_error_does_not_repeat_text() {
        let said = u32::deserialize(Node::String("hunter2".to_owned())).unwrap_err().to_string();
        assert_eq!(said, "found text; accepted is a whole number from 0 to 4294967295");
        let said = String::deserialize(Node::Integer(271_828)).unwrap_err().to_string();
        assert_eq!(said, "found an integer; accepted is text in quotes");
    }
}
