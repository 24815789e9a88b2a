//! Where the databases differ, as pieces of text.

use std::fmt::Write as _;

/// A database's way of saying things.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Dialect {
    /// SQLite.
    Sqlite,
    /// Postgres.
    Postgres,
    /// MySQL and MariaDB.
    MySql,
}

/// A column of a list that is given to a statement.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Column {
    /// Of numbers.
    Int(&'static str),
    /// Of texts.
    Text(&'static str),
}

impl Column {
    fn name(self) -> &'static str {
        match self {
            Self::Int(name) | Self::Text(name) => name,
        }
    }
}

/// That a row is the one that a list names by the first of its columns.
fn matching(list: &[Column], keys: usize) -> String {
    let equal = |column: &Column| format!("target.{0} = l.{0}", column.name());
    list.iter().take(keys).map(equal).collect::<Vec<_>>().join(" AND ")
}

impl Dialect {
    /// The statement with its parameters as this database wants them. Statements have no question mark but
    /// those.
    pub(crate) fn parameters(self, sql: &str) -> String {
        if self != Self::Postgres {
            return sql.to_owned();
        }
        let mut numbered = String::with_capacity(sql.len() + 32);
        for (number, piece) in sql.split('?').enumerate() {
            if number > 0 {
                // Writing to a string does not fail.
                let _ = write!(numbered, "${number}");
            }
            numbered.push_str(piece);
        }
        numbered
    }

