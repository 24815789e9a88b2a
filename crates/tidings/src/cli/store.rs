//! `tidings store`: the tables of inboxes.

use tidings_core::ports::Store as _;
use tidings_hub::Time as _;
use tidings_store::SqlStore;

use super::{ConfigArguments, Exit, Failure, StoreCommand, print};
use crate::{clock::SystemClock, wiring::store};

pub(super) async fn run(command: StoreCommand) -> Result<(), Failure> {
    match command {
        StoreCommand::Migrate(arguments) => migrate(&arguments).await,
        StoreCommand::Status(arguments) => status(&arguments).await,
        StoreCommand::Verify(arguments) => verify(&arguments).await,
    }
}

async fn open(arguments: &ConfigArguments) -> Result<SqlStore, Failure> {
    let config = arguments.load(None)?.config;
    let opened = store::open(&config, SystemClock::new().now()).await;
    opened.map_err(|error| Failure::new(Exit::Failed, format!("{error:#}")))
}

async fn migrate(arguments: &ConfigArguments) -> Result<(), Failure> {
    let store = open(arguments).await?;
    store.close().await;
    print(&format!("the tables are of schema version {}\n", tidings_store::SCHEMA_VERSION))
}

/// Looks without changing anything, so that an operator can see what an update will do.
async fn status(arguments: &ConfigArguments) -> Result<(), Failure> {
    let config = arguments.load(None)?.config;
    let schema = store::schema(&config).await.map_err(|error| Failure::new(Exit::Failed, format!("{error:#}")))?;
    let Some(schema) = schema else { return print("there is no store yet; `tidings serve` makes it\n") };
    let mut text = format!("schema version {}; this program writes version {}\n", schema.found, schema.known);
    if schema.found == schema.known {
        let store = open(arguments).await?;
        let status = store.status().await;
        store.close().await;
        text.push_str(&format!("database {}\n", status.database));
        for (name, value) in status.gauges {
            text.push_str(&format!("{name} {value}\n"));
        }
        if let Some(trouble) = status.trouble {
            return Err(Failure::new(Exit::Failed, trouble));
        }
    }
    print(&text)
}

async fn verify(arguments: &ConfigArguments) -> Result<(), Failure> {
    let store = open(arguments).await?;
    let verified = store.verify().await;
    store.close().await;
    let verified = verified.map_err(|error| Failure::of(Exit::Failed, "the store cannot be read", &error))?;
    print(&format!("{} users, {} rows counted again\n", verified.users, verified.rows))?;
    match verified.findings.is_empty() {
        true => Ok(()),
        false => Err(Failure::new(Exit::Failed, verified.findings.join("\n"))),
    }
}
