//! The tables, and who brings them up to date.

use tidings_core::ports::Store as _;
use tidings_store::{OpenError, SCHEMA_VERSION, Schema, SqlStore};
use tidings_testkit::databases::{DatabaseServer, Engine};

use super::fixture::{Fixture, NOW, New, On};

pub(crate) async fn opening_again_changes_nothing(on: Fixture) {
    on.accept(New::to_user("a", "kept")).await;
    on.store.close().await;
    let again = SqlStore::open(&on.config, NOW + 1).await.unwrap();
    let schema = SqlStore::schema(&on.config).await.unwrap();
    assert_eq!(schema, Schema { found: SCHEMA_VERSION, known: SCHEMA_VERSION });
    let counts = again.counts(&super::fixture::user("a"), NOW).await.unwrap();
    assert_eq!(counts.total.unread, 1);
    again.close().await;
}

pub(crate) async fn several_nodes_may_start_at_once(on: Fixture) {
    let (config, _dir) = on.another().await;
    assert_eq!(SqlStore::schema(&config).await.unwrap(), Schema { found: 0, known: SCHEMA_VERSION });
    let opening: Vec<_> = (0..6)
        .map(|_| {
            let config = config.clone();
            tokio::spawn(async move { SqlStore::open(&config, NOW).await.map(|_| ()) })
        })
        .collect();
    for opened in opening {
        opened.await.unwrap().unwrap();
    }
    assert_eq!(SqlStore::schema(&config).await.unwrap().found, SCHEMA_VERSION);
}

pub(crate) async fn tables_of_a_later_version_are_refused(on: Fixture) {
    on.store.close().await;
    let sql = "INSERT INTO tidings_schema (version, applied_at) VALUES (99, 0)";
    match on.on {
        On::Sqlite => {
            let database = rusqlite::Connection::open(on.config.data_dir.join("store.sqlite")).unwrap();
            database.execute(sql, []).unwrap();
        }
        On::Postgres | On::MariaDb => {
            let engine = if on.on == On::Postgres { Engine::Postgres } else { Engine::MariaDb };
            DatabaseServer::shared(engine).await.unwrap().sql(&on.config.url, sql).await.unwrap();
        }
    }
    let refused = SqlStore::open(&on.config, NOW).await.unwrap_err();
    assert!(matches!(refused, OpenError::NewerSchema { found: 99, known: SCHEMA_VERSION }), "{refused:?}");
    assert!(refused.to_string().contains("use the newer server"), "{refused}");
}
