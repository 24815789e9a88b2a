//! `tidings outbox`

use super::{Failure, OutboxCommand, print};

pub(super) fn run(command: &OutboxCommand) -> Result<(), Failure> {
    match command {
        OutboxCommand::Ddl { database, table } => print(&database.ddl(table)),
    }
}