    /// Locks the rows that a query answers until the transaction ends. SQLite has one writer at a time.
    pub(crate) fn for_update(self) -> &'static str {
        match self {
            Self::Sqlite => "",
            Self::Postgres | Self::MySql => " FOR UPDATE",
        }
    }

    /// The same, passing over those that somebody else has locked.
    pub(crate) fn skip_locked(self) -> &'static str {
        match self {
            Self::Sqlite => "",
            Self::Postgres | Self::MySql => " FOR UPDATE SKIP LOCKED",
        }
    }

    /// Begins an insert that passes over rows whose key is taken; see [`or_ignore`](Self::or_ignore) for
    /// its end. Only for values that fit their columns, as MySQL would then cut the others.
    pub(crate) fn insert_ignore(self) -> &'static str {
        match self {
            Self::Sqlite => "INSERT OR IGNORE",
            Self::Postgres => "INSERT",
            Self::MySql => "INSERT IGNORE",
        }
    }

    /// Ends it.
    pub(crate) fn or_ignore(self) -> &'static str {
        match self {
            Self::Sqlite | Self::MySql => "",
            Self::Postgres => " ON CONFLICT DO NOTHING",
        }
    }

    /// Ends an insert that changes the row instead if its key is taken. An insert from a SELECT needs a WHERE
    /// before this, or SQLite takes it for the condition of a join.
    pub(crate) fn on_conflict(self, key: &str) -> String {
        match self {
            Self::Sqlite | Self::Postgres => format!(" ON CONFLICT ({key}) DO UPDATE SET "),
            Self::MySql => " ON DUPLICATE KEY UPDATE ".to_owned(),
        }
    }

    /// After [`on_conflict`](Self::on_conflict): the value that the row would have had.
    pub(crate) fn excluded(self, column: &str) -> String {
        match self {
            Self::Sqlite | Self::Postgres => format!("excluded.{column}"),
            Self::MySql => format!("VALUES({column})"),
        }
    }

    /// A sum as a number: the sums of Postgres and MySQL are decimals.
    pub(crate) fn sum(self, of: &str) -> String {
        match self {
            Self::Sqlite => format!("SUM({of})"),
            Self::Postgres => format!("CAST(SUM({of}) AS BIGINT)"),
            Self::MySql => format!("CAST(SUM({of}) AS SIGNED)"),
        }
    }

    /// A literal number in a SELECT list.
    pub(crate) fn int(self, number: i64) -> String {
        match self {
            Self::Sqlite | Self::MySql => number.to_string(),
            Self::Postgres => format!("{number}::BIGINT"),
        }
    }

    /// A parameter that is a number where nothing else says so.
    pub(crate) fn int_parameter(self) -> &'static str {
        match self {
            Self::Sqlite | Self::MySql => "?",
            Self::Postgres => "?::BIGINT",
        }
    }

    /// Joins a table to what stands before it, in this order: from a list to the rows that it names.
    pub(crate) fn join(self) -> &'static str {
        match self {
            Self::Sqlite => "CROSS JOIN",
            Self::Postgres => "JOIN",
            Self::MySql => "STRAIGHT_JOIN",
        }
    }

    /// Deletes the rows of a table, `target`, that a list `l` names by these columns, and that meet a condition.
    pub(crate) fn delete_listed(self, table: &str, list: &[Column], condition: &str) -> String {
        let rows = self.list("l", list);
        let on = matching(list, list.len());
        match self {
            Self::Sqlite => {
                let keys = list.iter().map(|column| column.name()).collect::<Vec<_>>().join(", ");
                format!("DELETE FROM {table} AS target WHERE ({keys}) IN (SELECT {keys} FROM {rows}) AND {condition}")
            }
            Self::Postgres => format!("DELETE FROM {table} AS target USING {rows} WHERE {on} AND {condition}"),
            Self::MySql => {
                format!("DELETE target FROM {rows} STRAIGHT_JOIN {table} AS target ON {on} WHERE {condition}")
            }
        }
    }

    /// Changes the rows of a table, `target`, that a list `l` names by the first of its columns, and that meet
    /// a condition. Parameters: those of `set` come before the list, except in MySQL, so there should be none.
    pub(crate) fn update_listed(self, table: &str, list: &[Column], keys: usize, set: &str, condition: &str) -> String {
        let rows = self.list("l", list);
        let on = matching(list, keys);
        match self {
            Self::Sqlite | Self::Postgres => {
                format!("UPDATE {table} AS target SET {set} FROM {rows} WHERE {on} AND {condition}")
            }
            Self::MySql => {
                format!("UPDATE {rows} STRAIGHT_JOIN {table} AS target ON {on} SET {set} WHERE {condition}")
            }
        }
    }

    /// A table of one parameter: a JSON array of arrays, one for each row. So one statement takes any number
    /// of rows.
    pub(crate) fn list(self, name: &str, columns: &[Column]) -> String {
        let mut text = String::new();
        for (at, column) in columns.iter().enumerate() {
            let is_int = matches!(column, Column::Int(_));
            let column = column.name();
            let comma = if at == 0 { "" } else { ", " };
            // Writing to a string does not fail.
            let _ = match (self, is_int) {
                (Self::Sqlite, _) => write!(text, "{comma}json_extract(value, '$[{at}]') AS {column}"),
                (Self::Postgres, true) => write!(text, "{comma}(item->>{at})::BIGINT AS {column}"),
                (Self::Postgres, false) => write!(text, "{comma}item->>{at} AS {column}"),
                (Self::MySql, true) => write!(text, "{comma}{column} BIGINT PATH '$[{at}]'"),
                (Self::MySql, false) => {
                    write!(text, "{comma}{column} VARCHAR(255) CHARACTER SET utf8mb4 PATH '$[{at}]'")
                }
            };
        }
        match self {
            Self::Sqlite => format!("(SELECT {text} FROM json_each(?)) AS {name}"),
            Self::Postgres => format!("(SELECT {text} FROM jsonb_array_elements(?::JSONB) AS items(item)) AS {name}"),
            Self::MySql => format!("JSON_TABLE(?, '$[*]' COLUMNS ({text})) AS {name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_numbered_for_postgres() {
        assert_eq!(Dialect::Postgres.parameters("a = ? AND b IN (?, ?)"), "a = $1 AND b IN ($2, $3)");
        assert_eq!(Dialect::MySql.parameters("a = ?"), "a = ?");
    }
}
