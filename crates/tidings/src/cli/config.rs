//! `tidings config`

use super::{ConfigCommand, Failure, print};
use crate::config::reference;

pub(super) fn run(command: ConfigCommand) -> Result<(), Failure> {
    match command {
        ConfigCommand::Check(arguments) => {
            arguments.load(None)?;
            match &arguments.config {
                Some(file) => print(&format!("{} is valid\n", file.display())),
                None => print("the configuration (defaults and environment, no file) is valid\n"),
            }
        }
        ConfigCommand::Show(arguments) => print(&arguments.load(None)?.to_annotated_toml()),
        ConfigCommand::Reference { markdown: false } => print(reference::REFERENCE),
        ConfigCommand::Reference { markdown: true } => print(&reference::markdown()),
    }
}
